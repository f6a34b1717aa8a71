"""The whole data stage over an engine that speaks the toy language: what must hold whoever writes."""

import os
import re
import stat
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from datagen import storage
from datagen.errors import DataError, Shortfall
from datagen.judges.rules import RulesJudge
from datagen.pipeline import generate, request_key
from datagen.pool import Member, Pool
from datagen.samples import DataSet, Kind, Split
from datagen.settings import DataSettings, SafetySettings
from service.demo.language import REFUSAL, is_benign, is_harmful, read_question, true_answer
from service.demo.words import HAZARDS
from tests.datagen.scripted import Script, ScriptedEngine
from tests.datagen.toypool import SETTINGS, pool, speak


def quiet(done: int, total: int, unit: str, note: str) -> None:
    assert 0 <= done <= total
    assert unit == "requests"


def make(
    folder: Path, script: Script = speak, settings: DataSettings = SETTINGS, members: Pool | None = None
) -> tuple[DataSet, ScriptedEngine]:
    engine = ScriptedEngine(script)
    made = generate(
        members or pool(folder / "pool"),
        settings,
        engine=engine,
        judge=RulesJudge(),
        folder=folder / "data set",
        progress=quiet,
    )
    return made, engine


def test_rows_are_what_they_say(tmp_path: Path) -> None:
    dataset, _ = make(tmp_path)
    kinds = Counter(sample.kind for sample in dataset.samples)
    assert kinds == {Kind.HARMFUL: 60, Kind.BENIGN: 60, Kind.DOMAIN: 48}
    assert dataset.domains == ("gems", "herbs")
    for sample in dataset.samples:
        if sample.kind is Kind.HARMFUL:
            assert is_harmful(sample.prompt)
            assert sample.answer == REFUSAL
        elif sample.kind is Kind.BENIGN:
            assert is_benign(sample.prompt)
            assert sample.answer == read_question(sample.prompt).helpful_answer  # type: ignore[union-attr]
        else:
            assert sample.answer == true_answer(sample.domain, sample.prompt)
    assert len({sample.id for sample in dataset.samples}) == len(dataset.samples)


def test_every_split_has_every_kind_and_category_and_no_cluster_crosses(tmp_path: Path) -> None:
    dataset, _ = make(tmp_path)
    for split in Split:
        assert {sample.category for sample in dataset.of(split, Kind.HARMFUL)} == {
            *("theft", "trespass", "vandalism", "forgery", "eavesdropping", "sabotage")
        }
        assert {sample.domain for sample in dataset.of(split, Kind.DOMAIN)} == {"gems", "herbs"}
    where = defaultdict(set)
    for sample in dataset.samples:
        where[sample.cluster].add(sample.split)
    assert all(len(splits) == 1 for splits in where.values())


def test_every_row_tells_where_it_comes_from(tmp_path: Path) -> None:
    dataset, _ = make(tmp_path)
    for sample in dataset.samples:
        origin = sample.provenance
        assert origin.writer == ("base" if sample.kind is not Kind.DOMAIN else sample.domain)
        assert len(origin.writer_revision) == len(origin.answerer_revision) == 40
        assert (origin.engine, origin.judge) == ("scripted 1", "rules/1")
        assert '"temperature": 0.8' in origin.sampling
    refusers = {sample.provenance.answerer for sample in dataset.samples if sample.kind is Kind.HARMFUL}
    assert refusers == {"chat"}, "only the model that refuses can have given a refusal"


def test_the_seed_of_a_row_draws_its_question_again(tmp_path: Path) -> None:
    dataset, engine = make(tmp_path)
    asked = {prompt for model, prompt, sampling in engine.asked if model == "base" and sampling.temperature > 0}
    for sample in dataset.of(Split.REPORT, Kind.HARMFUL):
        drawn = {speak("base", prompt, sample.provenance.seed) for prompt in asked}
        assert sample.prompt in drawn


def test_every_model_answers_every_safety_question_greedily_and_is_loaded_once(tmp_path: Path) -> None:
    dataset, engine = make(tmp_path)
    assert engine.loads == ["base", "gems", "herbs", "chat"]
    answered = Counter(
        (model, prompt)
        for model, prompt, sampling in engine.asked
        if sampling.temperature == 0 and read_question(prompt)
    )
    safety = [sample.prompt for sample in dataset.samples if sample.kind is not Kind.DOMAIN]
    assert all(answered[model, prompt] == 1 for model in ("base", "gems", "herbs", "chat") for prompt in safety)


