"""A job on paper: seconds, memory and disk of every stage, by the formulas of docs/merge-engine.md.

    python -m benchmarks.paper [--measured MERGES.json]

Prints the plan for 8 models of 8 billion parameters on one GPU machine. With the figures of `benchmarks.merge` it also
prints these, and the formula for a merge beside what was measured, on a disk as fast as that run found it.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GB = 1e9
#: seconds of one core for a number of one input, task arithmetic: 1.1 ns for base and 3 models (`optimizer.merging
#: .estimate` times it anew on every machine)
ARITHMETIC = 0.3e-9
#: bytes a second of sha256, of one core
HASHING = 1.6 * GB
#: seconds until torch is imported
START = 3.0


@dataclass(frozen=True)
class Machine:
    """What a machine reaches, not what is printed on it. Bandwidths in bytes a second."""

    disk_read: float
    disk_write: float
    threads: int
    host_copy: float = 0.0
    link: float = 0.0
    gpu_memory: float = 0.0
    gpu_read: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True)
class Models:
    """A pool: `count` models beside the base, of `numbers` parameters in `width` bytes; `cache`: bytes of keys and
    values a token."""

    count: int
    numbers: float
    cache: float = 0.0
    width: int = 2

    @property
    def size(self) -> float:
        """Bytes of one model."""
        return self.numbers * self.width

    @property
    def all(self) -> float:
        """Bytes of the pool."""
        return (self.count + 1) * self.size


@dataclass(frozen=True)
class Work:
    """What a job asks for; the counts are the job file's defaults. `tokens` is an answer's mean length, `row` a scored
    conversation's."""

    harmful: int = 1000
    domain: int = 1000
    tokens: int = 200
    row: int = 300
    abreast: int = 128
    trials: int = 100
    steps: int = 40
    batch: int = 16
    descents: int = 3
    finalists: int = 4


@dataclass(frozen=True)
class Cost:
    """A stage: seconds, and bytes on GPU, host (page cache not counted) and disk."""

    seconds: float
    gpu: float = 0.0
    host: float = 0.0
    disk: float = 0.0


#: 80 GB of GPU memory, PCIe from memory that is not pinned, 32 cores, 256 GB of memory, one NVMe disk
MACHINE = Machine(
    disk_read=3 * GB, disk_write=1.5 * GB, threads=8, host_copy=150 * GB, link=10 * GB, gpu_memory=80 * GB,
    gpu_read=2500 * GB, flops=400e12,
)  # fmt: skip
#: Llama 3 8B: 32 layers, 8 heads of 128 for keys and values
MODELS = Models(count=8, numbers=8.03e9, cache=32 * 2 * 8 * 128 * 2)
#: what a merge in memory reaches of the copy bandwidth, and vLLM of what reading weights and cache would allow
_MERGING, _SERVING = 0.4, 0.5
#: bytes of activations for one token's backward pass, in units of layers × hidden size; 34 after arXiv 2205.05198
_ACTIVATIONS = 34 * 32 * 4096
_BATCH_TOKENS = 4096
_ENGINE_START = 60.0


def merge(models: Models, machine: Machine, start: float = START) -> Cost:
    """A merge to disk: threads read and compute in turn, while what is done is hashed and written."""
    ahead = models.all / machine.disk_read + models.numbers * (models.count + 1) * ARITHMETIC / machine.threads
    behind = models.size / machine.disk_write + models.size / HASHING
    return Cost(start + max(ahead, behind), host=0.6 * GB, disk=models.size)


def candidate(models: Models, machine: Machine) -> float:
    """Seconds to write a candidate from stacks in the host's memory: all are read, one model crosses the link."""
    moved = models.all + models.size
    return moved / (_MERGING * machine.host_copy) + models.size / machine.link


