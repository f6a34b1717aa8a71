"""The command line. Commands are thin: they read their arguments, call one thing and print.

Exit codes: 0 done, 1 the job failed or was cancelled (or another error), 2 a wrong argument or job file, 3 the service
cannot be reached, 130 interrupted.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from datagen.errors import TemperError
from service.jobs.schemas import MergeJob, MergeJobRequest, Status
from service.kit import bytecode
from service.settings import Settings

if TYPE_CHECKING:
    from service.client import Client

app = typer.Typer(
    name="temper",
    help="Merge expert language models without losing their alignment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
jobs_app = typer.Typer(help="Look at jobs and stop them.", no_args_is_help=True)
app.add_typer(jobs_app, name="jobs")

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]
JobFile = Annotated[Path, typer.Argument(help="A job file (YAML).", metavar="JOB.YAML", show_default=False)]
JobId = Annotated[str, typer.Argument(help="A job's id.", metavar="JOB", show_default=False)]
Url = Annotated[str | None, typer.Option("--url", help="Address of the service.", envvar="TEMPER_URL")]
Home = Annotated[Path | None, typer.Option("--home", help="Database, artifacts, logs.", envvar="TEMPER_HOME")]

#: people read this one; programs read standard output
console = Console(stderr=True, highlight=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"temper {version('temper-merge')}")
        raise typer.Exit


@app.callback()
def temper(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Merge expert language models without losing their alignment."""


@app.command()
def serve(
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = None,
    worker: Annotated[bool, typer.Option(help="Run a worker as well.")] = True,
) -> None:
    """Serve the HTTP API and the pages, with one worker as a child process."""
    from service.app import serve as start
    from service.kit import logs

    settings = _settings(home, host=host, port=port, embedded_worker=worker)
    logs.configure(settings.log_format)
    start(settings)


