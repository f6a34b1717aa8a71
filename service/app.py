"""The HTTP service: routes, errors, and the embedded worker. Imports no torch; ready in a moment."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI

from service import migration
from service.artifacts import endpoints as artifacts
from service.dashboard import pages
from service.database import Database, now
from service.events import endpoints as events
from service.jobs import endpoints as jobs
from service.jobs.supervisor import Supervisor, worker_command, worker_environment
from service.jobs.tables import WorkerRow
from service.kit import errors
from service.kit.dependencies import AppDatabase, AppSettings
from service.kit.errors import ConflictError, UnreadyError
from service.kit.guard import Guard
from service.settings import Settings
from service.trials import endpoints as trials

log = logging.getLogger(__name__)

#: how often the embedded worker is looked after
POLL_SECONDS = 0.5


def create_app(settings: Settings, supervisor: Supervisor | None = None) -> FastAPI:
    """The application. `supervisor` keeps a worker alive for as long as the application runs.

    Raises:
        UnreadyError: the database cannot be reached or is not up to date.
    """
    settings.prepare()
    database = Database(settings.database)
    migration.ensure(settings, database)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        keeper = asyncio.create_task(_keep(supervisor)) if supervisor else None
        try:
            yield
        finally:
            if keeper is not None and supervisor is not None:
                keeper.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await keeper
                supervisor.stop()
            database.close()

    app = FastAPI(title="Temper", version=version("temper-merge"), lifespan=lifespan)
    app.state.settings, app.state.database = settings, database
    errors.install(app)
    app.add_middleware(Guard, settings=settings)
    for router in (jobs.router, trials.router, events.router, artifacts.router):
        app.include_router(router)
    pages.install(app)
    _add_health(app)
    return app


async def _keep(supervisor: Supervisor) -> None:
    """Runs in the main thread's event loop: the worker dies with the thread that started it."""
    while True:
        supervisor.poll()
        await asyncio.sleep(POLL_SECONDS)


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"])
    def healthy() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    def ready(database: AppDatabase, settings: AppSettings) -> dict[str, object]:
        """The database answers and is up to date. `workers` beat lately; without one, jobs wait."""
        if not migration.is_current(database):
            raise UnreadyError("the database is not up to date", mend="run `temper migrate`")
        with database.read() as session:
            lately = now() - timedelta(seconds=settings.silence_seconds)
            workers = session.scalar(sa.select(sa.func.count()).where(WorkerRow.seen_at > lately))
        return {"status": "ok", "workers": workers}


def serve(settings: Settings, command: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM. `command` starts the embedded worker, by default `temper worker`.

    Raises:
        ConflictError: bound to more than this machine without an API key, or the port is taken.
    """
    if not settings.on_loopback and settings.api_key is None:
        raise ConflictError(
            f"refusing to listen on {settings.host}: whoever reaches it could read and start jobs",
            mend="set TEMPER_API_KEY, or listen on 127.0.0.1",
        )
    listener = _listen(settings)
    supervisor = None
    if settings.embedded_worker:
        supervisor = Supervisor(command or worker_command(), settings.logs / "worker.log", worker_environment(settings))
    app = create_app(settings, supervisor)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    log.info("Temper is at http://%s:%d/ (home: %s)", host, listener.getsockname()[1], settings.home)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2, server_header=False)
    _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A signal ends it with exit code 0; uvicorn's own dies of the signal once more after it has shut down."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def _listen(settings: Settings) -> socket.socket:
    """Bind before anything is started, so that a taken port costs nothing."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConflictError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
            mend="another `temper serve` may be running; set TEMPER_PORT or give --port",
        ) from error
    listener.set_inheritable(False)
    return listener
