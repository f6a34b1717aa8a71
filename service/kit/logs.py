"""One log line format for every process, with the job it is about."""

import contextvars
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

#: set around a job's stages; appears in every line logged meanwhile
current_job: contextvars.ContextVar[str] = contextvars.ContextVar("current_job", default="")


class _Text(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO service.jobs.worker job_…: message`"""

    def format(self, record: logging.LogRecord) -> str:
        job = current_job.get()
        line = f"{_time(record)} {record.levelname:<7} {record.name}{' ' + job if job else ''}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if job := current_job.get():
            fields["job"] = job
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    stamp = datetime.fromtimestamp(record.created, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{stamp.microsecond // 1000:03d}Z"


def configure(style: Literal["text", "json"], *, level: int = logging.INFO) -> None:
    """Send all logging to stderr in one format. Libraries that log every step only speak when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("dbos", "alembic", "httpx", "httpcore", "optuna", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for name in ("dbos", "uvicorn", "uvicorn.error", "uvicorn.access", "optuna"):
        adopt(name)


def adopt(name: str) -> None:
    """Let a library that brings a handler of its own log through ours."""
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [], True
