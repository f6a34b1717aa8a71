from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service import migration
from service.database import Database
from service.jobs.schemas import MergeJobRequest
from service.settings import Settings
from tests.service.jobs.pool import write_pool
from tests.service.postgres import Postgres, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home of its own, whatever the environment says."""
    for name in ("DATABASE_URL", "API_KEY", "HOST", "PORT", "URL"):
        monkeypatch.delenv(f"TEMPER_{name}", raising=False)
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "home"))
    settings = Settings(home=tmp_path / "home")
    settings.prepare()
    return settings


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """SQLite, up to date."""
    database = Database(settings.database)
    migration.ensure(settings, database)
    yield database
    database.close()


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    """A job that passes every check."""
    return write_pool(tmp_path / "pool")


@pytest.fixture
def request_(body: dict[str, Any]) -> MergeJobRequest:
    return MergeJobRequest.model_validate(body)
