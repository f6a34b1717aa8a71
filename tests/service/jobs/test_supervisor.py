"""The keeper of a child process: starts it again with a growing pause, and takes it along when it goes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.jobs.supervisor import Supervisor
from tests.service.jobs.processes import ROOT, alive, until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Supervisor]:
    keeper = Supervisor(SLEEP, tmp_path / "logs" / "worker.log", dict(os.environ))
    yield keeper
    keeper.stop()


def next_pid(keeper: Supervisor, old: int | None = None) -> int:
    def look() -> int | None:
        keeper.poll()
        return keeper.pid if keeper.pid != old else None

    pid: int = until(look, 20)
    return pid


def test_a_child_that_dies_is_started_again(keeper: Supervisor, caplog: pytest.LogCaptureFixture) -> None:
    first = next_pid(keeper)
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first))
    second = next_pid(keeper, first)
    assert alive(second)
    assert "was killed by SIGKILL; starting it again in 0.5 s" in caplog.text
    os.kill(second, signal.SIGKILL)
    until(lambda: not alive(second))
    next_pid(keeper, second)
    assert "starting it again in 1.0 s" in caplog.text


def test_stop_leaves_nothing(keeper: Supervisor) -> None:
    pid = next_pid(keeper)
    keeper.stop()
    assert not alive(pid)
    keeper.poll()
    assert keeper.pid is None


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.supervisor.STOP_SECONDS", 0.3)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    keeper = Supervisor([sys.executable, "-c", deaf], tmp_path / "worker.log", dict(os.environ))
    pid = next_pid(keeper)
    until(lambda: "deaf" in (tmp_path / "worker.log").read_text())
    keeper.stop()
    assert not alive(pid)


def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    fail = [sys.executable, "-c", "raise SystemExit('no such database')"]
    keeper = Supervisor(fail, tmp_path / "worker.log", dict(os.environ))

    def trouble() -> str | None:
        keeper.poll()
        return keeper.trouble()

    assert "no such database" in until(trouble, 20)


def test_a_child_killed_by_a_signal_is_no_such_trouble(keeper: Supervisor) -> None:
    pid = None
    for _ in range(3):
        pid = next_pid(keeper, pid)
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not alive(pid))
        keeper.poll()
    assert keeper.trouble() is None


@pytest.mark.parametrize("busy", ["time.sleep(60)", "sum(range(10**12))"])
def test_die_with_its_parent_even_on_sigkill(tmp_path: Path, busy: str) -> None:
    """Also while the child computes and lets no other thread run."""
    child = f"import os, sys, time; from service.jobs.parent import die_with; die_with(int(sys.argv[1])); print(os.getpid(), flush=True); {busy}"  # fmt: skip  # noqa: E501
    parent = (
        "import subprocess, sys, os, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())], stdin=subprocess.PIPE)\n"
        "time.sleep(60)\n"
    )
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=out)
    pid = int(until(lambda: (tmp_path / "out").read_text().strip(), 30))
    time.sleep(0.2)
    assert alive(pid)
    process.kill()
    process.wait()
    until(lambda: not alive(pid), 5)
