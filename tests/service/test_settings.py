import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("TEMPER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_by_default_everything_is_in_the_users_home_and_on_loopback(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.home == tmp_path / ".temper"
    assert settings.database == f"sqlite:///{tmp_path}/.temper/temper.sqlite"
    assert settings.on_sqlite
    assert settings.on_loopback
    assert settings.embedded_worker


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_HOME", "~/elsewhere")
    monkeypatch.setenv("TEMPER_DATABASE_URL", "postgresql://user:pw@db/temper")
    monkeypatch.setenv("TEMPER_PORT", "99")
    monkeypatch.setenv("TEMPER_EMBEDDED_WORKER", "false")
    monkeypatch.setenv("TEMPER_API_KEY", "secret")
    settings = Settings()
    assert settings.home == Path.home() / "elsewhere"
    assert settings.database == "postgresql+psycopg://user:pw@db/temper"
    assert (settings.on_sqlite, settings.port, settings.embedded_worker) == (False, 99, False)
    assert "secret" not in repr(settings)


def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_API_KEY", "")
    assert Settings().api_key is None


@pytest.mark.parametrize(("name", "value"), [("PORT", "70000"), ("NAMESPACE", "../x"), ("LOG_FORMAT", "xml")])
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TEMPER_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_the_home_folder_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / ".temper").mkdir(mode=0o755)
    Settings().prepare()
    assert (tmp_path / ".temper").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (tmp_path / ".temper").iterdir()} == {"artifacts", "jobs", "logs"}
