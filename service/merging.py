"""`temper merge` at a terminal: what will happen, how far it is, what came out."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from optimizer.merging.estimate import Estimate
from optimizer.merging.merge import Progress as Report
from optimizer.merging.plan import Plan
from service.jobs.terminal import duration


def size(count: int) -> str:
    """`17 B`, `1.5 KB`, `942.3 MB`: decimal, as disks are sold."""
    number, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def plan_table(plan: Plan, expected: Estimate) -> RenderableType:
    """A plan and what it will take."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    merged = [step for step in plan.steps if step.method is not None]
    methods = ", ".join(dict.fromkeys(step.method.name for step in merged if step.method is not None))
    copied = len(plan.steps) - len(merged)
    table.add_row("method", escape(methods or "none: every tensor is copied"))
    for name, folder in plan.models.items():
        table.add_row("model", escape(name if name == str(folder) else f"{name}: {folder}"))
    table.add_row("tensors", f"{len(merged):,} merged" + (f", {copied:,} copied" if copied else ""))
    table.add_row("reads", size(expected.bytes_read))
    table.add_row("writes", size(expected.bytes_written))
    table.add_row("memory", f"at most {size(expected.peak_memory)}, pages of mapped files not counted")
    parts = f"reading {expected.reading:.1f}, arithmetic {expected.arithmetic:.1f}, writing {expected.writing:.1f}"
    table.add_row("time", f"about {duration(expected.seconds)} ({parts}; writing overlaps with the rest)")
    for warning in plan.warnings:
        table.add_row("[yellow]warning[/yellow]", escape(warning))
    return table


def plan_object(plan: Plan, expected: Estimate) -> dict[str, object]:
    """The same for programs: bytes and seconds."""
    return {
        "models": {name: str(folder) for name, folder in plan.models.items()},
        "tensors": len(plan.steps),
        "bytes_read": expected.bytes_read,
        "bytes_written": expected.bytes_written,
        "peak_memory_bytes": expected.peak_memory,
        "seconds": round(expected.seconds, 3),
        "warnings": list(plan.warnings),
    }


@contextmanager
def merge_bar(console: Console, *, quiet: bool) -> Iterator[Report]:
    """A progress bar over the bytes that are written."""
    columns = (BarColumn(bar_width=28), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        *columns, TextColumn("[dim]{task.description}"), console=console, disable=quiet, transient=True
    ) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, _unit: str, tensor: str) -> None:
            bar.update(task, completed=done, total=total, description=escape(tensor))

        yield show