def stages(models: Models, machine: Machine, work: Work) -> dict[str, Cost]:
    """Every stage of a job, in order, the pool's stacks in the host's memory."""
    size, points = models.size, models.count + 2
    load = size / machine.disk_read
    step = (size + work.abreast * work.row * models.cache) / machine.gpu_read
    token = step / work.abreast / _SERVING
    rows = 2 * work.harmful + work.domain
    requests = 1.2 * rows + 2 * work.harmful * (models.count + 1) + work.domain
    forward = 2 * models.numbers * work.row / machine.flops
    written = candidate(models, machine)
    held = models.all + 2 * GB
    scored = size + 3 * GB
    trained = scored + _ACTIVATIONS * _BATCH_TOKENS
    contracted = size / machine.link + models.all / (_MERGING * machine.host_copy)
    descent = written + 3 * forward * work.batch * (models.count + 1) + contracted
    look = forward * 128 * (models.count + 1)
    streamed = models.all / machine.disk_read
    served = 0.9 * machine.gpu_memory
    data = Cost(_ENGINE_START + (models.count + 1) * load + requests * work.tokens * token, served, 8 * GB, 0.1 * GB)
    parents = Cost(models.all / machine.disk_read + points * (written + 0.2 * rows * forward), scored, held)
    descents = work.descents * (work.steps * descent + work.steps / 5 * look)
    search = Cost(descents + work.trials * (written + 0.5 * rows * forward), trained, held)
    select = Cost(
        _ENGINE_START
        + models.count * load
        + work.finalists * streamed
        + (models.count + work.finalists) * 0.2 * rows * work.tokens * token,
        served, 8 * GB,
    )  # fmt: skip
    report = Cost((points - 1) * load + 2 * streamed + (points + 1) * 0.3 * rows * work.tokens * token, served, 8 * GB)
    return {
        "data": data,
        "parents": parents,
        "search": search,
        "select": select,
        "report": report,
        "export": merge(models, machine, start=0.0),
    }


def table(costs: Mapping[str, Cost]) -> list[str]:
    """Lines of Markdown."""
    lines = ["| Stage | Minutes | GPU | Host | Disk |", "|---|---|---|---|---|"]
    for name, cost in costs.items():
        sizes = (f"{value / GB:.0f} GB" if value >= GB / 2 else "–" for value in (cost.gpu, cost.host, cost.disk))
        lines.append(f"| {name} | {cost.seconds / 60:.1f} | {' | '.join(sizes)} |")
    lines.append(f"| in all | {sum(cost.seconds for cost in costs.values()) / 60:.0f} | | | |")
    return lines


def compared(found: Mapping[str, Any]) -> str:
    """Task arithmetic by the formula, on the disk of that run, and as `benchmarks.merge` has measured it."""
    rows = {row["name"]: row for row in found["rows"]}
    read, write = found["disk"]["read"], found["disk"]["write"]
    machine = Machine(read, write, found["threads"])
    formula = merge(Models(3, found["numbers"]), machine, rows["start alone"]["seconds"]).seconds
    measured = rows["task_arithmetic"]["seconds"]
    return (
        f"{found['numbers'] / 1e6:.0f} million numbers, disk {read / GB:.1f} and {write / GB:.1f} GB/s: "
        f"formula {formula:.1f} s, measured {measured:.1f} s"
    )


def measured(found: Mapping[str, Any]) -> list[str]:
    """What `benchmarks.merge` has measured, as lines of Markdown."""
    lines = ["| | Seconds | Floor | Ratio | Target | Memory |", "|---|---|---|---|---|---|"]
    for row in found["rows"]:
        target = "" if row["target"] is None else f"{row['target']:g}"
        lines.append(
            f"| {row['name'].replace('_', ' ')} | {row['seconds']:.1f} | {row['floor_seconds']:.1f} "
            f"| {row['ratio']:.1f} | {target} | {row['own_bytes'] / GB:.2f} GB |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="A job of 8 models with 8 billion parameters, on paper.")
    parser.add_argument("--measured", type=Path, help="what `python -m benchmarks.merge --json` wrote")
    options = parser.parse_args()
    print("\n".join(table(stages(MODELS, MACHINE, Work()))))
    if options.measured is not None:
        found = json.loads(options.measured.read_text())
        print("\n".join(["", *measured(found), "", compared(found)]))


if __name__ == "__main__":
    main()
