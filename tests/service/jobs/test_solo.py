"""`temper run`: a job without a service; cut off and run again, cancelled and resumed."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from datagen.errors import TemperError
from service.database import Database
from service.jobs import service
from service.jobs.schemas import MergeJobRequest, Status
from service.jobs.solo import run_job
from service.jobs.worker import _take_name
from service.kit import bytecode
from service.kit.errors import InvalidError
from service.settings import Settings
from tests.service.jobs.processes import ROOT, alive, until
from tests.service.jobs.test_durability import Processes

RUN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it for its children
import sys
from pathlib import Path
from rich.console import Console
from service.jobs.file import read
from service.jobs.solo import run_job
from service.settings import Settings
import os
command = [sys.executable, "-m", "tests.service.jobs.short_worker", str(os.getpid())]
job = run_job(Settings(), read(Path(sys.argv[1])), Console(), command=command, resume="resume" in sys.argv)
print(job.status, job.artifact)
"""


def command() -> list[str]:
    return [sys.executable, "-m", "tests.service.jobs.short_worker", str(os.getpid())]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_job_is_done_and_told(settings: Settings, request_: MergeJobRequest, console: Console) -> None:
    job = run_job(settings, request_, console, command=command())
    assert job.status is Status.SUCCEEDED
    assert job.artifact is not None
    for line in ("data begins", "warning: the parents were not really looked at", "export took", "succeeded"):
        assert line in text(console)
    assert not list(settings.home.glob("dbos.sqlite")), "a worker of the service's would not see this job"


def test_a_job_that_fails_says_so(settings: Settings, request_: MergeJobRequest, console: Console) -> None:
    job = run_job(settings, request_.model_copy(update={"name": "unlucky"}), console, command=command())
    assert job.status is Status.FAILED
    assert "error: the finalists all write gibberish" in text(console)


def test_a_bad_job_starts_nothing(settings: Settings, body: dict[str, Any], console: Console) -> None:
    with pytest.raises(InvalidError, match="no folder"):
        run_job(settings, MergeJobRequest.model_validate(body | {"base": "/nowhere"}), console, command=command())
    assert list(settings.logs.iterdir()) == []


def test_a_worker_that_cannot_start_is_told_with_its_reason(
    settings: Settings, request_: MergeJobRequest, console: Console
) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('libtorch.so is missing')"]
    with pytest.raises(TemperError, match=r"libtorch\.so is missing"):
        run_job(settings, request_, console, command=broken)


def test_nothing_to_resume_is_said(settings: Settings, request_: MergeJobRequest, console: Console) -> None:
    with pytest.raises(TemperError, match="no job yet"):
        run_job(settings, request_, console, resume=True, command=command())


def test_cut_off_and_run_again_it_goes_on(settings: Settings, body: dict[str, Any], tmp_path: Path) -> None:
    process, job_id = _start(settings, body, tmp_path)
    workers = Processes(settings.home).worker_pids()
    process.kill()
    process.wait()
    until(lambda: not any(map(alive, workers)), 5)
    again, _ = _start(settings, body, tmp_path, wait=False)
    out, _err = again.communicate(timeout=120)
    assert f"going on with {job_id}" in out
    assert f"{Status.SUCCEEDED} local/toy@" in out
    evaluated = (settings.jobs / job_id / "evaluated.txt").read_text().split()
    assert len(evaluated) - len(set(evaluated)) <= 1
    assert len(set(evaluated)) == 60


def test_ctrl_c_cancels_and_resume_goes_on(settings: Settings, body: dict[str, Any], tmp_path: Path) -> None:
    process, job_id = _start(settings, body, tmp_path)
    process.send_signal(signal.SIGINT)
    out, _err = process.communicate(timeout=30)
    assert "cancelled" in out
    assert process.returncode != 0
    assert Processes(settings.home).worker_pids() == []
    database = Database(settings.database)
    with database.read() as session:
        row = service.found(session, job_id)
        assert (row.status, row.owner) == (Status.CANCELLED, None)
    database.close()
    again, _ = _start(settings, body, tmp_path, "resume", wait=False)
    out, _err = again.communicate(timeout=120)
    assert f"{Status.SUCCEEDED} local/toy@" in out
    evaluated = (settings.jobs / job_id / "evaluated.txt").read_text().split()
    assert len(set(evaluated)) == 60


def _start(
    settings: Settings, body: dict[str, Any], tmp_path: Path, *arguments: str, wait: bool = True
) -> tuple["subprocess.Popen[str]", str]:
    """`temper run` in a process of its own; with `wait`, in mid-search."""
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(body | {"search": {"trials": 60}})), sort_keys=False))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(file), *arguments],
        cwd=ROOT,
        env={
            **bytecode.inherit(dict(os.environ)),
            "TEMPER_HOME": str(settings.home),
            "PYTHONPATH": str(ROOT),
            "TEMPER_TEST_PACE": "0.1" if wait else "0.02",  # slow enough to be met in mid-search by a busy machine
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not wait:
        return process, ""

    def begun() -> str | None:
        for file in settings.jobs.glob("*/evaluated.txt"):
            if len(file.read_text().split()) > 5:
                return file.parent.name
        return None

    return process, until(begun)


def test_two_runs_of_one_file_do_not_share_a_worker(
    settings: Settings, database: Database, request_: MergeJobRequest, console: Console
) -> None:
    job = service.accept(database, request_, lane="run")
    with database.read() as session:
        lane = service.found(session, job.id).lane
    _name, lock = _take_name(settings, lane)  # as the first run's worker holds it
    try:
        with pytest.raises(TemperError, match="is running already"):
            run_job(settings, request_, console, command=command())
    finally:
        lock.close()
