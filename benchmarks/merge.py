"""Merges to disk, each beside the least it could have taken on this machine in the same run.

    python -m benchmarks.merge [--small] [--peer] [--methods ties,slerp|all] [--warm] [--device cuda] [--json PATH]

A merge is a whole process, from its start to a synced folder: `temper merge RECIPE OUT`. Its floor is a process, too,
that reads every byte of the same inputs and writes and syncs one output (benchmarks/floor.py); one runs right before
every merge. Inputs are evicted from the page cache before both, unless `--warm` has them in it before both. What
earlier runs wrote is removed and synced first. Seconds are medians over the rounds, memory the highest of them.

The first row is what a process takes to start and import what a merge needs; small models merge in less time than that.
With `--peer` mergekit 0.1.5 merges the same recipes in the same rounds.
"""

import json
import os
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks import peer, processes
from benchmarks.checkpoints import POOLS, SMALL, Pool, Sizes, make
from benchmarks.processes import Usage
from benchmarks.table import Row, arguments, show
from optimizer.merging.stream import Crew

#: `temper merge`, as this environment has it
TEMPER: tuple[str, ...] = (sys.executable, "-m", "service.cli", "merge")
START = "start alone"
WEIGHTS = (0.5, 0.3, 0.2)


@dataclass(frozen=True)
class Entry:
    """A method as it is measured: how many models (None: all), whether beside a base, with which parameters.

    `target` is the highest ratio to the floor that is good enough, where one has been set.
    """

    target: float | None = None
    models: int | None = None
    base: bool = True
    weighted: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)


ENTRIES: Mapping[str, Entry] = {
    "task_arithmetic": Entry(1.3, weighted=True),
    "ties": Entry(2.5, weighted=True, parameters={"density": 0.5}),
    "dare_linear": Entry(3, weighted=True, parameters={"density": 0.5}),
    "dare_ties": Entry(3, weighted=True, parameters={"density": 0.5}),
    "della": Entry(3, weighted=True, parameters={"density": 0.5, "epsilon": 0.15}),
    "della_linear": Entry(3, weighted=True, parameters={"density": 0.5, "epsilon": 0.15}),
    "breadcrumbs": Entry(3, weighted=True, parameters={"density": 0.9, "gamma": 0.01}),
    "breadcrumbs_ties": Entry(3, weighted=True, parameters={"density": 0.9, "gamma": 0.01}),
    "slerp": Entry(3, models=1, parameters={"t": 0.5}),
    "sce": Entry(3, parameters={"select_topk": 0.1}),
    "linear": Entry(base=False, weighted=True),
    "nuslerp": Entry(models=2, base=False, weighted=True),
    "multislerp": Entry(base=False, weighted=True),
    "karcher": Entry(base=False),
    "model_stock": Entry(),
    "ram": Entry(),
    "ramplus_tl": Entry(),
    "nearswap": Entry(models=1, parameters={"t": 0.001}),
    "arcee_fusion": Entry(models=1),
    "passthrough": Entry(models=1, base=False),
}


@dataclass(frozen=True)
class Bout:
    """What one process took, the floor that was measured right before it, and the disk's speed then."""

    usage: Usage
    floor: Usage
    disk: Mapping[str, float] = field(default_factory=dict)


