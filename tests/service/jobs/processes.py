"""Real `temper serve` and `temper worker` processes whose stages are short."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.client import Client, UnreachableError
from service.jobs.schemas import MergeJob
from service.kit import bytecode

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `true` returned, once it is truthy."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {true}"
        time.sleep(0.05)
    return value


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Processes:
    """Everything that was started, so that everything is stopped."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home, self.port = home, free_port()
        self._environment = {
            **bytecode.inherit(dict(os.environ)),
            "TEMPER_HOME": str(home),
            "TEMPER_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self.client = Client(f"http://127.0.0.1:{self.port}")

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "output.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=self._environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    def serve(self) -> subprocess.Popen[bytes]:
        """A server that answers."""
        process = self.start("tests.service.jobs.short_server")
        until(self.answers)
        return process

    def worker(self, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("tests.service.jobs.short_worker", **environment)

    def answers(self) -> bool:
        try:
            list(self.client.jobs(limit=1))
        except UnreachableError:
            return False
        return True

    def worker_pids(self) -> list[int]:
        """Of workers that run under this home."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and alive(int(folder.name)):
                try:
                    command = (folder / "cmdline").read_bytes()
                    variables = (folder / "environ").read_bytes()
                except OSError:
                    continue
                if b"short_worker" in command and f"TEMPER_HOME={self.home}\0".encode() in variables:
                    found.append(int(folder.name))
        return found

    def ended(self, job_id: str, seconds: float = 90.0) -> MergeJob:
        """The job, once it is final."""

        def look() -> MergeJob | None:
            job = self.client.job(job_id)
            return job if job.status.final else None

        job: MergeJob = until(look, seconds)
        return job

    def evaluated(self, job_id: str) -> list[int]:
        """Numbers of the trials whose evaluation began, in order, repetitions included."""
        path = self.home / "jobs" / job_id / "evaluated.txt"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def stop(self) -> None:
        self.client.close()
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self.worker_pids():
            os.kill(pid, signal.SIGKILL)
