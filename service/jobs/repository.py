"""All SQL of jobs and their stages. Functions take a session and never commit."""

import gzip
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from service.database import now
from service.jobs.schemas import MergeJob, Stage, Status
from service.jobs.tables import DocumentRow, IdempotencyRow, JobRow, StageRow

FINAL = tuple(status.value for status in Status if status.final)
ACTIVE = (Status.QUEUED.value, Status.RUNNING.value)


def add(session: Session, row: JobRow) -> None:
    session.add(row)
    session.flush()


def get(session: Session, job_id: str) -> JobRow | None:
    if "\0" in job_id:  # PostgreSQL would call it an error
        return None
    return session.scalar(sa.select(JobRow).where(JobRow.id == job_id))


def locked(session: Session, job_id: str) -> JobRow | None:
    """The job, which nobody else changes before this transaction ends (SQLite has one writer at a time anyway)."""
    return session.scalar(sa.select(JobRow).where(JobRow.id == job_id).with_for_update())


def newest(session: Session, *, after: str | None, limit: int) -> Sequence[JobRow]:
    """Jobs from the newest on, those older than the job `after`."""
    query = sa.select(JobRow).order_by(JobRow.seq.desc()).limit(limit)
    if after is not None:
        query = query.where(JobRow.seq < sa.select(JobRow.seq).where(JobRow.id == after).scalar_subquery())
    return session.scalars(query).all()


def view(session: Session, row: JobRow) -> MergeJob:
    """The job as the API returns it."""
    return views(session, [row])[0]


def views(session: Session, rows: Sequence[JobRow]) -> list[MergeJob]:
    seconds: dict[str, dict[str, float]] = {row.id: {} for row in rows}
    query = sa.select(StageRow.job_id, StageRow.stage, StageRow.seconds).where(StageRow.job_id.in_(seconds))
    for job_id, stage, spent in session.execute(query):
        seconds[job_id][stage] = round(spent, 3)
    order = [stage.value for stage in Stage]
    return [
        MergeJob.model_validate(
            {
                **{name: getattr(row, name) for name in MergeJob.model_fields if hasattr(row, name)},
                "seconds": {stage: seconds[row.id][stage] for stage in order if stage in seconds[row.id]},
            }
        )
        for row in rows
    ]


class Waiting(NamedTuple):
    """A job that is not final, as its workers need to know it."""

    id: str
    attempt: int
    status: str
    owner: str | None

    @property
    def workflow(self) -> str:
        """What DBOS knows this attempt as."""
        return f"{self.id}-{self.attempt}"


def waiting(session: Session, lane: str) -> list[Waiting]:
    """Jobs of a lane that are not final, oldest first."""
    columns = (JobRow.id, JobRow.attempt, JobRow.status, JobRow.owner)
    query = sa.select(*columns).where(JobRow.lane == lane, JobRow.status.in_(ACTIVE)).order_by(JobRow.seq)
    return [Waiting(*row) for row in session.execute(query)]


def newest_of(session: Session, digest: str, lane_prefix: str) -> JobRow | None:
    """The newest job of a request, among the lanes that begin with `lane_prefix`."""
    query = (
        sa.select(JobRow)
        .where(JobRow.digest == digest, JobRow.lane.startswith(lane_prefix))
        .order_by(JobRow.seq.desc())
        .limit(1)
    )
    return session.scalar(query)


def change(session: Session, job_id: str, *conditions: sa.ColumnElement[bool], **values: Any) -> bool:
    """Change a job if all conditions still hold; says whether it did."""
    statement = sa.update(JobRow).where(JobRow.id == job_id, *conditions).values(**values)
    return cast("sa.CursorResult[Any]", session.execute(statement)).rowcount > 0


# Stages


def stages(session: Session, job_id: str) -> dict[Stage, StageRow]:
    rows = session.scalars(sa.select(StageRow).where(StageRow.job_id == job_id))
    return {Stage(row.stage): row for row in rows}


def stage(session: Session, job_id: str, which: Stage) -> StageRow | None:
    return session.get(StageRow, (job_id, which.value))


def start_stage(session: Session, job_id: str, which: Stage) -> StageRow:
    """The stage's row, one crash more on its account until it gets on or ends."""
    row = stage(session, job_id, which)
    if row is None:
        row = StageRow(job_id=job_id, stage=which.value, seconds=0.0, furthest={}, crashes=0)
        session.add(row)
    row.crashes += 1
    session.flush()
    return row


def finish_stage(session: Session, job_id: str, which: Stage, seconds: float, at: datetime) -> None:
    row = stage(session, job_id, which)
    if row is not None:
        row.finished_at, row.seconds, row.crashes = at, seconds, 0


def forgive(session: Session, job_id: str) -> None:
    """Clear the crash counts: someone asked for the job again."""
    session.execute(sa.update(StageRow).where(StageRow.job_id == job_id).values(crashes=0))


# What stages leave behind


def document(session: Session, job_id: str, name: str) -> str | None:
    row = session.get(DocumentRow, (job_id, name))
    return gzip.decompress(row.content).decode() if row else None


def put_document(session: Session, job_id: str, name: str, text: str) -> None:
    session.merge(DocumentRow(job_id=job_id, name=name, content=gzip.compress(text.encode(), 6)))


# Idempotency


def first_answer(session: Session, key: str) -> IdempotencyRow | None:
    return session.get(IdempotencyRow, key)


def keep_answer(session: Session, key: str, digest: str, answer: dict[str, Any]) -> None:
    session.add(IdempotencyRow(key=key, digest=digest, answer=answer, created_at=now()))
    session.flush()
