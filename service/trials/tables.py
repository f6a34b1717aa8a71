"""Trials in SQL: what was tried, what it scored, prompt by prompt."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, Json, UtcDateTime, now


class TrialRow(Base):
    """One candidate. `coefficients` is {models, groups, values}; `prompt_scores` is axis → one score a prompt."""

    __tablename__ = "job_trials"  # Optuna's own table in the same database is called `trials`

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    origin: Mapped[str] = mapped_column(sa.String(80))
    state: Mapped[str] = mapped_column(sa.String(16))
    scores: Mapped[dict[str, float]] = mapped_column(Json)
    judged: Mapped[dict[str, float] | None] = mapped_column(Json)
    on_front: Mapped[bool] = mapped_column(default=False)
    seconds: Mapped[float]
    seed: Mapped[int]
    worker: Mapped[str] = mapped_column(sa.String(120))
    note: Mapped[str] = mapped_column(sa.Text, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    coefficients: Mapped[dict[str, Any]] = mapped_column(Json, deferred=True)
    prompt_scores: Mapped[dict[str, list[float]]] = mapped_column(Json, deferred=True)
