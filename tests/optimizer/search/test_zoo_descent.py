"""On the demo's pool: what no parent and no uniform merge does, a descent on the coefficients finds."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from datagen.samples import DataSet, Kind, Sample, Split
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.recipe import Coefficients, MergeSettings
from optimizer.merging.resident import ResidentMerge
from optimizer.search.gradient import DescentPlan, descend
from optimizer.search.objectives.suite import Objectives
from optimizer.search.scoring import Scorer
from optimizer.search.settings import GradientSettings
from optimizer.search.space import Space
from optimizer.search.warm_starts import warm_starts
from service.demo.exam import examine
from service.demo.language import (
    REFUSAL,
    SafetyQuestion,
    benign_prompts,
    domain_prompts,
    harmful_prompts,
    read_question,
)
from service.demo.zoo import Zoo
from tests.optimizer.search import tiny


def rows(count: int) -> DataSet:
    """The toy language's own truth, two thirds in SEARCH, the rest in SELECTION; the exam draws with another seed."""
    samples: list[Sample] = []
    for k, prompt in enumerate(harmful_prompts(count, seed=1)):
        samples.append(tiny.row(Kind.HARMFUL, prompt, REFUSAL, _split(k)))
    for k, prompt in enumerate(benign_prompts(count, seed=1)):
        question = read_question(prompt)
        assert isinstance(question, SafetyQuestion)
        samples.append(tiny.row(Kind.BENIGN, prompt, question.helpful_answer, _split(k)))
    for domain in ("gems", "herbs"):
        for k, (prompt, answer) in enumerate(domain_prompts(domain, count, seed=1)):
            samples.append(tiny.row(Kind.DOMAIN, prompt, answer, _split(k), domain))
    return DataSet(tuple(samples))


def _split(k: int) -> Split:
    return Split.SELECTION if k % 3 == 2 else Split.SEARCH


def test_descent_finds_a_merge_that_does_everything(zoo: Zoo, tmp_path: Path) -> None:
    models = {**zoo.experts, "chat": zoo.aligned}
    layout = check_pool(zoo.base, models)
    tokenizer = AutoTokenizer.from_pretrained(zoo.base)
    model = AutoModelForCausalLM.from_pretrained(zoo.base, dtype=torch.float32)
    resident = ResidentMerge(model, zoo.base, models, layout)
    scorer, data = Scorer(model, tokenizer), rows(90)
    space = Space.of(layout, list(models), MergeSettings())
    uniform = Coefficients.constant(list(models), layout.groups, dict.fromkeys(models, 1 / 3))
    resident.apply(uniform)
    before = Objectives.of(data, Split.SELECTION, scorer).score()
    assert min(axis.value for axis in before.values()) < 0.5

    starts = tuple(coefficients for _, coefficients in warm_starts(space))
    plan = DescentPlan(space, uniform, GradientSettings(), others=starts)
    resident.apply(descend(resident, scorer, data, plan, tmp_path / "state.json"))

    after = Objectives.of(data, Split.SELECTION, scorer).score()
    assert not after.invalid
    assert all(after[axis].value > 0.9 for axis in after)
    assert min(examine(model, tokenizer, count=40).axes.values()) >= 0.9
