"""The SQL that only pages need. Functions take a session and never write."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from service.dashboard.candidates import Trial
from service.events.tables import EventRow
from service.jobs.schemas import EventView, MergeJob
from service.trials.tables import TrialRow


def history(session: Session, job_id: str, limit: int) -> list[EventView]:
    """A job's last events, the latest first, without progress and trials, which have places of their own."""
    query = sa.select(EventRow).where(EventRow.job_id == job_id, EventRow.type.not_in(("progress", "trial")))
    return [EventView.model_validate(row) for row in session.scalars(query.order_by(EventRow.id.desc()).limit(limit))]


def last_event(session: Session, job_id: str) -> int:
    """Id of a job's latest event; 0 before the first."""
    return session.scalar(sa.select(sa.func.max(EventRow.id)).where(EventRow.job_id == job_id)) or 0


def warnings(session: Session, job_id: str, limit: int) -> list[str]:
    """What a job warned about, the first first, each once."""
    query = sa.select(EventRow.message).where(EventRow.job_id == job_id, EventRow.type == "warning")
    return list(dict.fromkeys(session.scalars(query.order_by(EventRow.id).limit(limit))))


def winners(session: Session, jobs: Sequence[MergeJob]) -> dict[str, dict[str, float]]:
    """What each job's winner scored when it generated and was judged, by job id."""
    wanted = {(job.id, job.winner) for job in jobs if job.winner is not None}
    if not wanted:
        return {}
    query = sa.select(TrialRow.job_id, TrialRow.judged).where(sa.tuple_(TrialRow.job_id, TrialRow.number).in_(wanted))
    return {job_id: judged for job_id, judged in session.execute(query) if judged}


def trials(session: Session, job_id: str) -> list[Trial]:
    """All trials of a job by number, without their coefficients."""
    columns = [getattr(TrialRow, name) for name in Trial._fields]
    query = sa.select(*columns).where(TrialRow.job_id == job_id).order_by(TrialRow.number)
    return [Trial(*row) for row in session.execute(query)]


def trials_revision(session: Session, job_id: str) -> str:
    """Changes when a trial is added, judged, or enters or leaves the front."""
    query = sa.select(
        sa.func.count(),
        sa.func.count().filter(TrialRow.on_front),
        sa.func.coalesce(sa.func.sum(TrialRow.number).filter(TrialRow.on_front), 0),
        sa.func.count(TrialRow.judged),
    ).where(TrialRow.job_id == job_id)
    total, *rest = session.execute(query).one()
    return "-".join(map(str, (total, *rest))) if total else "0"
