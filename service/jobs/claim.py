"""Who runs a job: one worker at a time, for as long as the database says so."""

import threading
from collections.abc import Callable

from sqlalchemy.orm import Session

from service.database import Database, now
from service.events import repository as events
from service.jobs import repository
from service.jobs.schemas import Status


class JobStopped(Exception):  # noqa: N818 - a signal to unwind, not an error
    """The job is no longer this worker's to run. Let it pass: catching it keeps a cancelled job running."""


class JobCancelled(JobStopped):
    """Someone cancelled the job."""


class JobTaken(JobStopped):
    """Another worker runs the job now: this one was silent for too long."""


class Claim:
    """This worker's hold on one attempt of a job.

    A watcher asks the database from time to time (`look`); stages ask the claim (`check`), which costs nothing.
    """

    def __init__(self, database: Database, job_id: str, attempt: int, worker: str) -> None:
        self.database, self.job_id, self.attempt, self.worker = database, job_id, attempt, worker
        self._reason: JobStopped | None = None
        self._stopped = threading.Event()

    def take(self) -> bool:
        """Become the owner; False when the job is final, another attempt's or another worker's."""

        def work(session: Session) -> bool:
            row = repository.locked(session, self.job_id)
            if row is None or row.attempt != self.attempt or row.owner not in (None, self.worker):
                return False
            if row.status not in repository.ACTIVE:
                return False
            if row.status == Status.QUEUED:
                events.add(session, self.job_id, "status", "running", {"status": Status.RUNNING, "worker": self.worker})
            row.owner, row.status, row.started_at = self.worker, Status.RUNNING.value, row.started_at or now()
            return True

        return self.database.insist(work)

    def look(self) -> None:
        """Ask the database whether the claim still holds."""
        with self.database.read() as session:
            row = repository.get(session, self.job_id)
            if row is None or row.status == Status.CANCELLED:
                self._stop(JobCancelled(f"job {self.job_id} was cancelled"))
            elif row.attempt != self.attempt or row.owner != self.worker or row.status != Status.RUNNING:
                self._stop(JobTaken(f"job {self.job_id} is {row.owner}'s now"))

    def _stop(self, reason: JobStopped) -> None:
        self._reason = reason
        self._stopped.set()

    @property
    def stopped(self) -> JobStopped | None:
        return self._reason

    def check(self) -> None:
        """Raises: JobStopped, once the job was cancelled or taken."""
        if self._stopped.is_set() and self._reason is not None:
            raise self._reason

    def write(self, work: Callable[[Session], None]) -> None:
        """Write for the job, unless it is no longer ours.

        Raises:
            JobStopped: nothing was written.
        """
        self.check()

        def guarded(session: Session) -> bool:
            mine = repository.locked(session, self.job_id)
            if mine is None or mine.owner != self.worker or mine.attempt != self.attempt or mine.status != "running":
                return False
            work(session)
            return True

        if not self.database.insist(guarded):
            self.look()
            self.check()
            raise JobTaken(f"job {self.job_id} is no longer this worker's")
