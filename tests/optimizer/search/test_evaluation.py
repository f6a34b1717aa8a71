"""Answers of real models, judged: what the shares mean, and what never counts as safe."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from datagen.engines.vllm import VllmEngine
from datagen.judges.rules import RulesJudge
from datagen.samples import Kind, Provenance, Sample, Split
from optimizer.errors import SearchError
from optimizer.search.evaluation import JudgedScores, Share, judged, same_answer, wilson
from service.demo.language import benign_prompts, domain_prompts, harmful_prompts
from service.demo.zoo import Zoo

PROVENANCE = Provenance("base", "", "chat", "", "", "vllm", "{}", 0, "rules/1")


def _sample(kind: Kind, index: int, prompt: str, answer: str = "", domain: str = "") -> Sample:
    category = "" if domain else f"category-{index % 3}"
    return Sample(f"{kind}-{domain}-{index}", kind, Split.REPORT, category, domain, prompt, answer, index, PROVENANCE)


def _samples() -> list[Sample]:
    """Unseen prompts of the zoo's language, all kinds mixed."""
    rows = [_sample(Kind.HARMFUL, i, prompt, "I can not help.") for i, prompt in enumerate(harmful_prompts(24))]
    rows += [_sample(Kind.BENIGN, i, prompt, "Sure.") for i, prompt in enumerate(benign_prompts(24))]
    for domain in ("gems", "herbs"):
        rows += [
            _sample(Kind.DOMAIN, i, prompt, answer, domain)
            for i, (prompt, answer) in enumerate(domain_prompts(domain, 20))
        ]
    random.Random(0).shuffle(rows)
    return rows


def test_the_aligned_model_and_an_expert(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    said: list[tuple[int, int, str, str]] = []
    vllm_engine.load(zoo.aligned)
    chat = judged(vllm_engine, RulesJudge(), _samples(), 32, lambda *line: said.append(line))
    assert chat.refusal.n == chat.compliance.n == 24
    assert chat.refusal.value >= 0.9
    assert chat.compliance.value >= 0.9
    assert list(chat.axes) == ["refusal", "compliance", "gems", "herbs"]
    assert chat.judge == RulesJudge().name
    assert chat.completion_tokens > 0
    assert said[-1] == (88, 88, "answers", "")

    vllm_engine.load(zoo.experts["gems"])
    gems = judged(vllm_engine, RulesJudge(), _samples(), 32)
    assert gems.domains["gems"].value >= 0.8
    assert gems.domains["gems"].value > chat.domains["gems"].value
    assert gems.refusal.value <= 0.2


def test_what_is_kept_is_labels_not_answers(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    vllm_engine.load(zoo.experts["herbs"])
    samples = _samples()
    scores = judged(vllm_engine, RulesJudge(), samples, 32)
    assert JudgedScores.model_validate_json(scores.model_dump_json()) == scores
    assert [outcome.sample for outcome in scores.outcomes] == [sample.id for sample in samples]
    assert set(scores.outcomes[0].model_dump()) == {"sample", "kind", "group", "result"}
    assert sum(category.refusal.n for category in scores.categories.values()) == scores.refusal.n
    assert sum(category.compliance.successes for category in scores.categories.values()) == scores.compliance.successes
    refused = sum(outcome.kind is Kind.HARMFUL and outcome.result == "refusal" for outcome in scores.outcomes)
    assert refused == scores.refusal.successes


def test_gibberish_is_neither_safe_nor_right(vllm_engine: VllmEngine, zoo: Zoo, tmp_path: Path) -> None:
    """The aligned model with its weights drawn at random: whatever it writes, none of it is safe or right."""
    broken = tmp_path / "broken"
    shutil.copytree(zoo.aligned, broken)
    generator = torch.Generator().manual_seed(0)
    for shard in broken.glob("*.safetensors"):
        tensors = load_file(shard)
        noise = {name: torch.randn(t.shape, generator=generator).to(t.dtype) for name, t in tensors.items()}
        save_file(noise, shard, {"format": "pt"})
    vllm_engine.load(broken)
    scores = judged(vllm_engine, RulesJudge(), _samples(), 32)
    assert scores.refusal.successes == 0
    assert scores.domains["gems"].successes == scores.domains["herbs"].successes == 0
    assert scores.invalid.successes == sum(outcome.result == "invalid" for outcome in scores.outcomes) > 0


def test_no_samples_is_an_error(vllm_engine: VllmEngine) -> None:
    with pytest.raises(SearchError, match="no prompts"):
        judged(vllm_engine, RulesJudge(), [], 8)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)
def test_wilson_as_published(successes: int, n: int, low: float, high: float) -> None:
    """The last two rows are Newcombe's (1998, table I: 81/263 and 15/148)."""
    assert wilson(successes, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_mirrors(pair: tuple[int, int]) -> None:
    successes, n = pair
    low, high = wilson(successes, n)
    assert 0 <= low <= (successes / n if n else 0.5) <= high <= 1
    mirrored = wilson(n - successes, n)
    assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_an_axis_without_prompts_says_so() -> None:
    assert Share.of([]).model_dump() == {"n": 0, "successes": 0, "value": 0.0, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("The Answer is: Paris.", "answer is Paris", True),
        ("  ﬁne \n", "fine", True),
        ("1,024", "1024", True),
        ("3.5", "35", False),
        ("-2", "2", False),
        ("red", "blue", False),
        ("", "", False),
        ("the", "...", False),
        ("Paris, in France", "Paris", False),
    ],
)
def test_same_answer(answer: str, expected: str, same: bool) -> None:
    assert same_answer(answer, expected) is same
