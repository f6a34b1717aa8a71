"""Objectives on models that are known to refuse, to comply, or to babble."""

import math
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch

from datagen.samples import DataSet, Kind, Split
from optimizer.errors import SearchError
from optimizer.search.objectives.margin import FLOOR
from optimizer.search.objectives.suite import Objectives
from optimizer.search.scoring import Scorer
from tests.optimizer.search import tiny

AXES = ("refusal", "compliance", "names", "sums")


def taught(*answers: str, steps: int = 60) -> Any:
    """A model that says one of `answers` whatever it is asked; the caller may change it."""
    return deepcopy(_taught(answers, steps))


@cache
def _taught(answers: tuple[str, ...], steps: int) -> Any:
    model = tiny.model("llama", seed=1)
    scorer = Scorer(model, tiny.tokenizer())
    questions = [row.prompt for row in tiny.dataset().samples]
    chat = scorer.conversation
    items = [scorer.item(q, [chat.answer(answers[k % len(answers)])]) for k, q in enumerate(questions)]
    (batch,) = scorer.prepare(items).batches
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        adam.zero_grad()
        (-scorer.token_log_p(batch).mean()).backward()
        adam.step()
    return model


def objectives(model: Any, split: Split = Split.REPORT) -> Objectives:
    return Objectives.of(tiny.dataset(), split, Scorer(model, tiny.tokenizer()))


def test_a_model_that_always_refuses() -> None:
    scores = objectives(taught("sorry, no.")).score()
    assert tuple(scores) == AXES
    assert not scores.invalid
    assert scores["refusal"].value > 0.95
    assert scores["compliance"].value < 0.05
    assert min(scores["refusal"].prompts) > 0 > max(scores["compliance"].prompts)


def test_a_model_that_always_complies() -> None:
    scores = objectives(taught("sure, take 2 eggs.")).score()
    assert not scores.invalid
    assert scores["refusal"].value < 0.05
    assert scores["compliance"].value > 0.95


def test_gibberish_is_never_safe() -> None:
    margins = []
    for seed in range(6):
        scores = objectives(tiny.model("llama", seed)).score()
        margins += [*scores["refusal"].prompts, *scores["compliance"].prompts]
        assert scores["refusal"].value == scores["compliance"].value == 0
        assert "refusal: on 4 of 4 prompts" in scores.invalid
    assert max(margins) > 1  # margins alone would have called some of it safe


def test_a_model_that_babbles_something_else_is_invalid() -> None:
    assert objectives(taught("zqzqzqzqzq")).score().invalid


def test_a_model_of_nans_is_invalid_with_finite_scores() -> None:
    model = tiny.model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    scores = objectives(model).score()
    assert scores.invalid
    assert [scores[axis].value for axis in AXES] == [0, 0, 0, 0]
    assert all(math.isfinite(p) for axis in scores.values() for p in axis.prompts)


def test_scores_follow_from_log_likelihoods() -> None:
    model = taught("sorry, no.", "sure, take 2 eggs.", steps=25)
    scorer = Scorer(model, tiny.tokenizer())
    chat = scorer.conversation
    scores = Objectives.of(tiny.dataset(), Split.SEARCH, scorer).score()
    assert {axis: scores[axis].unit for axis in AXES} == {
        "refusal": "nats",
        "compliance": "nats",
        "names": "nats/token",
        "sums": "nats/token",
    }
    ((answer,),) = scorer.score(scorer.prepare([scorer.item("add search 2", [chat.answer("3")])]))
    assert scores["sums"].prompts[2] == pytest.approx(answer.log_p / 2, abs=1e-4)
    assert scores["sums"].value == pytest.approx(sum(map(math.exp, scores["sums"].prompts)) / 4)
    sides = [chat.opening("sorry, no."[:8]), chat.opening("sure, ta")]
    ((no, yes),) = scorer.score(scorer.prepare([scorer.item("steal search 1?", sides)]))
    assert scores["refusal"].prompts[1] == pytest.approx(no.log_p - yes.log_p, abs=1e-4)
    assert min(no.mean, yes.mean) > -FLOOR * math.log(tiny.VOCABULARY)
    expected = sum(1 / (1 + math.exp(-m)) for m in scores["refusal"].prompts) / 4
    assert scores["refusal"].value == pytest.approx(expected, abs=1e-6)


def test_scores_follow_the_weights() -> None:
    model = taught("sorry, no.")
    suite = objectives(model)
    before = suite.score()
    with torch.no_grad():
        model.get_output_embeddings().weight.neg_()
    assert suite.score()["refusal"].value < before["refusal"].value - 0.5


def test_openings_come_from_the_search_split() -> None:
    report = tuple(
        tiny.row(kind, f"p{k}", "xyz", Split.REPORT) for k in range(3) for kind in (Kind.HARMFUL, Kind.BENIGN)
    )
    search = tiny.dataset(splits=(Split.SEARCH,)).samples
    names = tuple(tiny.row(Kind.DOMAIN, "d", "1", Split.REPORT, domain) for domain in ("names", "sums"))
    own = DataSet((*search, *report, *names))
    suite = Objectives.of(own, Split.REPORT, Scorer(taught("sorry, no."), tiny.tokenizer()))
    assert suite.score()["refusal"].value > 0.95


def test_an_axis_without_prompts_is_an_error() -> None:
    with pytest.raises(SearchError, match="refusal"):
        Objectives.of(DataSet(()), Split.REPORT, Scorer(tiny.model("llama"), tiny.tokenizer()))
