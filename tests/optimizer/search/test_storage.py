"""Optuna's tables live beside ours, are made once, and hold with many at the door."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext

from optimizer.errors import SearchError
from optimizer.search.storage import claim, create_storage, opened
from tests.service.postgres import Postgres, running


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'temper.db'}"
    return str(request.getfixturevalue("postgres").create())


def test_our_schema_version_and_optunas_stand_side_by_side(url: str) -> None:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    ours = {"version_table": "alembic_version_temper"}
    with engine.begin() as connection:
        MigrationContext.configure(connection, opts=ours)._ensure_version_table()
        connection.execute(sa.text("INSERT INTO alembic_version_temper VALUES ('0007')"))
    create_storage(url)
    create_storage(url)
    with opened(url) as storage, engine.begin() as connection:
        assert storage.get_current_version() == storage.get_head_version()
        assert MigrationContext.configure(connection, opts=ours).get_current_revision() == "0007"
    engine.dispose()


def test_tables_that_are_not_there_say_what_to_do(url: str) -> None:
    with pytest.raises(SearchError, match="temper migrate"), opened(url):
        pass


def test_a_password_is_not_shown() -> None:
    with pytest.raises(SearchError) as caught:
        create_storage("postgresql://temper:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_many_create_the_tables_at_once(url: str) -> None:
    errors: list[BaseException] = []

    def create() -> None:
        try:
            create_storage(url)
        except BaseException as error:  # noqa: BLE001 — shown by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with opened(url) as storage:
        assert storage.get_current_version() == storage.get_head_version()


def test_sqlite_is_tuned(tmp_path: Path) -> None:
    path = tmp_path / "temper.db"
    create_storage(f"sqlite:///{path}")
    with opened(f"sqlite:///{path}") as storage, storage.engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 60_000}
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_one_of_many_gets_a_trial(url: str) -> None:
    create_storage(url)
    with opened(url) as storage:
        study = optuna.create_study(storage=storage)
        trial = study.ask()
        assert _race(url, trial._trial_id, None) == 1
        owner = study.get_trials()[0].user_attrs["worker"]
        assert _race(url, trial._trial_id, owner) == 1
        assert study.get_trials()[0].user_attrs["worker"] != owner
        assert not claim(storage, trial._trial_id, "late", owner)


def _race(url: str, trial_id: int, previous: str | None) -> int:
    won: list[str] = []
    barrier = threading.Barrier(6)

    def take(worker: str) -> None:
        with opened(url) as storage:
            barrier.wait()
            if claim(storage, trial_id, worker, previous):
                won.append(worker)

    threads = [threading.Thread(target=take, args=(f"{previous}-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won)
