"""`temper run`: a job done here and now, by a worker of its own, without a service."""

import time
from collections.abc import Sequence

from rich.console import Console

from datagen.errors import TemperError
from service import migration
from service.database import Database
from service.events import repository as events
from service.jobs import repository, service
from service.jobs.schemas import EventView, MergeJob, MergeJobRequest, Status
from service.jobs.supervisor import Supervisor, worker_command, worker_environment
from service.jobs.terminal import follow
from service.settings import Settings

LANE = "run"
#: how long a cancelled stage may take to notice before its worker is stopped anyway, in seconds
CANCEL_SECONDS = 10.0


class Local:
    """News of jobs straight from the database, and their cancelling."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def job(self, job_id: str) -> MergeJob:
        with self._database.read() as session:
            return service.read(session, job_id)

    def events(self, job_id: str, *, after: int) -> list[EventView]:
        with self._database.read() as session:
            return [EventView.model_validate(row) for row in events.after(session, job_id, after, 500)]

    def cancel(self, job_id: str) -> None:
        """Cancel a job and wait until its worker has let go of it."""
        with self._database.write() as session:
            service.cancel(session, job_id)
        deadline = time.monotonic() + CANCEL_SECONDS
        while time.monotonic() < deadline:
            with self._database.read() as session:
                if service.found(session, job_id).owner is None:
                    return
            time.sleep(0.1)


def run_job(
    settings: Settings,
    request: MergeJobRequest,
    console: Console,
    *,
    resume: bool = False,
    as_json: bool = False,
    command: Sequence[str] | None = None,
) -> MergeJob:
    """Do a job to its end and show how it goes. Killed and run again, it goes on where it was.

    Args:
        resume: take up the newest job of this request that failed or was cancelled.
        command: starts the worker, and gets its lane as one more argument; by default `temper worker`.

    Raises:
        InvalidError: the job cannot succeed.
        TemperError: the worker cannot start.
        KeyboardInterrupt: after the job was cancelled.
    """
    settings.prepare()
    database = Database(settings.database)
    migration.ensure(settings, database)
    local = Local(database)
    job_id, lane = _open(settings, database, request, console, resume=resume)
    start = [*command, lane] if command else worker_command("--lane", lane)
    supervisor = Supervisor(start, settings.logs / f"{lane}.log", worker_environment(settings))

    def tick() -> None:
        supervisor.poll()
        if trouble := supervisor.trouble():
            raise TemperError(f"the worker cannot start:\n{trouble}")

    try:
        supervisor.poll()
        return follow(local, job_id, console, as_json=as_json, tick=tick)
    except KeyboardInterrupt:
        if not local.job(job_id).status.final:
            console.print("cancelling …", style="dim")
            local.cancel(job_id)
            console.print("cancelled; [bold]temper run --resume[/bold] goes on with it")
        raise
    finally:
        supervisor.stop()
        database.close()


def _open(
    settings: Settings, database: Database, request: MergeJobRequest, console: Console, *, resume: bool
) -> tuple[str, str]:
    """The id and the lane of the job to run: one that was cut off, one to resume, or a new one."""
    asked = service.digest(request)
    with database.write() as session:
        row = repository.newest_of(session, asked, LANE)
        if row is not None and not Status(row.status).final:
            console.print(f"going on with [bold]{row.id}[/bold], which was cut off", style="dim")
            return row.id, row.lane
        if resume:
            if row is None:
                raise TemperError("this file has no job yet that could be resumed", mend="run it without --resume")
            service.resume(session, row.id, silence_seconds=settings.silence_seconds, lane=row.lane)
            return row.id, row.lane
    job = service.accept(database, request, lane=LANE)
    with database.read() as session:
        return job.id, service.found(session, job.id).lane
