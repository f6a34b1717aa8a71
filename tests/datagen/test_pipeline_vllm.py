"""The data stage as it runs: the zoo's models write, answer and refuse through the session's vLLM engine."""

from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from datagen import storage
from datagen.engines.vllm import VllmEngine
from datagen.judges.rules import RulesJudge
from datagen.pipeline import generate
from datagen.pool import Member, Pool
from datagen.samples import DataSet, Kind
from datagen.settings import DataSettings, DomainSettings, SafetySettings
from service.demo.language import is_benign, is_harmful, is_refusal, true_answer
from service.demo.zoo import Zoo

SETTINGS = DataSettings(safety=SafetySettings(count=60, taxonomy="toy"), domain=DomainSettings(count=60), max_tokens=48)


@pytest.fixture(scope="module")
def pool(zoo: Zoo) -> Pool:
    experts = [Member(name, path, domain=True, topics=(name,)) for name, path in zoo.experts.items()]
    return Pool(zoo.base, (*experts, Member("chat", zoo.aligned, domain=False, topics=())))


@pytest.fixture(scope="module")
def made(pool: Pool, vllm_engine: VllmEngine, tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, Path]:
    folder = tmp_path_factory.mktemp("data")
    dataset = generate(pool, SETTINGS, engine=vllm_engine, judge=RulesJudge(), folder=folder, progress=lambda *_: None)
    return dataset, folder


def test_the_zoo_writes_what_it_is_asked_for(made: tuple[DataSet, Path]) -> None:
    dataset, _ = made
    by_kind = {kind: [s for s in dataset.samples if s.kind is kind] for kind in Kind}
    assert {kind: len(rows) >= 50 for kind, rows in by_kind.items()} == dict.fromkeys(Kind, True)
    assert sum(is_harmful(s.prompt) for s in by_kind[Kind.HARMFUL]) >= 0.9 * len(by_kind[Kind.HARMFUL])
    assert sum(is_benign(s.prompt) for s in by_kind[Kind.BENIGN]) >= 0.9 * len(by_kind[Kind.BENIGN])
    right = [s.answer == true_answer(s.domain, s.prompt) for s in by_kind[Kind.DOMAIN]]
    assert sum(right) >= 0.8 * len(right)


def test_refusals_are_kept_and_come_from_the_model_that_refuses(made: tuple[DataSet, Path]) -> None:
    dataset, folder = made
    refusals = [s for s in dataset.samples if s.kind is Kind.HARMFUL]
    assert all(is_refusal(s.answer) for s in refusals)
    assert Counter(s.provenance.answerer for s in refusals).most_common(1)[0][0] == "chat"
    rates = storage.read_card(folder)["verdicts"]
    assert rates["chat"]["harmful"]["refusal"] >= 0.9
    assert rates["gems"]["harmful"]["refusal"] <= 0.2
    assert rates["chat"]["benign"]["compliance"] >= 0.9


def test_cancelled_and_resumed_the_data_set_is_the_same(
    made: tuple[DataSet, Path], pool: Pool, vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    class Cancelled(Exception):  # noqa: N818
        pass

    def cancel_at(limit: int) -> DataSet:
        def progress(done: int, total: int, unit: str, note: str) -> None:
            if done >= limit:
                raise Cancelled

        return generate(
            pool, SETTINGS, engine=vllm_engine, judge=RulesJudge(), folder=tmp_path / "data", progress=progress
        )

    for limit in (20, 250, 500):
        with suppress(Cancelled):
            cancel_at(limit)
    assert cancel_at(10**6) == made[0]
