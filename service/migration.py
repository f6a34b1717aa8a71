"""Creates and updates every table in the database: ours, Optuna's, DBOS's."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

import migrations
from service.database import Database
from service.kit.errors import UnreadyError
from service.settings import Settings

VERSION_TABLE = "alembic_version_temper"


def is_current(database: Database) -> bool:
    """Whether our tables are what this version of Temper expects.

    Raises:
        UnreadyError: the database cannot be reached.
    """
    try:
        with database.engine.connect() as connection:
            if not sa.inspect(connection).has_table(VERSION_TABLE):
                return False
            return bool(connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")) == migrations.HEAD)
    except sa.exc.OperationalError as error:
        name = sa.make_url(database.url).render_as_string(hide_password=True)
        cause = str(error.orig).strip().splitlines()[0]
        raise UnreadyError(
            f"the database {name} cannot be reached: {cause}", mend="check TEMPER_DATABASE_URL"
        ) from error


def ensure(settings: Settings, database: Database) -> None:
    """Bring SQLite up to date; ask for `temper migrate` where the database is shared by many machines.

    Raises:
        UnreadyError: the database cannot be reached or is not up to date.
    """
    if is_current(database):
        return
    if not settings.on_sqlite:
        raise UnreadyError("the database is not up to date", mend="run `temper migrate` once, then start again")
    with _alone(settings.home / "migrate.lock"):
        if not is_current(database):
            upgrade(settings.database)


def migrate_everything(settings: Settings) -> str:
    """Every table there is, of Temper, Optuna and DBOS; harmless to repeat.

    Returns:
        the database's address without its password.
    """
    # imported here: the API process starts without them
    from dbos import DBOS

    from optimizer.search.storage import create_storage
    from service.jobs.workflow import system_database

    with _alone(settings.home / "migrate.lock"):
        upgrade(settings.database)
        create_storage(settings.database)
        DBOS.migrate(system_database(settings, "shared"))
    return sa.make_url(settings.database).render_as_string(hide_password=True)


def upgrade(url: str, revision: str = "head") -> None:
    """Bring our own tables to a revision."""
    # imported here, for an API that starts on a database that is up to date would pay for it with half a second
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, revision)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
