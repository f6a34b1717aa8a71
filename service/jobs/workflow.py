"""Durable execution by DBOS: a job is a workflow, a stage is a step; a killed worker goes on at the stage it was in.

The jobs table says what is to be run; DBOS says who runs it and starts it again. The workers carry jobs from the one
to the other under the workflow id JOB-ATTEMPT, which makes that harmless to repeat: neither the API nor a crash between
two databases can lose a job or start it twice. The API never touches DBOS.
"""

import logging
from collections.abc import Collection

from dbos import DBOS, DBOSConfig, SetWorkflowID
from sqlalchemy import make_url

from service.database import Database
from service.jobs import repository
from service.jobs.runner import Runner
from service.jobs.schemas import Stage, Status
from service.jobs.service import SHARED
from service.jobs.tables import JobRow
from service.kit import logs
from service.settings import Settings

log = logging.getLogger(__name__)

QUEUE = "merge_jobs"
#: recovery takes up workflows of this version only; raise it when the steps of a job change
VERSION = "temper-1"
POLL_SECONDS = 0.5
#: queued jobs that are looked after; the others have nothing to lose yet
LOOK_AHEAD = 20
_OVER = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


def system_database(settings: Settings, lane: str) -> str:
    """DBOS's own tables: a SQLite file beside ours, or the schema `dbos` of our PostgreSQL. A `temper run` has its own
    file, so that no other worker sees its job."""
    if lane != SHARED:
        return f"sqlite:///{settings.home / 'jobs' / f'{lane}.dbos.sqlite'}"
    if settings.on_sqlite:
        return f"sqlite:///{settings.home / 'dbos.sqlite'}"
    return make_url(settings.database).set(drivername="postgresql").render_as_string(hide_password=False)


class Workflows:
    """DBOS in this process. One instance a process; create, `launch`, then `relay` from time to time."""

    def __init__(self, settings: Settings, database: Database, runner: Runner, lane: str) -> None:
        self._database, self._runner, self._lane = database, runner, lane
        self._relayed: set[str] = set()
        config: DBOSConfig = {
            "name": "temper",
            "system_database_url": system_database(settings, lane),
            "executor_id": runner.worker,
            "application_version": VERSION,
            "log_level": "WARNING",
            "enable_otlp": False,
            "notification_listener_polling_interval_sec": 1.0,
        }
        DBOS(config=config)

        @DBOS.workflow(name="merge_job", max_recovery_attempts=None)
        def merge_job(job_id: str, attempt: int) -> str:
            try:
                for stage in Stage:
                    outcome = DBOS.run_step({"name": stage.value}, runner.run_stage, job_id, attempt, stage)
                    if outcome != "finished":
                        return "over"
                return "finished"
            finally:
                runner.end()

        self._workflow = merge_job

    def launch(self) -> None:
        """Start DBOS, which at once takes up what this worker was doing when it last died."""
        DBOS.listen_queues([QUEUE])
        DBOS.launch()
        logs.adopt("dbos")
        DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=POLL_SECONDS, on_conflict="always_update")

    def relay(self) -> None:
        """Hand every job that waits to DBOS, in the order of submission."""
        for job in self._waiting():
            if job.workflow not in self._relayed:
                with SetWorkflowID(job.workflow):
                    DBOS.enqueue_workflow(QUEUE, self._workflow, job.id, job.attempt)
                self._relayed.add(job.workflow)

    def mend(self, workers: Collection[str]) -> None:
        """Bring jobs and workflows together again where a worker is gone for good.

        Args:
            workers: names of those that live.
        """
        jobs = self._waiting()
        queued = [job for job in jobs if job.status == Status.QUEUED][:LOOK_AHEAD]
        for job in [job for job in jobs if job.status == Status.RUNNING] + queued:
            status = DBOS.get_workflow_status(job.workflow)
            if status is None:
                self._relayed.discard(job.workflow)
            elif job.owner is None and status.status == "PENDING" and status.executor_id not in workers:
                log.warning("taking job %s over from worker %s, which is gone", job.id, status.executor_id)
                DBOS.resume_workflow(status.workflow_id, queue_name=QUEUE)
            elif status.status in _OVER and job.owner in (None, self._runner.worker):
                self._again(job.id, job.attempt)

    def _waiting(self) -> list[repository.Waiting]:
        with self._database.read() as session:
            return repository.waiting(session, self._lane)

    def _again(self, job_id: str, attempt: int) -> None:
        """Run a job once more whose workflow ended without it: DBOS's tables were lost, or two takeovers crossed."""
        log.warning("the workflow of job %s ended and the job did not; starting it again", job_id)
        self._database.insist(
            lambda session: repository.change(
                session,
                job_id,
                JobRow.attempt == attempt,
                JobRow.status.in_([Status.QUEUED.value, Status.RUNNING.value]),
                attempt=attempt + 1,
                owner=None,
            )
        )
