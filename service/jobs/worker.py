"""`temper worker`: runs jobs until it is told to stop. Killed at any moment, the next one of its name goes on."""

import fcntl
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO

from sqlalchemy.exc import DBAPIError

from optimizer.search.storage import create_storage
from service import migration
from service.database import Database
from service.jobs.crew import Crew
from service.jobs.runner import Runner, Stages
from service.jobs.service import SHARED
from service.jobs.workflow import Workflows
from service.kit.errors import ConflictError
from service.settings import Settings

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
WATCH_SECONDS = 0.5
BEAT_SECONDS = 2.0
MEND_SECONDS = 3.0


class Worker:
    """One worker process.

    Args:
        stages: what runs, by stage.
        lane: whose jobs; "shared" or that of one `temper run`.
    """

    def __init__(self, settings: Settings, stages: Stages, *, lane: str = SHARED) -> None:
        settings.prepare()
        self._settings, self._stages, self._lane = settings, stages, lane
        self.name, self._lock = _take_name(settings, lane)
        self._database = Database(settings.database)
        self._stop = threading.Event()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then leave at once; what runs goes on when a worker of this name is back."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        migration.ensure(self._settings, self._database)
        if self._settings.on_sqlite:
            create_storage(self._settings.database)
        runner = Runner(self._database, self._settings, self.name, self._stages)
        crew = Crew(self._database, self.name, self._lane, self._settings.silence_seconds)
        crew.join()
        workflows = Workflows(self._settings, self._database, runner, self._lane)
        workflows.launch()
        log.info("worker %s is ready", self.name)
        duties = (
            _Duty(workflows.relay, TICK_SECONDS),
            _Duty(runner.watch, WATCH_SECONDS),
            _Duty(crew.beat, BEAT_SECONDS),
            _Duty(lambda: workflows.mend(crew.living()), MEND_SECONDS),
        )
        while not self._stop.wait(TICK_SECONDS):
            for duty in duties:
                duty.do_when_due()
        self._leave(runner, crew)

    def _asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _leave(self, runner: Runner, crew: Crew) -> None:
        log.info("worker %s stops", self.name)
        try:
            runner.leave()
            crew.leave()
        except DBAPIError as error:
            log.warning("the database did not take the good-bye: %s", error)
        # A stage may be deep in a computation that no thread can interrupt. Everything it finished is on disk already.
        logging.shutdown()
        os._exit(0)


class _Duty:
    """Something to do every few seconds, come what may."""

    def __init__(self, work: Callable[[], object], every: float) -> None:
        self._work, self._every, self._next, self._ill = work, every, 0.0, False

    def do_when_due(self) -> None:
        moment = time.monotonic()
        if moment < self._next:
            return
        self._next = moment + self._every
        try:
            self._work()
            self._ill = False
        except Exception as error:  # the database may be away for a while; the worker stays
            if not self._ill:
                log.warning("%s; trying again until it works", str(error).strip().splitlines()[0], exc_info=error)
            self._ill = True


def _take_name(settings: Settings, lane: str) -> tuple[str, IO[str]]:
    """A name that is this process's alone on this machine, and the same after a restart.

    Raises:
        ConflictError: the name asked for is a living worker's.
    """
    folder = settings.home / "workers"
    folder.mkdir(exist_ok=True)
    if settings.worker_name or lane != SHARED:
        name = settings.worker_name or lane
        lock = _lock(folder / f"{name}.lock")
        if lock is None:
            raise ConflictError(f"a worker named {name!r} is running already", mend="give another TEMPER_WORKER_NAME")
        return name, lock
    number = 1
    while (lock := _lock(folder / f"{socket.gethostname()}.{number}.lock")) is None:
        number += 1
    return f"{socket.gethostname()}.{number}", lock


def _lock(path: Path) -> IO[str] | None:
    """Held until the process ends, however it ends."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
