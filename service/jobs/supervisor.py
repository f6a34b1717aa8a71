"""Keeps one worker alive as a child process: started again when it crashes, gone when its parent is."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from service.kit import bytecode
from service.settings import Settings

log = logging.getLogger(__name__)

HEALTHY_SECONDS = 60.0
EARLY_SECONDS = 20.0
LONGEST_PAUSE = 30.0
STOP_SECONDS = 5.0
LOG_BYTES = 20_000_000


class Supervisor:
    """Call `poll` from time to time, always from the thread that lives as long as the process: the child is told when
    *that* thread is gone."""

    def __init__(self, command: Sequence[str], log_file: Path, environment: dict[str, str]) -> None:
        self._command, self._log_file, self._environment = list(command), log_file, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._began, self._due, self._pause = 0.0, 0.0, 0.5
        self._failures = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def poll(self) -> None:
        """Start the worker if there is none, again if it died."""
        moment = time.monotonic()
        if self._process is None:
            if moment >= self._due:
                self._start()
            return
        code = self._process.poll()
        if code is None:
            return
        if moment - self._began > HEALTHY_SECONDS:
            self._pause = 0.5
        self._process = None
        self._failures = self._failures + 1 if code > 0 and moment - self._began < EARLY_SECONDS else 0
        self._due = moment + self._pause
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        log.warning("the worker %s; starting it again in %.1f s (its log: %s)", how, self._pause, self._log_file)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def trouble(self) -> str | None:
        """What the worker said last, when it ended by itself at once and again: it cannot start."""
        if self._failures < 2:
            return None
        lines = self._log_file.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([*lines, f"(from {self._log_file})"])

    def _start(self) -> None:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        if self._log_file.exists() and self._log_file.stat().st_size > LOG_BYTES:
            self._log_file.replace(self._log_file.with_suffix(".old.log"))
        if self._output is not None:
            self._output.close()
        self._output = self._log_file.open("ab")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the parent, which then asks the worker to stop
        )
        self._began = time.monotonic()
        log.info("worker process %d started, its log is %s", self._process.pid, self._log_file)

    def stop(self) -> None:
        """Ask the worker to stop, then make it."""
        process, self._process, self._due = self._process, None, float("inf")
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def worker_command(*arguments: str) -> list[str]:
    """How a child process runs `temper worker`."""
    return [sys.executable, "-m", "service.cli", "worker", "--parent", str(os.getpid()), *arguments]


def worker_environment(settings: Settings) -> dict[str, str]:
    """The environment that gives a child the same settings."""
    return {
        **bytecode.inherit(dict(os.environ)),
        "TEMPER_HOME": str(settings.home),
        "TEMPER_DATABASE_URL": settings.database,
        "TEMPER_LOG_FORMAT": settings.log_format,
        "TEMPER_NAMESPACE": settings.namespace,
        "TEMPER_SILENCE_SECONDS": str(settings.silence_seconds),
        "TEMPER_WORKER_NAME": settings.worker_name,
        "PYTHONUNBUFFERED": "1",
    }
