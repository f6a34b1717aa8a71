"""Runs the stages of one job, one after the other, for as long as the job is this worker's."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from sqlalchemy.orm import Session

from datagen.errors import TemperError
from service.database import Database, now
from service.events import repository as events
from service.jobs import repository
from service.jobs.claim import Claim, JobCancelled, JobStopped
from service.jobs.context import StageContext
from service.jobs.desk import Desk
from service.jobs.schemas import MergeJobRequest, Stage, Status
from service.jobs.tables import JobRow
from service.kit.logs import current_job
from service.settings import Settings

log = logging.getLogger(__name__)

StageFunction = Callable[[StageContext], None]
Stages = Mapping[Stage, StageFunction]
#: "finished": go on with the next stage; "over": the job ended or is another's
Outcome = Literal["finished", "over"]

#: starts of a stage without getting further before the job is given up
CRASHES = 5
#: how long a stage that was stopped may go on before its engine is killed under it, in seconds
GRACE_SECONDS = 3.0


class Runner:
    """One a worker process. `run_stage` may run in any thread; `watch` belongs to the worker's own."""

    def __init__(self, database: Database, settings: Settings, worker: str, stages: Stages) -> None:
        self._database, self._settings, self.worker, self._stages = database, settings, worker, stages
        self._claim: Claim | None = None
        self._desk = Desk()
        self._lock = threading.Lock()
        self._overdue: threading.Timer | None = None

    def run_stage(self, job_id: str, attempt: int, stage: Stage) -> Outcome:
        """Run a stage, or see that it ran already. Whatever happens is written into the job; nothing is raised but
        errors of the database itself."""
        token = current_job.set(job_id)
        try:
            claim = self._hold(job_id, attempt)
            if claim is None:
                return "over"
            try:
                return self._run(claim, stage)
            except JobStopped as reason:
                return self._let_go(claim, reason)
            except TemperError as error:
                return self._stopped_or_failed(claim, stage, error)
            except Exception as error:  # noqa: BLE001 - a job's last resort: whatever it is, the job must say so
                return self._stopped_or_failed(claim, stage, error)
        finally:
            current_job.reset(token)

    def _hold(self, job_id: str, attempt: int) -> Claim | None:
        with self._lock:
            if self._claim is None or (self._claim.job_id, self._claim.attempt) != (job_id, attempt):
                self._claim, self._desk = Claim(self._database, job_id, attempt, self.worker), Desk()
            return self._claim if self._claim.take() else None

    def _run(self, claim: Claim, stage: Stage) -> Outcome:
        with self._database.read() as session:
            row = repository.get(session, claim.job_id)
            before = repository.stage(session, claim.job_id, stage)
            assert row is not None
            request = MergeJobRequest.model_validate(row.request)
        if before is not None and before.finished_at is not None:
            return "finished"
        if before is not None and before.crashes >= CRASHES:
            raise _GivenUpError(
                f"the worker died {before.crashes} times in the stage `{stage}` without getting further",
                mend="look into the worker's log (memory, most often), then resume the job",
            )
        context = StageContext(claim, stage, request, self._settings, self._desk)
        context.folder.mkdir(parents=True, exist_ok=True)
        self._desk.begin(before.seconds if before else 0.0)
        claim.write(lambda session: self._begin(session, claim.job_id, stage, again=before is not None))
        log.info("stage %s begins", stage)
        self._stages[stage](context)
        seconds = self._desk.spent()
        claim.write(lambda session: self._finish(session, claim.job_id, stage, seconds))
        log.info("stage %s took %.1f s", stage, seconds)
        return "finished"

    def _begin(self, session: Session, job_id: str, stage: Stage, *, again: bool) -> None:
        repository.start_stage(session, job_id, stage)
        repository.change(session, job_id, stage=stage.value, progress=None)
        text = f"{stage} goes on" if again else f"{stage} begins"
        events.add(session, job_id, "stage", text, {"stage": stage, "worker": self.worker})

    def _finish(self, session: Session, job_id: str, stage: Stage, seconds: float) -> None:
        repository.finish_stage(session, job_id, stage, seconds, now())
        took = {"stage": stage, "seconds": round(seconds, 3)}
        events.add(session, job_id, "stage", f"{stage} took {seconds:.1f} s", took)
        if stage is not list(Stage)[-1]:
            return
        done = {"status": Status.SUCCEEDED.value, "finished_at": now(), "owner": None, "progress": None}
        repository.change(session, job_id, **done)
        events.add(session, job_id, "status", "succeeded", {"status": Status.SUCCEEDED})

    def _stopped_or_failed(self, claim: Claim, stage: Stage, error: Exception) -> Outcome:
        """An error after the job was stopped is the stop's doing."""
        claim.look()
        if claim.stopped is not None:
            return self._let_go(claim, claim.stopped)
        known = isinstance(error, TemperError)
        log.error("stage %s failed: %s", stage, error, exc_info=None if known else error)
        text = str(error) if known else f"{type(error).__name__}: {error} (an error of Temper itself; see the log)"

        def fail(session: Session) -> None:
            failed = {"status": Status.FAILED.value, "finished_at": now(), "owner": None, "error": text}
            repository.change(session, claim.job_id, **failed)
            events.add(session, claim.job_id, "error", text, {"stage": stage})
            events.add(session, claim.job_id, "status", "failed", {"status": Status.FAILED, "stage": stage})

        try:
            claim.write(fail)
        except JobStopped as reason:
            return self._let_go(claim, reason)
        return "over"

    def _let_go(self, claim: Claim, reason: JobStopped) -> Outcome:
        log.info("%s", reason)
        if isinstance(reason, JobCancelled):
            self._database.insist(
                lambda session: repository.change(session, claim.job_id, JobRow.owner == self.worker, owner=None)
            )
        return "over"

    def end(self) -> None:
        """The job's last stage is behind us, or the job ended early: give back what it held."""
        with self._lock:
            self._claim = None
            self._desk.release()

    def watch(self) -> None:
        """See whether the job at hand was cancelled or taken; a stage that does not notice loses its engine."""
        claim = self._claim
        if claim is None or claim.stopped is not None:
            return
        claim.look()
        if claim.stopped is not None:
            self._overdue = threading.Timer(GRACE_SECONDS, self._insist, [claim])
            self._overdue.daemon = True
            self._overdue.start()

    def _insist(self, claim: Claim) -> None:
        if self._claim is claim:
            self._desk.interrupt()

    def leave(self) -> None:
        """The worker is asked to go: not a crash of the job's, which goes on when a worker is back."""
        claim = self._claim
        if claim is None:
            return

        def excuse(session: Session) -> None:
            row = repository.get(session, claim.job_id)
            stage = repository.stage(session, claim.job_id, Stage(row.stage)) if row and row.stage else None
            if row and stage and row.owner == self.worker and stage.finished_at is None:
                stage.crashes = max(0, stage.crashes - 1)

        self._database.insist(excuse, patience=2.0)
        self._desk.interrupt()


class _GivenUpError(TemperError):
    """A job that kills its workers."""
