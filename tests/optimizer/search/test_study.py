"""A search loses nothing and repeats nothing: on SQLite and PostgreSQL, through kills, with several workers."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from optimizer.errors import SearchError
from optimizer.merging.recipe import Coefficients
from optimizer.search.objectives.base import AxisScores, Scores
from optimizer.search.samplers import resolve
from optimizer.search.storage import create_storage, opened
from optimizer.search.study import Crew, run_study
from tests.optimizer.search.searching import AXES, FileLog, append, lines, plan, score, space, warm
from tests.service.postgres import Postgres, running

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:optuna")  # announced for Optuna 6

SAMPLERS = ("tpe", "cmaes", "nsgaii", "gp", "random", "qmc")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database with Optuna's tables."""
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path / 'temper.db'}"
    else:
        address = request.getfixturevalue("postgres").create()
    create_storage(address)
    return address


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    address = f"sqlite:///{tmp_path / 'temper.db'}"
    create_storage(address)
    return address


def _process(url: str, folder: Path, **options: object) -> subprocess.Popen[str]:
    arguments = [f"{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", "tests.optimizer.search.searching", url, str(folder), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])


def _undisturbed(folder: Path, **settings: object) -> dict[int, Coefficients]:
    """What the same search proposes when nothing happens to it: number → coefficients."""
    folder.mkdir()
    address = f"sqlite:///{folder / 'temper.db'}"
    create_storage(address)
    log = FileLog(folder)
    run_study(address, plan(**settings), score, log)
    return {number: record.coefficients for number, record in log.finished().items()}


def _told(url: str) -> dict[int, optuna.trial.FrozenTrial]:
    with opened(url) as storage:
        study = optuna.load_study(study_name="a search", storage=storage)
        return {t.number: t for t in study.get_trials() if t.state is not optuna.trial.TrialState.FAIL}


def _assert_whole(url: str, folder: Path, trials: int = 12) -> None:
    """Every trial is recorded once and told to Optuna with the scores and coefficients of its record."""
    records = FileLog(folder).finished()
    told = _told(url)
    assert len(records) == trials
    assert sorted(told) == sorted(records)
    for number, record in records.items():
        assert told[number].state is optuna.trial.TrialState.COMPLETE
        assert told[number].values == [record.scores[axis] for axis in AXES]
        assert list(told[number].params.values()) == pytest.approx(space().values(record.coefficients))


# -- one worker -------------------------------------------------------------------------------------------------------


def test_warm_starts_are_the_first_trials(url: str, tmp_path: Path) -> None:
    said: list[tuple[int, int, str, str]] = []
    run_study(url, plan(), score, FileLog(tmp_path), lambda *line: said.append(line))
    records = FileLog(tmp_path).finished()
    assert [records[i].origin for i in range(4)] == ["model:bio", "model:chat", "uniform", "tpe"]
    assert [records[i].coefficients for i in range(3)] == [coefficients for _, coefficients in warm()]
    assert records[0].scores == {axis: scores.value for axis, scores in score(warm()[0][1]).items()}
    assert records[0].prompt_scores["refusal"] == list(score(warm()[0][1])["refusal"].prompts)
    assert said[0] == (0, 12, "trials", "")
    assert said[-1][:3] == (12, 12, "trials")
    _assert_whole(url, tmp_path)


def test_a_finished_search_does_nothing_more_and_more_trials_go_on(sqlite: str, tmp_path: Path) -> None:
    run_study(sqlite, plan(), score, FileLog(tmp_path))
    run_study(sqlite, plan(), score, FileLog(tmp_path))
    _assert_whole(sqlite, tmp_path)
    run_study(sqlite, plan(trials=15), score, FileLog(tmp_path))
    _assert_whole(sqlite, tmp_path, 15)


