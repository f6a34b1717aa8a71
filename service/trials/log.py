"""A job's trials as its stages keep and read them (`optimizer.search.trials.TrialLog`)."""

from collections.abc import Callable, Mapping

from optimizer.search.trials import TrialRecord
from service.database import Database
from service.trials import repository


class JobTrials:
    """Writes survive restarts of the database; what `record` returned from is on disk."""

    def __init__(self, database: Database, job_id: str, check: Callable[[], None]) -> None:
        """`check` raises when the job is no longer this worker's to write for."""
        self._database, self._job_id, self._check = database, job_id, check

    def finished(self) -> dict[int, TrialRecord]:
        """All trials of the job by number."""
        with self._database.read() as session:
            return repository.finished(session, self._job_id)

    def record(self, trial: TrialRecord) -> None:
        """Keep a trial; recording a number again changes nothing."""
        self._check()
        self._database.insist(lambda session: repository.record(session, self._job_id, trial))

    def judge(self, judged: Mapping[int, Mapping[str, float]]) -> None:
        """Note what trials scored when they generated for real: number → axis → score."""
        self._check()
        self._database.insist(lambda session: repository.judge(session, self._job_id, judged))
