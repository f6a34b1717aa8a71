"""Optuna's tables in our database: made once, opened many times, on SQLite and PostgreSQL.

Optuna keeps its schema version in `alembic_version`; our own migrations therefore use another version table.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from optimizer.errors import SearchError

_BUSY_SECONDS = 60.0
_ATTEMPTS = 5
_OWNER = "worker"

# Optuna's own handler writes to stderr whatever the program wants; its records go through `logging` instead.
optuna.logging.disable_default_handler()
optuna.logging.enable_propagation()
optuna.logging.set_verbosity(optuna.logging.WARNING)
logger = logging.getLogger(__name__)


class _TunedConnection(sqlite3.Connection):
    """SQLite as many workers need it: readers do not block the writer, a commit costs no disk flush of its own.

    With synchronous=NORMAL a power cut may take back the last commits, never tear the file. What must survive is
    the caller's trial record; Optuna's tables are brought up to it when a search is resumed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = NORMAL")


def _engine_arguments(url: str) -> dict[str, Any]:
    if make_url(url).get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _BUSY_SECONDS, "factory": _TunedConnection}}
    return {"pool_pre_ping": True, "pool_size": 2}


def _with_driver(url: str) -> str:
    """Name psycopg 3 where a PostgreSQL address names no driver (SQLAlchemy would take psycopg2)."""
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def create_storage(url: str) -> None:
    """Make Optuna's tables at `url` where they are not; for `temper migrate`, and harmless to repeat.

    Raises:
        SearchError: the database cannot be reached, or another Optuna made its tables.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _closed(RDBStorage(_with_driver(url), _engine_arguments(url)))
            return
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            # Two processes creating the same tables at once: one of them loses, and finds them made the next time.
            if attempt == _ATTEMPTS:
                raise _unusable(url, error, "check that the database answers and may be written") from error
            time.sleep(0.2 * attempt)
        except RuntimeError as error:
            raise _unusable(url, error, "run `optuna storage upgrade` on a copy of the database first") from error


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    """Optuna's storage at `url`, whose tables `create_storage` has made.

    Raises:
        SearchError: the tables are not there, or are not this Optuna's.
    """
    try:
        storage = RDBStorage(_with_driver(url), _engine_arguments(url), skip_table_creation=True)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        raise _unusable(url, error, "run `temper migrate`") from error
    try:
        yield storage
    finally:
        _closed(storage)


def _closed(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _unusable(url: str, error: Exception, mend: str) -> SearchError:
    name = make_url(url).render_as_string(hide_password=True)
    cause = str(error.__cause__ or error).strip().splitlines()[0]
    return SearchError(f"database {name}: Optuna's tables cannot be used ({cause})", mend=mend)


def owner_of(user_attributes: dict[str, Any]) -> str | None:
    """Who scores the trial with these user attributes; None when nobody has claimed it."""
    owner = user_attributes.get(_OWNER)
    return None if owner is None else str(owner)


def claim(storage: RDBStorage, trial_id: int, worker: str, previous: str | None) -> bool:
    """Make `worker` the owner of a trial if its owner still is `previous`; of many that try at once, one gets True.

    Optuna has no compare-and-set on a running trial, so this is one statement on its table of user attributes.
    """
    row = {"trial": trial_id, "key": _OWNER, "mine": json.dumps(worker)}
    try:
        with storage.engine.begin() as connection:
            if previous is None:
                statement = "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial, :key, :mine)"
                connection.execute(text(statement), row)
                return True
            statement = (
                "UPDATE trial_user_attributes SET value_json = :mine "
                "WHERE trial_id = :trial AND key = :key AND value_json = :theirs"
            )
            updated = connection.execute(text(statement), row | {"theirs": json.dumps(previous)})
            return updated.rowcount == 1
    except IntegrityError:
        return False


def set_parameters(
    storage: RDBStorage, trial_id: int, values: Mapping[str, float], distributions: Mapping[str, BaseDistribution]
) -> None:
    """Write all parameters of a running trial in one transaction: after a kill it has all of them or none.

    Optuna writes them one by one, each with its own commit; with hundreds of coefficients that costs seconds a trial.
    """
    rows = [
        {"trial": trial_id, "name": name, "value": value, "distribution": distribution_to_json(distributions[name])}
        for name, value in values.items()
    ]
    statement = (
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
        "VALUES (:trial, :name, :value, :distribution)"
    )
    with storage.engine.begin() as connection:
        connection.execute(text(statement), rows)
