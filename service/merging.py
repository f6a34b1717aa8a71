"""`temper merge` at a terminal: what will happen, how far it is, what came out."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.sink import SIZES, parse_size
from optimizer.merging.estimate import Estimate, estimate, probe
from optimizer.merging.merge import Progress as Report
from optimizer.merging.plan import DTYPE_OF, Plan
from optimizer.merging.recipe_file import MergeOptions, RecipeFile
from optimizer.merging.stream import Crew
from service.inspection import WIDE
from service.jobs.terminal import duration, print_object


@dataclass(frozen=True)
class Wanted:
    """The options of the command line, as they were typed."""

    device: str
    threads: int
    dtype: str | None
    shard_size: str
    seed: int | None
    allow: Sequence[str]

    def options(self) -> MergeOptions:
        """The same, checked.

        Raises:
            RecipeError: a device, dtype or size that is none or is not here.
        """
        if self.dtype is not None and self.dtype not in DTYPE_OF:
            raise RecipeError(f"--dtype {self.dtype!r} found, expected {', '.join(DTYPE_OF)}")
        if not SIZES.fullmatch(self.shard_size):
            raise RecipeError(f"--shard-size {self.shard_size!r} found, expected a number with KB, MB or GB")
        return MergeOptions(
            self.dtype,
            parse_size(self.shard_size),
            self.seed,
            frozenset(self.allow),
            Crew(self._device(), self.threads),
        )

    def _device(self) -> str:
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise RecipeError(f"--device {self.device!r} found, expected cpu, cuda or cuda:NUMBER") from None
        if device.type not in ("cpu", "cuda"):
            raise RecipeError(f"--device {self.device!r} found, expected cpu, cuda or cuda:NUMBER")
        usable = torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= usable:
            raise RecipeError(
                f"--device {self.device}: this machine has {usable} such devices that PyTorch can use",
                mend="merge on the CPU; merging is bounded by the disk more often than not",
            )
        return self.device


def merge_recipe(
    recipe: Path, out: Path | None, wanted: Wanted, console: Console, dry_run: bool, as_json: bool
) -> None:
    """Merge, or say what merging would take. The folder of the result goes to standard output.

    Raises:
        RecipeError, PoolError, CheckpointError: see `RecipeFile`; RecipeError also for no place to write to.
    """
    options = wanted.options()
    file = RecipeFile.read(recipe)
    if dry_run:
        _tell_plans(file.plans(options), out or Path(), options, as_json)
        return
    if out is None:
        raise RecipeError("no folder for the result given", mend=f"temper merge {recipe} OUT, or --dry-run")
    with merge_bar(console, quiet=as_json or not console.is_terminal) as show:
        manifest = file.carry_out(out, options, show)
    if as_json:
        print_object({"path": str(out.absolute()), "bytes": manifest.size, "digest": manifest.digest})
        return
    console.print(f"{len(manifest.files)} files, {size(manifest.size)}", style="dim")
    typer.echo(out.absolute())


def _tell_plans(plans: Sequence[Plan], out: Path, options: MergeOptions, as_json: bool) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    for number, plan in enumerate(plans, start=1):
        expected = estimate(plan, probe(plan, out), options.crew)
        if as_json:
            print_object(plan_object(plan, expected))
            continue
        if len(plans) > 1:
            console.print(f"[bold]document {number} of {len(plans)}[/bold]")
        console.print(plan_table(plan, expected))


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
