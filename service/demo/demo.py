"""`temper demo`: the main job end to end, as a user would do it over HTTP, on the tiny zoo.

Builds the zoo, starts the service, submits the job, follows it, pulls the checkpoint and checks that what was pulled
says what the report claims.
"""

import json
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from datagen.errors import TemperError
from datagen.storage import read
from optimizer.reporting.report import ModelScores, Report
from service.client import Client
from service.demo.check import differences, score_pulled
from service.demo.job import demo_job
from service.demo.server import Server
from service.demo.table import score_table
from service.demo.zoo import Zoo, build_zoo
from service.jobs.folders import dataset_folder
from service.jobs.schemas import MergeJob, MergeJobRequest, Status
from service.jobs.terminal import follow
from service.settings import Settings


class DemoError(TemperError):
    """The demo did not come to its end."""


def run_demo(folder: Path, console: Console, *, keep: bool = False) -> Path:
    """Run the demo with everything it makes under `folder`.

    Args:
        keep: leave the server running.

    Returns:
        Path of `result.json`.

    Raises:
        ServerError: the server did not start.
        DemoError: the job failed, or the pulled checkpoint differs from its report.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    zoo = _zoo(console)
    built = time.monotonic() - began
    server = Server(folder / "home")
    server.start()
    try:
        path = _over_http(server.url, zoo, built, folder, console)
    except BaseException:
        server.stop()
        raise
    if keep:
        console.print(f"server      {server.url}  (stop it with: kill {server.pid})", soft_wrap=True)
    else:
        server.stop()
        console.print(f"dashboard   temper serve --home {server.home}", soft_wrap=True)
    return path


def _over_http(url: str, zoo: Zoo, built: float, folder: Path, console: Console) -> Path:
    """Everything between the server's start and its end; returns the path of `result.json`."""
    with Client(url) as client:
        job, report = _do_job(client, demo_job(zoo), folder, console)
        began = time.monotonic()
        pulled = _pull(client, job, folder, console)
        _check(pulled, job, report, folder, console)
        seconds = {"zoo": built, **{stage.value: spent for stage, spent in job.seconds.items()}}
        seconds["pull"] = time.monotonic() - began
        result: dict[str, Any] = {
            "models": {model.name: _axes(model) for model in report.models},
            "winner": report.of("winner")[0].name,
            "trials": sum(1 for _ in client.trials(job.id)),
            "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
            "artifact": {
                "path": str(pulled),
                "sha256": {file["path"]: file["sha256"] for file in client.artifact(str(job.artifact))["files"]},
            },
        }
    path = folder / "result.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    console.print()
    console.print(score_table(report))
    console.print(f"\ncheckpoint  {pulled}\nreport      {folder / 'report.html'}", soft_wrap=True)
    return path


def _do_job(client: Client, request: MergeJobRequest, folder: Path, console: Console) -> tuple[MergeJob, Report]:
    """Submit the job, follow it to its end, and save its report page."""
    job = client.submit(request)
    console.print(f"dashboard   {client.url}/jobs/{job.id}\n", soft_wrap=True)
    job = follow(client, job.id, console, as_json=False)
    if job.status is not Status.SUCCEEDED:
        raise DemoError(f"the job has {job.status}: {job.error}", mend=f"its log is in {folder / 'home' / 'logs'}")
    page = httpx.get(f"{client.url}/v1/merge_jobs/{job.id}/report.html", trust_env=False)
    (folder / "report.html").write_text(page.raise_for_status().text)
    return job, Report.model_validate(client.report(job.id))


def _pull(client: Client, job: MergeJob, folder: Path, console: Console) -> Path:
    """The checkpoint, in a folder of its own: an earlier demo's may differ."""
    sha = str(job.artifact).partition("@")[2]
    with _bars(console, "bytes") as bars:
        task = bars.add_task("pulling the checkpoint", total=None)
        return client.pull(
            str(job.artifact),
            folder / f"merged-{sha[:8]}",
            lambda done, total, _: bars.update(task, completed=done, total=total),
        )


def _check(pulled: Path, job: MergeJob, report: Report, folder: Path, console: Console) -> None:
    """Load what was pulled with transformers and measure the report's scores again."""
    settings = Settings(home=folder / "home")
    dataset = read(dataset_folder(job.request, settings))
    with _bars(console, "answers") as bars:
        task = bars.add_task("checking it in transformers", total=None)
        scores = score_pulled(
            pulled,
            dataset,
            job.request.data.max_tokens,
            lambda done, total, *_: bars.update(task, completed=done, total=total),
        )
    if off := differences(scores, report.of("winner")[0]):
        raise DemoError(
            "the pulled checkpoint does not score what its report says: "
            + ", ".join(f"{axis} {measured:.3f} instead of {said:.3f}" for axis, (measured, said) in off.items())
        )


def _axes(model: ModelScores) -> dict[str, Any]:
    return {
        "refusal": model.refusal.value,
        "compliance": model.compliance.value,
        "domains": {domain: share.value for domain, share in model.domains.items()},
    }


def _bars(console: Console, unit: str) -> Progress:
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed:.0f}/{task.total} " + unit),
    )
    return Progress(*columns, TimeElapsedColumn(), console=console)


def _zoo(console: Console) -> Zoo:
    """The zoo, trained with a progress bar if it is not cached."""
    with _bars(console, "steps") as bars:
        tasks: dict[str, Any] = {}

        def progress(model: str, step: int, steps: int) -> None:
            if model not in tasks:
                tasks[model] = bars.add_task(f"training {model}", total=steps)
            bars.update(tasks[model], completed=step, total=steps)

        return build_zoo(progress=progress)
