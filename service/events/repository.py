"""All SQL of events. Functions take a session and never commit."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from service.events.tables import EventRow
from service.jobs.schemas import EventView


def add(session: Session, job_id: str, kind: str, message: str, data: Mapping[str, object] | None = None) -> None:
    session.add(EventRow(job_id=job_id, type=kind, message=message, data=dict(data or {})))


def after(session: Session, job_id: str, event_id: int, limit: int) -> Sequence[EventRow]:
    """A job's events later than `event_id` (0: all), oldest first."""
    query = sa.select(EventRow).where(EventRow.job_id == job_id, EventRow.id > event_id)
    return session.scalars(query.order_by(EventRow.id).limit(limit)).all()


def latest(session: Session, job_id: str, limit: int) -> list[EventView]:
    """A job's last events, oldest first."""
    query = sa.select(EventRow).where(EventRow.job_id == job_id).order_by(EventRow.id.desc()).limit(limit)
    return [EventView.model_validate(row) for row in reversed(session.scalars(query).all())]
