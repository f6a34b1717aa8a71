"""How a job looks in a terminal: stages, a bar, what it has to say; plain lines where the output is no terminal."""

import json
import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from service.jobs.schemas import EventView, MergeJob, Stage, Status

POLL_SECONDS = 0.5
#: without a terminal, progress is told this often, in seconds
QUIET_SECONDS = 15.0
COLORS = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "magenta",
}
_STYLES = {"warning": "yellow", "error": "red"}


class Source(Protocol):
    """Where news of a job come from: a `Client`, or the database of a `temper run`."""

    def job(self, job_id: str) -> MergeJob:
        """The job as it is."""

    def events(self, job_id: str, *, after: int) -> list[EventView]:
        """What happened since the event `after`, oldest first."""


def duration(seconds: float) -> str:
    """`8.2 s`, `3:07 min`, `2:05 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def follow(
    source: Source, job_id: str, console: Console, *, as_json: bool, tick: Callable[[], None] | None = None
) -> MergeJob:
    """Show a job until it has ended.

    Args:
        as_json: one JSON object a line on standard output instead: events, then the job.
        tick: called about twice a second.
    """
    if as_json:
        job = _each(source, job_id, _print_events, tick)
        print_json(job)
        return job
    if not console.is_terminal:
        return _each(source, job_id, _Lines(console).show, tick)
    view = _View()
    with Live(view, console=console, refresh_per_second=8, transient=True) as live:

        def show(job: MergeJob, events: list[EventView]) -> None:
            for event in events:
                if line := told(event):
                    live.console.print(line)
            view.job = job

        job = _each(source, job_id, show, tick)
    console.print(_View(job))
    return job


def _print_events(_job: MergeJob, events: list[EventView]) -> None:
    for event in events:
        print_json(event)


def print_json(model: MergeJob | EventView) -> None:
    sys.stdout.write(model.model_dump_json() + "\n")
    sys.stdout.flush()


def print_object(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _each(
    source: Source,
    job_id: str,
    show: Callable[[MergeJob, list[EventView]], object],
    tick: Callable[[], None] | None,
) -> MergeJob:
    after = 0
    while True:
        job = source.job(job_id)  # before its events: what is told with the last status is then never missed
        events = source.events(job_id, after=after)
        after = events[-1].id if events else after
        show(job, events)
        if job.status.final and not events:
            return job
        if tick is not None:
            tick()
        time.sleep(POLL_SECONDS if not job.status.final else 0.05)


def told(event: EventView) -> Text | None:
    """An event as a line; what the stages' display shows anyway is not told again."""
    if event.type not in ("message", "warning", "error"):
        return None
    label = "" if event.type == "message" else f"{event.type}: "
    return Text(f"{event.created_at.astimezone():%H:%M:%S}  {label}{event.message}", _STYLES.get(event.type, "default"))


class _Lines:
    """For logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console, self._told, self._last = console, 0.0, ""

    def show(self, job: MergeJob, events: list[EventView]) -> None:
        for event in events:
            label = f"{event.type}: " if event.type in ("warning", "error") else ""
            self._print(f"{event.created_at.astimezone():%H:%M:%S}  {label}{event.message}")
        moment = time.monotonic()
        if job.progress is not None and moment - self._told >= QUIET_SECONDS:
            self._told = moment
            p = job.progress
            line = f"{p.stage}: {p.done} of {p.total} {p.unit}" + (f", {p.note}" if p.note else "")
            if line != self._last:
                self._print(f"          {line}")
            self._last = line

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _View:
    """The live picture of a job."""

    def __init__(self, job: MergeJob | None = None) -> None:
        self.job = job
        self._began = time.monotonic()

    def __rich__(self) -> Group:
        job = self.job
        if job is None:
            return Group(Text("…", "dim"))
        head = Text.assemble((job.name, "bold"), "  ", (job.id, "dim"), "  ", (job.status.value, COLORS[job.status]))
        table = Table.grid(padding=(0, 2))
        for stage in Stage:
            table.add_row(*self._row(job, stage))
        return Group(head, table)

    def _row(self, job: MergeJob, stage: Stage) -> tuple[Text | Progress, ...]:
        seconds = job.seconds.get(stage)
        here = job.stage is stage and not job.status.final
        if here:
            mark, style = Text("›", "cyan"), "bold"
        elif seconds is not None and not (job.stage is stage and job.status in (Status.FAILED, Status.CANCELLED)):
            mark, style = Text("✓", "green"), "default"
        elif job.stage is stage:
            mark, style = Text("✗", COLORS[job.status]), "default"
        else:
            mark, style = Text("·", "dim"), "dim"
        spent = Text(duration(seconds) if seconds is not None else "", "dim", justify="right")
        detail = _bar(job) if here and job.progress is not None and job.progress.stage is stage else Text("")
        return mark, Text(stage.value, style), spent, detail


def _bar(job: MergeJob) -> Progress:
    p = job.progress
    assert p is not None
    bar = Progress(
        BarColumn(bar_width=28),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        TextColumn("[dim]{task.fields[eta]}[/dim]"),
        TextColumn("[dim]{task.fields[note]}[/dim]", markup=True),
    )
    eta = f"{duration(p.eta_seconds)} left" if p.eta_seconds else ""
    note = p.note.replace("[", r"\[")
    bar.add_task("", completed=p.done, total=max(p.total, 1), unit=p.unit, eta=eta, note=note)
    return bar


def job_table(jobs: list[MergeJob]) -> Table:
    """Jobs, a line each."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("job", "name", "status", "stage", "submitted", "took"):
        table.add_column(column, no_wrap=column != "name")
    for job in jobs:
        began, ended = job.started_at, job.finished_at
        took = duration((ended - began).total_seconds()) if began and ended else ""
        stage = job.stage.value if job.stage and job.status is not Status.SUCCEEDED else ""
        if job.progress is not None and job.status is Status.RUNNING:
            stage += f" {job.progress.done}/{job.progress.total}"
        status = Text(job.status.value, COLORS[job.status])
        table.add_row(job.id, job.name, status, stage, f"{job.created_at.astimezone():%Y-%m-%d %H:%M}", took)
    return table


def job_details(job: MergeJob) -> Group:
    """One job with its stages and what it made."""
    lines: list[Text] = []
    if job.winner is not None:
        lines.append(Text(f"winner    trial {job.winner}"))
    if job.artifact is not None:
        lines.append(Text(f"artifact  {job.artifact}"))
    if job.error is not None:
        lines.append(Text(job.error, "red"))
    return Group(_View(job), *lines)
