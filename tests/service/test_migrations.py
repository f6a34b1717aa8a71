"""Tables: made once, by whoever comes first, beside Optuna's; autogenerate leaves theirs alone."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import migrations
from optimizer.search.storage import create_storage
from service import migration
from service.database import Base, Database
from service.jobs.workflow import system_database
from service.kit.errors import UnreadyError
from service.settings import Settings
from tests.service.postgres import Postgres

OURS = set(Base.metadata.tables)


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        settings = Settings(home=tmp_path / "home")
    else:
        settings = Settings(home=tmp_path / "home", database_url=request.getfixturevalue("postgres").create())
    settings.prepare()
    return settings


def tables(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names())


def test_migrate_makes_every_table_and_may_be_repeated(config: Settings) -> None:
    database = Database(config.database)
    assert not migration.is_current(database)
    for _ in range(2):
        told = migration.migrate_everything(config)
        assert migration.is_current(database)
        assert tables(database) >= OURS | {"studies", "trials", "alembic_version", migration.VERSION_TABLE}
    assert "***" in told or "sqlite" in told or "@" not in told
    dbos = sa.create_engine(system_database(config, "shared").replace("postgresql://", "postgresql+psycopg://"))
    schema = None if config.on_sqlite else "dbos"
    assert "workflow_status" in sa.inspect(dbos).get_table_names(schema=schema)
    migration.ensure(config, database)
    database.close()


def test_autogenerate_sees_nothing_to_do_and_leaves_optunas_tables_alone(config: Settings) -> None:
    migration.upgrade(config.database)
    create_storage(config.database)
    database = Database(config.database)

    def ours(name: str | None, kind: str, _parents: object) -> bool:
        return name in Base.metadata.tables if kind == "table" else True

    options = {"compare_type": True, "version_table": migration.VERSION_TABLE, "include_name": ours}
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
    database.close()


def test_down_and_up_again(config: Settings) -> None:
    migration.upgrade(config.database)
    create_storage(config.database)
    database = Database(config.database)
    from alembic import command

    settings = Config()
    settings.set_main_option("script_location", str(Path(migrations.__file__).parent))
    settings.set_main_option("sqlalchemy.url", config.database.replace("%", "%%"))
    command.downgrade(settings, "base")
    assert tables(database) & OURS == set()
    assert "studies" in tables(database), "Optuna's stay"
    migration.upgrade(config.database)
    assert tables(database) >= OURS
    database.close()


def test_the_newest_revision_is_the_one_that_processes_look_for() -> None:
    settings = Config()
    settings.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(settings).get_heads() == [migrations.HEAD]


def test_sqlite_is_made_by_whoever_comes_first(settings: Settings) -> None:
    failures: list[Exception] = []

    def start() -> None:
        database = Database(settings.database)
        try:
            migration.ensure(settings, database)
            assert migration.is_current(database)
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_database_that_is_not_there_is_said_without_its_password(tmp_path: Path) -> None:
    database = Database("postgresql+psycopg://user:hush@127.0.0.1:1/temper?connect_timeout=2")
    with pytest.raises(UnreadyError, match="cannot be reached") as caught:
        migration.is_current(database)
    assert "hush" not in str(caught.value)


def test_postgresql_is_not_changed_behind_the_operators_back(tmp_path: Path, postgres: Postgres) -> None:
    settings = Settings(home=tmp_path, database_url=postgres.create())
    database = Database(settings.database)
    with pytest.raises(UnreadyError, match="temper migrate"):
        migration.ensure(settings, database)
    assert tables(database) == set()
    database.close()
