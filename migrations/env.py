"""Alembic's entry. Optuna keeps its own tables, and its own `alembic_version`, in the same database: ours are told
apart by name, so that autogenerate never drops theirs."""

from alembic import context
from sqlalchemy import MetaData

import service.events.tables
import service.jobs.tables
import service.trials.tables  # noqa: F401 - the imports above fill Base.metadata
from service.database import Base, Database
from service.settings import Settings

VERSION_TABLE = "alembic_version_temper"
metadata: MetaData = Base.metadata


def ours(name: str | None, kind: str, _parents: object) -> bool:
    return name in metadata.tables if kind == "table" else True


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or Settings().database
    database = Database(url)
    try:
        with database.engine.execution_options(writes=True).connect() as connection:
            context.configure(
                connection=connection,
                target_metadata=metadata,
                version_table=VERSION_TABLE,
                include_name=ours,
                compare_type=True,
                render_as_batch=connection.dialect.name == "sqlite",
                transactional_ddl=True,
            )
            with context.begin_transaction():
                context.run_migrations()
            connection.commit()
    finally:
        database.close()


run()
