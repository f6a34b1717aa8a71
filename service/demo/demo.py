"""`temper demo`: the main job end to end, as a user would do it over HTTP, on the tiny zoo.

Builds the zoo, starts the service, submits the job, follows it, pulls the checkpoint and checks that what was pulled
says what the report claims.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from datagen.errors import TemperError
from service.client import Client
from service.demo.check import check_pulled
from service.demo.job import demo_job
from service.demo.table import score_table
from service.demo.zoo import Zoo, build_zoo
from service.jobs.schemas import MergeJob, Status
from service.jobs.terminal import follow

START_SECONDS = 30.0


class DemoError(TemperError):
    """The demo did not come to its end."""


def run_demo(folder: Path, console: Console, *, keep: bool = False) -> Path:
    """Run the demo with everything it makes under `folder`.

    Args:
        keep: leave the server running.

    Returns:
        Path of `result.json`.

    Raises:
        DemoError: the server did not start, the job failed, or the pulled checkpoint differs from its report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.absolute()
    began = time.monotonic()
    zoo = _zoo(console)
    built = time.monotonic() - began
    with _server(folder / "home", keep=keep) as (url, process), Client(url) as client:
        console.print(f"dashboard: [bold]{url}[/bold]")
        job = client.submit(demo_job(zoo))
        console.print(f"job:       [bold]{url}/jobs/{job.id}[/bold]\n")
        job = follow(client, job.id, console, as_json=False)
        if job.status is not Status.SUCCEEDED or job.artifact is None:
            raise DemoError(f"the job {job.status}: {job.error}", mend=f"the worker's log is in {folder}/home/logs")
        report = client.report(job.id)
        (folder / "report.html").write_text(_report_page(url, job.id))
        pulled = client.pull(job.artifact, folder / "pulled")
        manifest = client.artifact(job.artifact)
        trials = sum(1 for _ in client.trials(job.id))
        check_pulled(pulled, folder / "home", job, report, console)
        result = _result(job, report, trials, pulled, manifest, {"zoo": built})
        path = folder / "result.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        console.print(score_table(report))
        _say_goodbye(console, folder, url, job, process, keep=keep)
    return path


def _zoo(console: Console) -> Zoo:
    """The zoo, trained with a progress bar if it is not cached."""
    columns = (TextColumn("{task.description:<24}"), BarColumn(bar_width=28), TextColumn("{task.completed}/{task.total} steps"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        tasks: dict[str, Any] = {}

        def progress(model: str, step: int, steps: int) -> None:
            if model not in tasks:
                tasks[model] = bars.add_task(f"training {model}", total=steps)
            bars.update(tasks[model], completed=step, total=steps)

        return build_zoo(progress=progress)


@contextmanager
def _server(home: Path, *, keep: bool) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`temper serve` on a free port of the loopback; stopped at the end unless it is to be kept and all went well."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    home.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TEMPER_")}
    for name in ("TEMPER_CACHE",):
        if name in os.environ:
            environment[name] = os.environ[name]
    log = (home / "serve.log").open("ab")
    command = [sys.executable, "-m", "service.cli", "serve", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        _wait_until_ready(url, process, home / "serve.log")
        yield url, process
    except BaseException:
        keep = False
        raise
    finally:
        log.close()
        if not keep:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise DemoError("the service did not become ready", mend=f"its log is {log}")


def _report_page(url: str, job_id: str) -> str:
    answer = httpx.get(f"{url}/v1/merge_jobs/{job_id}/report.html", trust_env=False)
    answer.raise_for_status()
    return answer.text


def _result(
    job: MergeJob,
    report: dict[str, Any],
    trials: int,
    pulled: Path,
    manifest: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """What programs read: scores by model, the winner's name, seconds by stage, the files with their hashes."""
    return {}
