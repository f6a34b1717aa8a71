"""What every benchmark prints: a table for people, the same figures as JSON for programs."""

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure beside its floor, both in seconds and of the same run; `ratio` is what to look at.

    Attributes:
        target: the highest ratio that is good enough.
        own_bytes: peak of the process's own memory, mapped files not counted.
    """

    name: str
    seconds: float
    floor_seconds: float
    floor: str
    target: float | None = None
    own_bytes: int | None = None

    @property
    def ratio(self) -> float:
        return self.seconds / self.floor_seconds


def arguments(about: str) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here as well")
    return parser


def show(
    title: str, rows: Sequence[Row], json_path: Path | None, facts: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Print the rows, and write them where asked for, with `facts` about the run."""
    table = Table(title=title, title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))
    columns = ["what", "seconds", "floor", "ratio", "target", "memory", "the floor is"]
    shown = [column for column in columns if any(_cells(row)[column] for row in rows)]
    for column in shown:
        table.add_column(column, justify="left" if column in ("what", "the floor is") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cells(row)[column] for column in shown))
    Console(width=120, highlight=False).print(table)
    if json_path is not None:
        figures = [{**asdict(row), "ratio": row.ratio} for row in rows]
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        content = {"title": title, "machine": machine, **facts, "rows": figures}
        json_path.write_text(json.dumps(content, indent=1) + "\n")


def _cells(row: Row) -> dict[str, str]:
    return {
        "what": row.name,
        "seconds": f"{row.seconds:.2f}",
        "floor": f"{row.floor_seconds:.2f}",
        "ratio": f"{row.ratio:.2f}",
        "target": "" if row.target is None else f"≤ {row.target:g}",
        "memory": "" if row.own_bytes is None else f"{row.own_bytes / 1e9:.2f} GB",
        "the floor is": row.floor,
    }
