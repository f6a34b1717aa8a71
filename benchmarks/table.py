"""What every benchmark prints: a table for people, the same figures as JSON for programs."""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure beside its floor, both in seconds and of the same run; `ratio` is what to look at."""

    name: str
    seconds: float
    floor_seconds: float
    floor: str

    @property
    def ratio(self) -> float:
        return self.seconds / self.floor_seconds


def arguments(about: str) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here as well")
    return parser


def show(title: str, rows: Sequence[Row], json_path: Path | None) -> None:
    """Print the rows, and write them where asked for."""
    table = Table(title=title, title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("what", "seconds", "floor", "ratio", "the floor is"):
        table.add_column(column, justify="left" if column in ("what", "the floor is") else "right", no_wrap=True)
    for row in rows:
        table.add_row(row.name, f"{row.seconds:.2f}", f"{row.floor_seconds:.2f}", f"{row.ratio:.2f}", row.floor)
    Console(width=120, highlight=False).print(table)
    if json_path is not None:
        figures = [{**asdict(row), "ratio": row.ratio} for row in rows]
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        json_path.write_text(json.dumps({"title": title, "machine": machine, "rows": figures}, indent=1) + "\n")