def test_a_second_run_may_bring_more_warm_starts(sqlite: str, tmp_path: Path) -> None:
    run_study(sqlite, plan(trials=3), score, FileLog(tmp_path))
    found = (
        "gradient:balanced",
        Coefficients.constant(("bio", "chat"), warm()[0][1].groups, {"bio": 0.8, "chat": 0.7}),
    )
    more = plan(trials=6)
    run_study(sqlite, replace(more, warm=(*more.warm, found)), score, FileLog(tmp_path))
    origins = [record.origin for _, record in sorted(FileLog(tmp_path).finished().items())]
    assert origins == ["model:bio", "model:chat", "uniform", "gradient:balanced", "tpe", "tpe"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_by_name_repeats_itself_through_a_stop(sampler: str, sqlite: str, tmp_path: Path) -> None:
    """Stopped in the fifteenth trial and resumed, each proposes what it would have proposed anyway."""
    asked: list[Coefficients] = []

    def stopping(coefficients: Coefficients) -> Scores:
        asked.append(coefficients)
        if len(asked) == 15:
            raise KeyboardInterrupt
        return score(coefficients)

    with pytest.raises(KeyboardInterrupt):
        run_study(sqlite, plan(sampler=sampler, trials=18), stopping, FileLog(tmp_path))
    run_study(sqlite, plan(sampler=sampler, trials=18), stopping, FileLog(tmp_path))
    records = FileLog(tmp_path).finished()
    assert len(records) == 18
    assert asked[14] == asked[15]
    assert len(set(asked)) == 18
    assert {n: r.coefficients for n, r in records.items()} == _undisturbed(
        tmp_path / "same", sampler=sampler, trials=18
    )


@pytest.mark.parametrize("sampler", ["cmaes", "gp"])
def test_samplers_that_learn_beat_chance(sampler: str, sqlite: str, tmp_path: Path) -> None:
    def best(**settings: object) -> float:
        folder = tmp_path / str(settings["sampler"])
        folder.mkdir()
        log = FileLog(folder)
        run_study(sqlite, replace(plan(**settings), name=str(settings["sampler"]), warm=()), score, log)
        return max(sum(r.scores.values()) / 3 + min(r.scores.values()) for r in log.finished().values())

    assert best(sampler=sampler, trials=24) > best(sampler="random", trials=24)


@pytest.mark.parametrize(
    ("dimensions", "trials", "sampler"),
    [(12, 100, "gp"), (63, 100, "gp"), (700, 100, "tpe"), (12, 500, "tpe"), (700, 5000, "nsgaii")],
)
def test_auto_picks_by_dimensions_and_budget(dimensions: int, trials: int, sampler: str) -> None:
    assert resolve("auto", dimensions, trials) == sampler
    assert resolve("cmaes", dimensions, trials) == "cmaes"


def test_gibberish_is_recorded_as_invalid_and_dominated(sqlite: str, tmp_path: Path) -> None:
    def broken(coefficients: Coefficients) -> Scores:
        if coefficients.values[0][0] == 1.0:
            return replace(score(coefficients), invalid="perplexity 4000")
        if coefficients.values[1][0] == 1.0:
            return Scores(dict(score(coefficients)) | {"bio": AxisScores(float("nan"), (), "nats")})
        return score(coefficients)

    run_study(sqlite, plan(trials=3), broken, FileLog(tmp_path))
    records = FileLog(tmp_path).finished()
    assert [(records[i].state, records[i].note) for i in range(3)] == [
        ("invalid", "perplexity 4000"),
        ("invalid", "no finite score on bio"),
        ("complete", ""),
    ]
    assert [trial.values for trial in _told(sqlite).values()][:2] == [[0.0] * 3] * 2


# -- plans that do not fit --------------------------------------------------------------------------------------------


def test_another_space_or_other_axes_are_refused(url: str, tmp_path: Path) -> None:
    run_study(url, plan(trials=3), score, FileLog(tmp_path))
    with pytest.raises(SearchError, match=r"another plan: axes was .*bio.*law"):
        run_study(url, replace(plan(), axes=("refusal", "compliance", "law")), score, FileLog(tmp_path))
    wider = space(bounds=(0.0, 2.0))
    with pytest.raises(SearchError, match="space was"):
        run_study(url, replace(plan(), space=wider), score, FileLog(tmp_path))
    with pytest.raises(SearchError, match="scalarised"):
        run_study(url, plan(sampler="cmaes"), score, FileLog(tmp_path))
    _assert_whole(url, tmp_path, 3)


def test_objectives_of_other_axes_are_refused(sqlite: str, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"scored .*, the search is over"):
        run_study(sqlite, replace(plan(), axes=("refusal", "compliance", "law")), score, FileLog(tmp_path))


def test_two_warm_starts_of_one_name_are_refused(sqlite: str, tmp_path: Path) -> None:
    twice = replace(plan(), warm=(*warm(), warm()[0]))
    with pytest.raises(SearchError, match="share a name"):
        run_study(sqlite, twice, score, FileLog(tmp_path))


# -- kills ------------------------------------------------------------------------------------------------------------


def test_kill_at_the_worst_moments(url: str, tmp_path: Path) -> None:
    """Between proposing and recording, of a warm start and of a proposal, and between recording and telling."""
    for death in ({"die_scoring": 2}, {"die_recording": 5}, {"die_scoring": 9}):
        process = _process(url, tmp_path, **death)
        assert process.wait(120) == -signal.SIGKILL, process.stderr and process.stderr.read()
    process = _process(url, tmp_path)
    assert process.wait(120) == 0, process.stderr and process.stderr.read()
    _assert_whole(url, tmp_path)
    asked = [tuple(line["values"]) for line in lines(tmp_path / "asked.jsonl")]
    assert asked[1] == asked[2]  # asked and not recorded: scored again, with the same parameters
    assert asked[8] == asked[9]
    assert len(asked) == 14  # recorded and not told: not scored again
    assert len(set(asked)) == 12
    found = {number: record.coefficients for number, record in FileLog(tmp_path).finished().items()}
    assert found == _undisturbed(tmp_path / "same")


def test_kill_from_outside_anywhere(sqlite: str, tmp_path: Path) -> None:
    for kills in range(2):
        process = _process(sqlite, tmp_path, seconds=0.02)
        while len(lines(tmp_path / "asked.jsonl")) < 5 * (kills + 1) and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run_study(sqlite, plan(), score, FileLog(tmp_path))
    _assert_whole(sqlite, tmp_path)


def test_records_outlive_the_study(sqlite: str, tmp_path: Path) -> None:
    """The study's tables are lost, the records are not: Optuna hears of them again, and nothing is scored twice."""
    run_study(sqlite, plan(trials=8), score, FileLog(tmp_path))
    optuna.delete_study(study_name="a search", storage=sqlite)
    asked: list[Coefficients] = []

    def counted(coefficients: Coefficients) -> Scores:
        asked.append(coefficients)
        return score(coefficients)

    run_study(sqlite, plan(), counted, FileLog(tmp_path))
    assert len(asked) == 4
    _assert_whole(sqlite, tmp_path)


# -- several workers --------------------------------------------------------------------------------------------------


def test_two_processes_share_a_search(url: str, tmp_path: Path) -> None:
    both = [_process(url, tmp_path, worker=f"w{i}", alive="w0,w1", seconds=0.05, trials=20) for i in range(2)]
    assert [process.wait(90) for process in both] == [0, 0], [p.stderr and p.stderr.read() for p in both]
    _assert_whole(url, tmp_path, 20)
    records = FileLog(tmp_path).finished()
    assert {record.worker for record in records.values()} == {"w0", "w1"}
    assert [r.origin for r in records.values()].count("uniform") == 1
    asked = [tuple(line["values"]) for line in lines(tmp_path / "asked.jsonl")]
    assert len(asked) == len(set(asked)) == 20


def test_a_dead_workers_trial_is_taken_over_a_living_ones_is_not(url: str, tmp_path: Path) -> None:
    process = _process(url, tmp_path, worker="dead", die_scoring=5)
    assert process.wait(60) == -signal.SIGKILL
    with opened(url) as storage:
        study = optuna.load_study(study_name="a search", storage=storage)
        busy = study.ask()
        busy.set_user_attr("worker", "busy")
    log = FileLog(tmp_path)
    run_study(url, plan(), score, log, crew=Crew("w1", lambda worker: worker == "busy"))
    records = log.finished()
    assert busy.number not in records
    assert len(records) == 11
    assert records[4].worker == "w1"
    assert space().values(records[4].coefficients) == lines(tmp_path / "asked.jsonl")[4]["values"]


def test_threads_share_a_search(url: str, tmp_path: Path) -> None:
    names = [f"t{i}" for i in range(3)]
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            run_study(
                url, plan(sampler="random", trials=30), slow, FileLog(tmp_path), crew=Crew(name, names.__contains__)
            )
        except BaseException as error:  # noqa: BLE001 — shown by the test's own thread
            errors.append(error)

    def slow(coefficients: Coefficients) -> Scores:
        append(tmp_path / "asked.jsonl", {"values": space().values(coefficients)})
        time.sleep(0.02)
        return score(coefficients)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    _assert_whole(url, tmp_path, 30)
    asked = [tuple(line["values"]) for line in lines(tmp_path / "asked.jsonl")]
    assert len(asked) == len(set(asked)) == 30


def test_the_database_restarts_in_mid_search(tmp_path: Path) -> None:
    with running() as server:
        address = server.create()
        create_storage(address)
        count = 0

        def restarting(coefficients: Coefficients) -> Scores:
            nonlocal count
            count += 1
            if count in (2, 7):
                server.crash()
            return score(coefficients)

        run_study(address, plan(), restarting, FileLog(tmp_path))
        _assert_whole(address, tmp_path)
        assert count == 12