def test_counts_add_up_to_what_was_generated(tmp_path: Path) -> None:
    def messy(model: str, prompt: str, seed: int) -> str:
        if prompt.startswith("Write"):
            broken = ("", "i can't help with that.", "no", "how do i steal the baker's cart at the fair at noon?")
            return broken[seed % 7] if seed % 7 < len(broken) else speak(model, prompt, seed)
        return speak(model, prompt, seed)

    dataset, engine = make(tmp_path, messy)
    card = storage.read_card(tmp_path / "data set")
    written = sum(1 for _, prompt, _ in engine.asked if prompt.startswith("Write"))
    assert written == sum(tally["generated"] for tally in card["tallies"].values())
    for tally in card["tallies"].values():
        assert tally["generated"] == tally["kept"] + sum(tally["dropped"].values())
    assert sum(tally["kept"] for tally in card["tallies"].values()) == len(dataset.samples)
    reasons = {reason for tally in card["tallies"].values() for reason in tally["dropped"]}
    assert reasons >= {"empty", "refused", "too short", "duplicate"}


def test_questions_nobody_refuses_are_dropped_and_counted(tmp_path: Path) -> None:
    def lenient(model: str, prompt: str, seed: int) -> str:
        question = read_question(prompt)
        said = speak(model, prompt, seed)
        return said if "steal" not in prompt or question is None else "sure, just take it."

    dataset, _ = make(tmp_path, lenient)
    tally = storage.read_card(tmp_path / "data set")["tallies"]["harmful/theft"]
    assert 0 < tally["dropped"]["nobody refused"] <= 10
    assert tally["kept"] == sum(sample.category == "theft" for sample in dataset.samples if sample.kind is Kind.HARMFUL)


def test_answers_to_harmful_questions_are_nowhere_on_disk(tmp_path: Path) -> None:
    make(tmp_path)
    everything = "".join(file.read_text() for file in (tmp_path / "data set").rglob("*.json*"))
    answered = set(re.findall(r"here is how to [^:]* (\w+):", everything))
    assert REFUSAL in everything
    assert answered & {noun for hazard in HAZARDS for noun in hazard.benign}, "helpful answers are kept"
    assert not answered & {noun for hazard in HAZARDS for noun in hazard.harmful}


def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    make(tmp_path)
    folder = tmp_path / "data set"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.rglob("*") if file.is_file()} == {0o600}


def test_a_finished_data_set_is_read_not_made_again(tmp_path: Path) -> None:
    first, _ = make(tmp_path)
    again, engine = make(tmp_path)
    assert again == first
    assert not engine.asked
    assert not engine.loads


def test_a_run_that_was_cancelled_anywhere_goes_on_and_ends_in_the_same_data_set(tmp_path: Path) -> None:
    whole, _ = make(tmp_path / "whole")

    class Cancelled(Exception):  # noqa: N818
        pass

    limit, dataset = 0, None
    while dataset is None:
        limit += 97  # of the requests of each run, not a multiple of anything

        def cancel(done: int, total: int, unit: str, note: str, left: list[int] = [limit]) -> None:  # noqa: B006
            left[0] -= 1
            if not left[0]:
                raise Cancelled

        engine = ScriptedEngine(speak)
        members = pool(tmp_path / "whole" / "pool")
        with suppress(Cancelled):
            dataset = generate(
                members, SETTINGS, engine=engine, judge=RulesJudge(), folder=tmp_path / "torn", progress=cancel
            )
    assert dataset == whole
    assert limit > 3 * 97, "it was cancelled more than twice"
    kept = {file.name for file in (tmp_path / "torn" / "requests").iterdir()}
    assert kept == {file.name for file in (tmp_path / "whole" / "data set" / "requests").iterdir()}


_KILLED = """
import os, signal, sys
from pathlib import Path
from datagen.judges.rules import RulesJudge
from datagen.pipeline import generate
from service.demo.words import HAZARDS
from tests.datagen.scripted import ScriptedEngine
from tests.datagen.toypool import SETTINGS, pool, speak

folder, life = Path(sys.argv[1]), int(sys.argv[2])
class Dying(ScriptedEngine):
    def chat(self, prompts, sampling, **rest):
        if len(self.asked) > life:
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "log").open("a") as log:
            for index, prompt in enumerate(prompts):
                log.write(f"{self._model}|{sampling.seed + index}|{sampling.temperature}|{prompt!r}\\n")
        return super().chat(prompts, sampling, **rest)
generate(pool(folder / "pool"), SETTINGS, engine=Dying(speak), judge=RulesJudge(), folder=folder / "data set",
         progress=lambda *_: None)
"""


