"""Where the service keeps things and how it is reached. Every field is an environment variable: `TEMPER_HOME`, …"""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    """Read from the environment once, at the start of a process."""

    model_config = SettingsConfigDict(env_prefix="TEMPER_", extra="ignore", frozen=True)

    home: Path = Field(default=Path("~/.temper"), description="database, artifacts, working folders, logs")
    database_url: str = Field(default="", description="SQLite in the home folder, or postgresql://…")
    host: str = "127.0.0.1"
    port: int = Field(default=8642, ge=0, le=65535)
    api_key: SecretStr | None = Field(default=None, description="asked for as a bearer token; needed off loopback")
    allowed_hosts: list[str] = Field(default_factory=list, description="further values of the Host header to answer")
    embedded_worker: bool = Field(default=True, description="`temper serve` runs one worker as its child")
    namespace: str = Field(default="local", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="of published artifacts")
    worker_name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,80}$", description="stable and unique per worker")
    silence_seconds: float = Field(default=30.0, gt=1, description="a worker silent this long loses its jobs to others")
    log_format: Literal["text", "json"] = "text"

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _with_driver(cls, url: str) -> str:
        for prefix in ("postgresql://", "postgres://"):
            if url.startswith(prefix):
                return "postgresql+psycopg://" + url.removeprefix(prefix)
        return url

    @field_validator("api_key")
    @classmethod
    def _not_empty(cls, key: SecretStr | None) -> SecretStr | None:
        return key if key and key.get_secret_value() else None

    @cached_property
    def database(self) -> str:
        """SQLAlchemy URL of our tables and Optuna's."""
        return self.database_url or f"sqlite:///{self.home / 'temper.sqlite'}"

    @property
    def on_sqlite(self) -> bool:
        return self.database.startswith("sqlite")

    @property
    def on_loopback(self) -> bool:
        return self.host in LOOPBACK

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def jobs(self) -> Path:
        """Working folders, one a job."""
        return self.home / "jobs"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    def prepare(self) -> None:
        """Create the home folder, readable by its owner alone: it holds generated questions."""
        self.home.mkdir(parents=True, exist_ok=True)
        os.chmod(self.home, 0o700)
        for folder in (self.artifacts, self.jobs, self.logs):
            folder.mkdir(exist_ok=True)