def main() -> None:
    parser = arguments("Merges to disk against their floors.")
    parser.add_argument("--small", action="store_true", help="74 million numbers a model instead of 494 million")
    parser.add_argument("--methods", help="names with commas between them, or all; by default those with a target")
    parser.add_argument("--warm", action="store_true", help="inputs are in the page cache; by default on the disk only")
    parser.add_argument("--device", default="cpu", help="where Temper computes: cpu, cuda, cuda:1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help=f"mergekit {peer.VERSION} merges the same recipes as well")
    parser.add_argument("--peer-folder", type=Path, default=peer.PEER, help="its virtual environment")
    parser.add_argument("--folder", type=Path, default=POOLS, help="checkpoints are made and kept here, outputs too")
    options = parser.parse_args()
    methods = _methods(parser.error, options.methods)
    if options.peer:
        peer.check_peer(options.peer_folder)
    sizes = SMALL if options.small else Sizes()
    pool = make(options.folder, 3, sizes.layers, vocabulary=sizes.vocabulary)
    bouts: dict[str, list[Bout]] = {}
    for _ in range(options.rounds):
        for name, bout in _round(methods, pool, options):
            bouts.setdefault(name, []).append(bout)
    state = "in the page cache" if options.warm else "on the disk only"
    numbers = sum(file.stat().st_size for file in _weights(pool.base)) // 2
    rows = [_row(name, found) for name, found in bouts.items()]
    facts = {"numbers": numbers, "threads": Crew().size, "rounds": options.rounds, "disk": _disk(bouts.values())}
    show(f"merges of {numbers / 1e6:,.0f} million numbers a model, inputs {state}", rows, options.json, facts)


def _methods(refuse: Callable[[str], Any], given: str | None) -> list[str]:
    if given is None:
        return [name for name, entry in ENTRIES.items() if entry.target is not None]
    names = list(ENTRIES) if given == "all" else given.split(",")
    if unknown := [name for name in names if name not in ENTRIES]:
        refuse(f"no method {unknown[0]!r}, there are {', '.join(ENTRIES)}")
    return names


def _round(methods: Sequence[str], pool: Pool, options: Namespace) -> Iterator[tuple[str, Bout]]:
    """Every method once, by Temper and, where asked for, by its peer."""
    with tempfile.TemporaryDirectory(dir=options.folder, prefix=".round-") as scratch:
        home = Path(scratch)
        recipe, out, log = home / "recipe.yaml", home / "out", home / "log"
        where = () if options.device == "cpu" else ("--device", options.device)
        sides: dict[str, Callable[[], Usage]] = {"": lambda: processes.run([*TEMPER, recipe, out, *where], log)}
        if options.peer:
            sides[f", mergekit {peer.VERSION}"] = lambda: peer.merge(options.peer_folder, recipe, out, log)
        yield START, Bout(_python(log, "-c", "import optimizer.merging.merge"), _python(log, "-c", ""))
        for method in methods:
            text, folders = recipe_of(method, pool)
            recipe.write_text(text)
            inputs = [file for folder in folders for file in _weights(folder)]
            for side, merge in sides.items():
                floor = _settled(inputs, home / "floor", options.warm, lambda: _floor(inputs, home))  # noqa: B023
                disk = json.loads(log.read_text())
                yield method + side, Bout(_settled(inputs, out, options.warm, merge), floor, disk)


def _settled(inputs: Sequence[Path], out: Path, warm: bool, measure: Callable[[], Usage]) -> Usage:
    """Measure with the disk at rest and the inputs in the page cache or out of it; remove what was written."""
    os.sync()
    (processes.warm if warm else processes.evict)(inputs)
    usage = measure()
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()
    return usage


def _floor(inputs: Sequence[Path], home: Path) -> Usage:
    return _python(home / "log", "-m", "benchmarks.floor", home / "floor", *inputs)


def _python(log: Path, *arguments: str | Path) -> Usage:
    return processes.run([sys.executable, *arguments], log)


def recipe_of(method: str, pool: Pool) -> tuple[str, list[Path]]:
    """A mergekit recipe, and the folders that it reads, the base first."""
    entry = ENTRIES[method]
    folders = list(pool.models.values())[: entry.models]
    weights = [{"parameters": {"weight": weight}} if entry.weighted else {} for weight in WEIGHTS]
    recipe: dict[str, Any] = {
        "merge_method": method,
        "models": [
            {"model": str(folder), **weight} for folder, weight in zip(folders, weights[: len(folders)], strict=True)
        ],
        "parameters": dict(entry.parameters),
        "dtype": "bfloat16",
    }
    if entry.base:
        recipe["base_model"] = str(pool.base)
        folders.insert(0, pool.base)
    return yaml.safe_dump(recipe, sort_keys=False), folders


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _disk(bouts: Iterable[Sequence[Bout]]) -> dict[str, float]:
    """Bytes a second, as the floors have found them."""
    found = [bout.disk for row in bouts for bout in row if bout.disk]
    return {way: median(disk[way] for disk in found) for way in ("read", "write")}


def _row(name: str, bouts: Sequence[Bout]) -> Row:
    method, _, other = name.partition(",")
    return Row(
        name,
        median(bout.usage.seconds for bout in bouts),
        median(bout.floor.seconds for bout in bouts),
        "an empty Python" if name == START else "read every input, write and sync one output",
        target=ENTRIES[method].target if method in ENTRIES and not other else None,
        own_bytes=max(bout.usage.own_bytes for bout in bouts),
    )


if __name__ == "__main__":
    main()
