"""A job's trials as its stages keep and read them (`optimizer.search.trials.TrialLog`)."""

from collections.abc import Callable, Mapping

from sqlalchemy.orm import Session

from optimizer.search.trials import TrialRecord
from service.database import Database
from service.trials import repository


class JobTrials:
    """Writes survive restarts of the database; what `record` returned from is on disk."""

    def __init__(self, database: Database, job_id: str, write: Callable[[Callable[[Session], None]], None]) -> None:
        """`write` writes while the job is this worker's, and raises when it is no longer."""
        self._database, self._job_id, self._write = database, job_id, write

    def finished(self) -> dict[int, TrialRecord]:
        """All trials of the job by number."""
        with self._database.read() as session:
            return repository.finished(session, self._job_id)

    def record(self, trial: TrialRecord) -> None:
        """Keep a trial; recording a number again changes nothing."""

        def work(session: Session) -> None:
            repository.record(session, self._job_id, trial)

        self._write(work)

    def judge(self, judged: Mapping[int, Mapping[str, float]]) -> None:
        """Note what trials scored when they generated for real: number → axis → score."""
        self._write(lambda session: repository.judge(session, self._job_id, judged))
