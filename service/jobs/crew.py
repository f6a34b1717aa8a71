"""The workers that live: everyone beats, everyone watches the others, nobody needs the right time."""

import logging
import os
import socket
import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from service.database import Database, now
from service.jobs.repository import FINAL
from service.jobs.tables import JobRow, WorkerRow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sight:
    """A worker's beats when they last changed, and when that was on our own clock."""

    beats: int
    at: float


class Crew:
    """This worker's place among all workers of its lane."""

    def __init__(self, database: Database, name: str, lane: str, silence_seconds: float) -> None:
        self._database, self.name, self.lane, self._silence = database, name, lane, silence_seconds
        self._sights: dict[str, _Sight] = {}

    def join(self) -> None:
        """Enter the table; drop what is left of jobs that ended while this worker was away."""

        def work(session: Session) -> None:
            self._enter(session)
            ended = sa.update(JobRow).where(JobRow.owner == self.name, JobRow.status.in_(FINAL)).values(owner=None)
            session.execute(ended)

        self._database.insist(work)

    def _enter(self, session: Session) -> None:
        # beats begin where no earlier life of this name ended: others must see that it is back
        session.merge(
            WorkerRow(
                name=self.name,
                lane=self.lane,
                host=socket.gethostname(),
                pid=os.getpid(),
                beats=time.time_ns(),
                started_at=now(),
                seen_at=now(),
            )
        )

    def beat(self) -> None:
        """Show that this worker lives; enter again when the others gave it up (it slept, say)."""

        def work(session: Session) -> None:
            row = session.get(WorkerRow, self.name)
            if row is None:
                self._enter(session)
            else:
                row.beats, row.seen_at = row.beats + 1, now()

        self._database.insist(work, patience=1.0)

    def living(self) -> list[str]:
        """Names of the workers of this lane, those gone silent removed and their jobs set free."""
        with self._database.read() as session:
            query = sa.select(WorkerRow.name, WorkerRow.beats).where(WorkerRow.lane == self.lane)
            beats = {row.name: row.beats for row in session.execute(query)}
        moment = time.monotonic()
        for name, count in beats.items():
            sight = self._sights.get(name)
            if sight is None or sight.beats != count:
                self._sights[name] = _Sight(count, moment)
            elif name != self.name and moment - sight.at > self._silence:
                self._give_up(name, count)
        self._sights = {name: sight for name, sight in self._sights.items() if name in beats}
        return [name for name in beats if name == self.name or moment - self._sights[name].at <= self._silence]

    def _give_up(self, name: str, beats: int) -> None:
        def work(session: Session) -> bool:
            gone = (
                sa.delete(WorkerRow).where(WorkerRow.name == name, WorkerRow.beats == beats).returning(WorkerRow.name)
            )
            if session.execute(gone).first() is None:
                return False
            session.execute(sa.update(JobRow).where(JobRow.owner == name).values(owner=None))
            return True

        if self._database.insist(work):
            log.warning("worker %s has been silent for %.0f s; its jobs go to others", name, self._silence)

    def leave(self) -> None:
        """Leave the table; the jobs stay this worker's, who goes on with them when it is back."""
        self._database.insist(
            lambda session: session.execute(sa.delete(WorkerRow).where(WorkerRow.name == self.name)), patience=2.0
        )
