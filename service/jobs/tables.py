"""Jobs, their stages and documents, in SQL. The jobs table is the queue's truth; DBOS only runs what stands here."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, Json, UtcDateTime, now


class JobRow(Base):
    """One job. `seq` orders jobs whatever the clock does.

    `attempt` counts submissions of the same job (resume adds one), `owner` is the worker that runs it now, `lane` who
    may run it: "shared" is any worker, anything else one `temper run`. `digest` is the SHA-256 of the request.
    """

    __tablename__ = "jobs"

    seq: Mapped[int] = mapped_column(sa.Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(sa.String(40), unique=True)
    name: Mapped[str] = mapped_column(sa.String(64))
    status: Mapped[str] = mapped_column(sa.String(16), index=True)
    stage: Mapped[str | None] = mapped_column(sa.String(16))
    progress: Mapped[dict[str, Any] | None] = mapped_column(Json)
    request: Mapped[dict[str, Any]] = mapped_column(Json)
    digest: Mapped[str] = mapped_column(sa.String(64), index=True)
    lane: Mapped[str] = mapped_column(sa.String(40), default="shared")
    attempt: Mapped[int] = mapped_column(default=1)
    owner: Mapped[str | None] = mapped_column(sa.String(120))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    winner: Mapped[int | None]
    artifact: Mapped[str | None] = mapped_column(sa.String(200))
    error: Mapped[str | None] = mapped_column(sa.Text)


class StageRow(Base):
    """One stage of one job.

    `crashes` counts starts since the stage last got further than ever: a job that kills its worker again and again is
    given up. `furthest` is how far it got in each of its units.
    """

    __tablename__ = "job_stages"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(sa.String(16), primary_key=True)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    seconds: Mapped[float] = mapped_column(default=0.0)
    furthest: Mapped[dict[str, int]] = mapped_column(Json, default=dict)
    crashes: Mapped[int] = mapped_column(default=0)
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)


class DocumentRow(Base):
    """A text that a stage leaves for readers, such as the report page; gzip."""

    __tablename__ = "job_documents"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), primary_key=True)
    content: Mapped[bytes] = mapped_column(sa.LargeBinary, deferred=True)


class IdempotencyRow(Base):
    """The first answer to an Idempotency-Key, and what was asked."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(sa.String(255), primary_key=True)
    digest: Mapped[str] = mapped_column(sa.String(64))
    answer: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class WorkerRow(Base):
    """A worker that lives or lived. Others watch `beats` grow on their own clock, so no clock has to be right."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    lane: Mapped[str] = mapped_column(sa.String(40))
    host: Mapped[str] = mapped_column(sa.String(120))
    pid: Mapped[int]
    beats: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
