"""Stages one after the other, without processes: what is written when they end, fail, are cancelled or stand still."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datagen.errors import EngineError
from service.artifacts.store import Store, parse
from service.database import Database
from service.events import repository as events
from service.jobs import repository, service
from service.jobs.claim import JobCancelled
from service.jobs.context import StageContext
from service.jobs.desk import Meter
from service.jobs.runner import CRASHES, Runner, Stages
from service.jobs.schemas import MergeJob, MergeJobRequest, Stage, Status
from service.settings import Settings
from tests.service.jobs.short_stages import STAGES


class Bench:
    """A job in a database, and runners for it."""

    def __init__(self, settings: Settings, database: Database, job_id: str) -> None:
        self.settings, self.database, self.id = settings, database, job_id

    def another(self, request: MergeJobRequest) -> "Bench":
        return Bench(self.settings, self.database, service.accept(self.database, request).id)

    def runner(self, stages: Stages = STAGES, name: str = "w1") -> Runner:
        return Runner(self.database, self.settings, name, stages)

    def run(self, runner: Runner, attempt: int = 1) -> None:
        for stage in Stage:
            if runner.run_stage(self.id, attempt, stage) != "finished":
                break
        runner.end()

    @property
    def job(self) -> MergeJob:
        with self.database.read() as session:
            return service.read(session, self.id)

    def told(self, kind: str) -> list[str]:
        with self.database.read() as session:
            return [event.message for event in events.after(session, self.id, 0, 1000) if event.type == kind]

    def cancel(self) -> None:
        with self.database.write() as session:
            service.cancel(session, self.id)


@pytest.fixture
def bench(settings: Settings, database: Database, request_: MergeJobRequest) -> Bench:
    return Bench(settings, database, service.accept(database, request_).id)


def with_stage(stage: Stage, work: Callable[[StageContext], None]) -> Stages:
    return {**STAGES, stage: work}


def test_a_job_goes_through_all_stages(bench: Bench) -> None:
    bench.run(bench.runner())
    job = bench.job
    assert job.status is Status.SUCCEEDED
    assert job.winner == 0
    assert list(job.seconds) == list(Stage)
    assert all(seconds >= 0 for seconds in job.seconds.values())
    assert job.progress is None
    artifact = Store(bench.settings.artifacts).get(*parse(job.artifact or ""))
    assert {file.path for file in artifact.files} == {"config.json", "model.safetensors"}
    assert bench.told("status") == ["queued", "running", "succeeded"]
    assert bench.told("warning") == ["the parents were not really looked at"]


def test_a_finished_stage_is_not_run_again(bench: Bench) -> None:
    runs: list[str] = []
    stages = with_stage(Stage.DATA, lambda context: runs.append(context.job_id))
    first = bench.runner(stages)
    assert first.run_stage(bench.id, 1, Stage.DATA) == "finished"
    assert bench.runner(stages).run_stage(bench.id, 1, Stage.DATA) == "finished"
    assert len(runs) == 1


def test_an_error_fails_the_job_with_its_mend(bench: Bench, request_: MergeJobRequest) -> None:
    unlucky = bench.another(request_.model_copy(update={"name": "unlucky"}))
    unlucky.run(unlucky.runner())
    assert unlucky.job.status is Status.FAILED
    assert unlucky.job.error == "the finalists all write gibberish\n  mend: search longer"
    assert unlucky.job.stage is Stage.SELECT
    assert unlucky.told("status")[-1] == "failed"


def test_a_bug_fails_the_job_and_says_what_it_is(bench: Bench, request_: MergeJobRequest) -> None:
    broken = bench.another(request_.model_copy(update={"name": "broken"}))
    broken.run(broken.runner())
    assert broken.job.error == "ZeroDivisionError: division by zero (an error of Temper itself; see the log)"


def test_a_failed_job_resumes_at_the_stage_that_failed(bench: Bench) -> None:
    def fail(context: StageContext) -> None:
        raise EngineError("the engine ran out of memory")

    bench.run(bench.runner(with_stage(Stage.SELECT, fail)))
    assert bench.job.status is Status.FAILED
    with bench.database.write() as session:
        again = service.resume(session, bench.id, silence_seconds=1)
    assert (again.status, again.error, again.finished_at) == (Status.QUEUED, None, None)
    bench.run(bench.runner(), attempt=2)
    assert bench.job.status is Status.SUCCEEDED
    stages = bench.told("stage")
    assert stages.count("search begins") == 1
    assert "select goes on" in stages


def test_progress_carries_a_cancel_into_the_stage(bench: Bench) -> None:
    caught: list[Exception] = []

    def search(context: StageContext) -> None:
        try:
            for number in range(10_000):
                context.progress(number, 10_000, "trials")
                time.sleep(0.01)
        except JobCancelled as reason:
            caught.append(reason)
            raise

    runner = bench.runner(with_stage(Stage.SEARCH, search))
    thread = threading.Thread(target=bench.run, args=[runner])
    thread.start()
    while bench.job.progress is None or bench.job.stage is not Stage.SEARCH:
        time.sleep(0.02)
    bench.cancel()
    began = time.monotonic()
    while thread.is_alive():
        runner.watch()
        thread.join(0.1)
    assert time.monotonic() - began < 3
    assert caught
    assert bench.job.status is Status.CANCELLED
    assert bench.job.error is None
    with bench.database.read() as session:
        assert service.found(session, bench.id).owner is None


def test_an_error_that_a_cancel_caused_is_a_cancel(bench: Bench) -> None:
    """Killing the engine under a stage is how a cancel reaches it; what the stage then raises is no failure."""

    def search(context: StageContext) -> None:
        bench.cancel()
        raise EngineError("the engine went away")

    bench.run(bench.runner(with_stage(Stage.SEARCH, search)))
    assert bench.job.status is Status.CANCELLED
    assert bench.told("error") == []


def test_a_cancelled_job_does_not_begin(bench: Bench) -> None:
    bench.cancel()
    assert bench.runner().run_stage(bench.id, 1, Stage.DATA) == "over"
    assert bench.told("stage") == []


def test_a_job_that_gets_no_further_is_given_up(bench: Bench) -> None:
    def die(context: StageContext) -> None:
        context.progress(1, 10, "trials")
        raise SystemExit  # not an Exception: nothing is written, as if the process had died

    for _ in range(CRASHES + 1):
        with pytest.raises(SystemExit):
            bench.runner(with_stage(Stage.DATA, die)).run_stage(bench.id, 1, Stage.DATA)
    # the first start got from 0 to 1 and so was forgiven; the others count
    assert bench.runner().run_stage(bench.id, 1, Stage.DATA) == "over"
    assert f"the worker died {CRASHES} times in the stage `data`" in (bench.job.error or "")


def test_a_job_that_gets_further_every_time_is_never_given_up(bench: Bench) -> None:
    for number in range(CRASHES + 3):

        def die(context: StageContext, number: int = number) -> None:
            context.progress(number + 1, 100, "trials")
            raise SystemExit

        with pytest.raises(SystemExit):
            bench.runner(with_stage(Stage.DATA, die)).run_stage(bench.id, 1, Stage.DATA)
    assert bench.runner().run_stage(bench.id, 1, Stage.DATA) == "finished"


def test_a_worker_that_is_asked_to_leave_is_no_crash(bench: Bench) -> None:
    def hang(context: StageContext) -> None:
        runner.leave()
        raise SystemExit

    for _ in range(CRASHES + 2):
        runner = bench.runner(with_stage(Stage.DATA, hang))
        with pytest.raises(SystemExit):
            runner.run_stage(bench.id, 1, Stage.DATA)
    assert bench.runner().run_stage(bench.id, 1, Stage.DATA) == "finished"


def test_seconds_go_on_counting_after_a_restart(bench: Bench) -> None:
    def die(context: StageContext) -> None:
        time.sleep(0.3)
        context.progress(1, 2, "trials")
        raise SystemExit

    with pytest.raises(SystemExit):
        bench.runner(with_stage(Stage.DATA, die)).run_stage(bench.id, 1, Stage.DATA)
    bench.runner(with_stage(Stage.DATA, lambda _context: None)).run_stage(bench.id, 1, Stage.DATA)
    assert 0.3 <= bench.job.seconds[Stage.DATA] < 2


def test_thousands_of_progress_calls_cost_little_and_the_last_is_kept(bench: Bench) -> None:
    spent: list[float] = []

    def data(context: StageContext) -> None:
        began = time.monotonic()
        for number in range(20_000):
            context.progress(number, 20_001, "tokens", "writing")
        spent.append(time.monotonic() - began)
        context.progress(20_001, 20_001, "tokens", "done")
        with bench.database.read() as session:
            kept.append(service.read(session, context.job_id))

    kept: list[MergeJob] = []
    bench.runner(with_stage(Stage.DATA, data)).run_stage(bench.id, 1, Stage.DATA)
    assert spent[0] < 2
    assert kept[0].progress is not None
    assert (kept[0].progress.done, kept[0].progress.note, kept[0].progress.eta_seconds) == (20_001, "done", 0.0)


def test_a_folder_of_the_job_stays_between_stages(bench: Bench) -> None:
    folders: list[Path] = []

    def data(context: StageContext) -> None:
        (context.folder / "kept").write_text("x")

    def parents(context: StageContext) -> None:
        folders.append(context.folder)
        assert (context.folder / "kept").read_text() == "x"

    bench.run(bench.runner({**STAGES, Stage.DATA: data, Stage.PARENTS: parents}))
    assert folders == [bench.settings.jobs / bench.id]
    assert oct(os.stat(bench.settings.home).st_mode)[-3:] == "700"


def test_results_that_nobody_left_are_empty(bench: Bench) -> None:
    seen: list[dict[str, Any]] = []
    bench.runner(with_stage(Stage.DATA, lambda c: seen.append(c.results.get(Stage.REPORT)))).run_stage(
        bench.id, 1, Stage.DATA
    )
    assert seen == [{}]


def test_the_report_can_be_read(bench: Bench) -> None:
    bench.run(bench.runner())
    with bench.database.read() as session:
        stage = repository.stage(session, bench.id, Stage.REPORT)
        assert stage is not None
        assert stage.result == {"winner": 0}
        assert "<title>Report" in (repository.document(session, bench.id, "report.html") or "")


class TestMeter:
    def test_eta_is_the_rest_at_the_pace_so_far(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter([100.0, 110.0, 120.0])
        monkeypatch.setattr("service.jobs.desk.time.monotonic", lambda: next(clock))
        meter = Meter()
        assert meter.eta(40, 100, "trials") is None, "a resumed stage starts counting where it goes on"
        assert meter.eta(50, 100, "trials") == 50.0
        assert meter.eta(60, 100, "trials") == 40.0

    def test_another_unit_starts_anew(self) -> None:
        meter = Meter()
        meter.eta(0, 10, "questions")
        meter.eta(5, 10, "questions")
        assert meter.eta(5, 10, "answers") is None

    def test_nothing_is_left_at_the_end(self) -> None:
        assert Meter().eta(3, 3, "rows") == 0.0