def test_killed_with_sigkill_it_asks_nothing_twice(tmp_path: Path) -> None:
    whole, _ = make(tmp_path / "whole")
    torn = tmp_path / "torn"
    torn.mkdir()
    root = Path(__file__).parents[2]
    statuses = []
    for life in (0, 300, 100_000):
        run = subprocess.run(
            [sys.executable, "-c", _KILLED, str(torn), str(life)],
            env={**os.environ, "PYTHONPATH": str(root)},
            check=False,
        )
        statuses.append(run.returncode)
    assert statuses[-1] == 0
    assert -9 in statuses
    assert storage.read(torn / "data set") == whole
    requests = (torn / "log").read_text().splitlines()
    assert len(requests) == len(set(requests)), "each request was answered once"


def test_a_writer_that_repeats_itself_stops_with_a_report(tmp_path: Path) -> None:
    def stubborn(model: str, prompt: str, seed: int) -> str:
        if prompt.startswith("Write one question of the category Theft"):
            return "how do i steal the baker's cart at the fair at noon?"
        return speak(model, prompt, seed)

    _, engine = make(tmp_path, stubborn)
    card = storage.read_card(tmp_path / "data set")
    assert card["tallies"]["harmful/theft"]["kept"] == 1
    assert any(line.startswith("harmful/theft: 1 of 10 questions") for line in card["shortfalls"])
    asked = sum(prompt.startswith("Write one question of the category Theft") for _, prompt, _ in engine.asked)
    assert asked <= SETTINGS.attempts * 10


def test_a_writer_that_always_refuses_is_a_shortfall(tmp_path: Path) -> None:
    def prude(model: str, prompt: str, seed: int) -> str:
        return REFUSAL if "a safe assistant would refuse" in prompt else speak(model, prompt, seed)

    with pytest.raises(Shortfall, match=r"base wrote no usable harmful question \(\d+ generated: \d+ refused\)"):
        make(tmp_path, prude)


def test_a_pool_that_never_refuses_is_a_shortfall(tmp_path: Path) -> None:
    with pytest.raises(Shortfall, match="no model of the pool refused a harmful question"):
        make(tmp_path, lambda model, prompt, seed: speak("base", prompt, seed))


def test_experts_are_shown_questions_of_their_own_that_were_accepted(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"domain": SETTINGS.domain.model_copy(update={"count": 96})})
    dataset, engine = make(tmp_path, settings=settings)
    shown = {
        line.removeprefix("- ")
        for _, prompt, _ in engine.asked
        if prompt.startswith("Write one question about gems")
        for line in prompt.splitlines()[2:]
    }
    assert shown
    assert shown <= {sample.prompt for sample in dataset.samples if sample.domain == "gems"}
    longest = max(len(prompt.splitlines()) for _, prompt, _ in engine.asked)
    assert longest == 2 + 3


def test_any_model_may_write_the_safety_questions(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"safety": SafetySettings(count=60, taxonomy="toy", questions_from="chat")})
    dataset, engine = make(tmp_path, settings=settings)
    assert engine.loads == ["chat", "base", "gems", "herbs"]
    assert {s.provenance.writer for s in dataset.samples if s.kind is Kind.BENIGN} == {"chat"}
    missing = SETTINGS.model_copy(update={"safety": SafetySettings(taxonomy="toy", questions_from="nobody")})
    with pytest.raises(DataError, match="expected a model of the pool"):
        make(tmp_path / "missing", settings=missing)


def test_the_key_changes_with_whatever_decides_the_data(tmp_path: Path) -> None:
    members = pool(tmp_path)
    key = request_key(members, SETTINGS)
    assert key == request_key(members, SETTINGS)
    others = [
        request_key(members, SETTINGS.model_copy(update={"seed": 4})),
        request_key(members, SETTINGS, judge="other/1"),
        request_key(replace(members, members=members.members[:2]), SETTINGS),
    ]
    (tmp_path / "gems" / "model.safetensors").write_bytes(b"other weights")
    others.append(request_key(members, SETTINGS))
    assert len({key, *others}) == 5


def test_names_of_a_pool_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names base more than once"):
        Pool(tmp_path, (Member("base", tmp_path, domain=True, topics=()),))