@app.command()
def worker(
    home: Home = None,
    name: Annotated[str | None, typer.Option(help="Stable and unique; by default HOST.1, HOST.2, …")] = None,
    lane: Annotated[str, typer.Option(hidden=True)] = "shared",
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run jobs of the database until stopped; a job that was cut off goes on."""
    from service.jobs.parent import die_with

    if parent is not None:
        die_with(parent)
    from service.jobs.preload import Preloaded
    from service.jobs.worker import Worker
    from service.kit import logs

    settings = _settings(home, worker_name=name)
    logs.configure(settings.log_format)
    Worker(settings, Preloaded("service.jobs.stages"), lane=lane).run()


@app.command()
def migrate(home: Home = None) -> None:
    """Create or update the tables of the database: Temper's, Optuna's, DBOS's."""
    from service.kit import logs
    from service.migration import migrate_everything

    settings = _settings(home)
    logs.configure(settings.log_format, level=logging.WARNING)
    settings.prepare()
    console.print(f"{migrate_everything(settings)} is up to date")


@app.command()
def submit(
    file: JobFile,
    url: Url = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it has ended.")] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency key: submits at most one job.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a job file and submit it to the service."""
    from service.client import Client
    from service.jobs.terminal import print_json

    request = _read(file)
    with Client(url) as client:
        job = _with_lines(file, lambda: client.submit(request, key=key))
        if as_json and not watch:
            print_json(job)
        elif not as_json:
            console.print(f"[bold]{job.id}[/bold]  {client.url}/jobs/{job.id}")
        if watch:
            _follow(client, job.id, as_json)
        elif not as_json:
            console.print(f"follow it with [bold]temper watch {job.id}[/bold]", style="dim")


@app.command()
def watch(job: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Follow a job until it has ended."""
    from service.client import Client

    with Client(url) as client:
        _follow(client, job, as_json)


@app.command()
def pull(
    what: Annotated[str, typer.Argument(help="NAMESPACE/NAME, NAMESPACE/NAME@SHA, or a job's id.", metavar="ARTIFACT")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder; by default ./NAME.", show_default=False)] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Download a checkpoint, checked, going on where an earlier pull was cut off."""
    from service.artifacts.store import parse
    from service.client import Client
    from service.jobs.terminal import print_object

    with Client(url) as client:
        reference = what if "/" in what else _artifact_of(client, what)
        folder = to or Path(parse(reference)[1])
        with _byte_bar(as_json) as show:
            client.pull(reference, folder, show)
        sha = client.artifact(reference)["sha"]
    if as_json:
        print_object({"path": str(folder.absolute()), "artifact": f"{reference.partition('@')[0]}@{sha}"})
    else:
        console.print("every file arrived with the sha256 it was published with", style="dim")
        typer.echo(folder.absolute())


@app.command()
def run(
    file: JobFile,
    home: Home = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this file's last failed or cancelled job.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Do a job here, without a service. Run again after a crash, it goes on."""
    from service.artifacts.store import Store, parse
    from service.jobs.solo import run_job
    from service.kit import logs

    settings = _settings(home)
    logs.configure(settings.log_format, level=logging.ERROR)
    request = _read(file)
    job = _with_lines(file, lambda: run_job(settings, request, console, resume=resume, as_json=as_json))
    if job.status is Status.SUCCEEDED and job.artifact and not as_json:
        typer.echo(Store(settings.artifacts).get(*parse(job.artifact)).folder)
    raise typer.Exit(0 if job.status is Status.SUCCEEDED else 1)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe: mergekit's YAML or Temper's.", metavar="RECIPE.YAML")],
    out: Annotated[Path | None, typer.Argument(help="Folder of the result; must not exist.", metavar="OUT")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads that compute; 0: one a core, at most 8.", min=0)] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16, whatever the recipe says.")] = None,
    shard_size: Annotated[str, typer.Option(help="Most bytes of tensors in a file: 500MB, 5GB.")] = "5GB",
    seed: Annotated[int | None, typer.Option(help="Seed of random masks.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="A key of config.json in which models may differ; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would read, write and take.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge models by a recipe, without a search. Nothing appears at OUT before all of it is there."""
    from service.merging import Wanted, merge_recipe

    merge_recipe(
        recipe, out, Wanted(device, threads, dtype, shard_size, seed, tuple(allow or ())), console, dry_run, as_json
    )


@app.command("to-mergekit")
def to_mergekit(
    recipe: Annotated[Path, typer.Argument(help="A Temper recipe.", metavar="RECIPE.YAML")],
) -> None:
    """Print a Temper recipe in mergekit's format: mergekit makes the same tensors of it."""
    from optimizer.merging.recipe_file import RecipeFile

    typer.echo(RecipeFile.read(recipe).in_mergekit_format(), nl=False)


@app.command()
def inspect(
    models: Annotated[
        list[str],
        typer.Argument(help="A folder or repository, perhaps with an adapter: PATH[@REV][+LORA].", metavar="MODEL…"),
    ],
    as_json: AsJson = False,
) -> None:
    """Say what models are made of and, of several, whether they can be merged; no weight is read."""
    from optimizer.merging.inspection import inspect_pool
    from service.inspection import show
    from service.jobs.terminal import print_object

    pool = inspect_pool(models)
    if as_json:
        print_object(pool.to_dict())
    else:
        show(pool, Console(highlight=False))


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Everything the demo makes goes here.")] = Path("temper-demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running.")] = False,
) -> None:
    """Build the tiny zoo, merge it over HTTP, pull the result and print what it scores."""
    from service.demo.demo import run_demo

    typer.echo(run_demo(folder, Console(highlight=False), keep=keep))


@jobs_app.command("list")
def list_jobs(
    url: Url = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs."""
    from itertools import islice

    from service.client import Client
    from service.jobs.terminal import job_table, print_json

    with Client(url) as client:
        found = list(islice(client.jobs(limit=min(limit, 100)), limit))
    if as_json:
        for job in found:
            print_json(job)
    else:
        Console(highlight=False).print(job_table(found) if found else "no jobs yet")


@jobs_app.command("show")
def show_job(job: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one job."""
    from service.client import Client
    from service.jobs.terminal import job_details, print_json

    with Client(url) as client:
        found = client.job(job)
    if as_json:
        print_json(found)
    else:
        Console(highlight=False).print(job_details(found))


@jobs_app.command("cancel")
def cancel_job(job: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Cancel a job; one that runs stops within seconds."""
    _change(job, url, as_json, "cancel")


@jobs_app.command("resume")
def resume_job(job: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Queue a failed or cancelled job again; finished stages stay finished."""
    _change(job, url, as_json, "resume")


def _change(job_id: str, url: str | None, as_json: bool, what: str) -> None:
    from service.client import Client
    from service.jobs.terminal import print_json

    with Client(url) as client:
        job = client.cancel(job_id) if what == "cancel" else client.resume(job_id)
    if as_json:
        print_json(job)
    else:
        console.print(f"{job.id} is {job.status}")


def _settings(home: Path | None, **given: Any) -> Settings:
    """Settings of the environment, with those of the command line above them."""
    return Settings(**{name: value for name, value in {"home": home, **given}.items() if value is not None})


def _read(file: Path) -> MergeJobRequest:
    from service.jobs.file import read

    return read(file)


def _with_lines(file: Path, submit: Callable[[], MergeJob]) -> MergeJob:
    """Submit; faults that were found in the job are told with their lines in the file."""
    from service.client import ClientError
    from service.jobs.file import refused
    from service.kit.errors import InvalidError

    try:
        return submit()
    except (ClientError, InvalidError) as error:
        if not error.faults:
            raise
        raise refused(file, error.faults) from error


def _follow(client: "Client", job_id: str, as_json: bool) -> None:
    from service.jobs.terminal import follow

    try:
        job = follow(client, job_id, console, as_json=as_json)
    except KeyboardInterrupt:
        console.print(f"\nthe job goes on; [bold]temper watch {job_id}[/bold] follows it again", style="dim")
        raise
    _finish(job, as_json=as_json)


def _finish(job: MergeJob, *, as_json: bool) -> None:
    """Say how a job ended, and exit with it."""
    if job.status is not Status.SUCCEEDED:
        if job.error and not as_json:
            console.print(f"[red]{job.status}[/red]: {escape(job.error)}")
        raise typer.Exit(1)
    if job.artifact and not as_json:
        console.print(f"[dim]get it with[/dim] [bold]temper pull {job.artifact.partition('@')[0]}[/bold]")
        typer.echo(job.artifact)


def _artifact_of(client: "Client", job_id: str) -> str:
    job = client.job(job_id)
    if job.artifact is None:
        raise TemperError(f"job {job_id} has published nothing; it is {job.status}")
    return job.artifact


@contextmanager
def _byte_bar(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar for downloads."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(bar_width=28), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("[dim]{task.description}"), console=console, disable=quiet) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, path: bar.update(task, completed=done, total=total, description=escape(path))


def main() -> None:
    """The `temper` command."""
    bytecode.keep()
    from service.client import ClientError, UnreachableError
    from service.jobs.file import JobFileError
    from service.kit.errors import InvalidError

    # Threads that wait for work must not spin: the engine and the scorer share the cores. The demo trains its zoo
    # before it starts anything else; alone on the machine, spinning threads make that twice as fast.
    if sys.argv[1:2] != ["demo"]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except TemperError as error:
        _tell(error)
        if isinstance(error, UnreachableError):
            sys.exit(3)
        wrong = isinstance(error, JobFileError | InvalidError) or (
            isinstance(error, ClientError) and error.status == 422
        )
        sys.exit(2 if wrong else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _tell(error: TemperError) -> None:
    """An error as people read it, or as JSON for a program that asked for that."""
    if "--json" in sys.argv:
        from service.jobs.terminal import print_object

        print_object({"error": {"detail": error.message, "mend": error.mend}})
    for line in error.message.splitlines():
        console.print(f"[red]error:[/red] {escape(line)}", soft_wrap=True)
    if error.mend:
        console.print(f"[dim]mend:[/dim]  {escape(error.mend)}", soft_wrap=True)


if __name__ == "__main__":
    main()
