"""The one database: SQLite in WAL mode by default, PostgreSQL for many machines. Sessions, types, nothing of a domain.

Sessions come from `Database.read()` and `Database.write()`. A write begins with SQLite's write lock in hand (BEGIN
IMMEDIATE): a transaction that reads first and writes later would otherwise fail with "database is locked" at once,
whatever the busy timeout, when another process wrote in between. A commit is on disk when it returns
(synchronous=FULL).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session

T = TypeVar("T")

#: seconds a SQLite connection waits for another writer
BUSY_SECONDS = 30
#: text JSON on PostgreSQL too: its JSONB forgets the order of keys, and the order of a job's models means something
Json = sa.JSON(none_as_null=True)


class UtcDateTime(sa.TypeDecorator[datetime]):
    """An aware UTC time; SQLite itself forgets the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)  # type: ignore[no-any-return]


class Base(DeclarativeBase):
    """Root of all tables."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def now() -> datetime:
    return datetime.now(UTC)


class Database:
    """Opens sessions; one a process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _sqlite(url) if url.startswith("sqlite") else _postgresql(url)
        self._writer = self.engine.execution_options(writes=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view; nothing is written."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, committed at the end of the block, rolled back on an error."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def insist(self, work: Callable[[Session], T], *, patience: float = 120.0) -> T:
        """Write `work`, again when the connection is lost or the database is busy: it may restart in mid-search.

        `work` must be harmless to repeat: an answer may be lost after the commit.

        Args:
            patience: seconds after which the error is raised after all.
        """
        deadline, pause = time.monotonic() + patience, 0.1
        while True:
            try:
                with self.write() as session:
                    return work(session)
            except DBAPIError as error:
                if not _passing(error) or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 5.0)

    def close(self) -> None:
        self.engine.dispose()


def _passing(error: DBAPIError) -> bool:
    """Whether the same statement may well succeed a moment later."""
    return error.connection_invalidated or isinstance(error, sa.exc.OperationalError)


def _sqlite(url: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, below
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_SECONDS * 1000}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: str) -> sa.Engine:
    return sa.create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)
