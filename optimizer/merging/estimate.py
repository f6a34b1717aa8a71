"""What a merge will take, before it is begun: bytes, memory and seconds, from the plan and a look at this machine."""

import hashlib
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from optimizer.merging.checkpoint.header import DTYPE_SIZES
from optimizer.merging.checkpoint.source import StoredTensor
from optimizer.merging.methods.base import matrix
from optimizer.merging.plan import Operand, Plan, Step
from optimizer.merging.stream import AHEAD, BLOCK, PIECE, Crew, merged_spans

#: bytes a second between host and GPU: what PCIe 4.0 with 16 lanes reaches from memory that is not pinned
HOST_TO_DEVICE = 10e9
#: bytes of a tensor's facts for every number and model: a sample of one in a hundred, scores near a threshold
FACTS = 0.1
#: what looking for facts leaves scattered in the allocator, however many threads and models; measured, the worst method
SCATTERED = 256 << 20
#: temporaries of a block that live at once, in numbers of 8 bytes: for every number of an input, and of the result
OF_INPUT, OF_RESULT = 2, 8

_PROBE = 64 << 20
_STRETCH = 4 << 20
_SAMPLE = 1 << 18
_WIDEST_SAMPLE = 1 << 15
_REPEATS = 3


@dataclass(frozen=True)
class Disk:
    """Bytes a second. The defaults are those of a plain NVMe disk."""

    read: float = 2e9
    write: float = 1e9


@dataclass(frozen=True)
class Estimate:
    """What a merge will take.

    Attributes:
        bytes_read: of the tensors that go in; a tensor that is used twice counts twice.
        bytes_written: of the tensors that come out. The free space that is needed; headers and tokenizer are small.
        peak_memory: bytes of the process's own memory. Pages of mapped files are not in it.
        reading: seconds.
        arithmetic: seconds, all threads at work.
        writing: seconds, hashing and syncing included.
    """

    bytes_read: int
    bytes_written: int
    peak_memory: int
    reading: float
    arithmetic: float
    writing: float

    @property
    def seconds(self) -> float:
        """In all. Threads read and compute in turn, while what is done already is hashed and written."""
        return max(self.reading + self.arithmetic, self.writing)


def estimate(plan: Plan, disk: Disk | None = None, crew: Crew | None = None) -> Estimate:
    """Estimate a merge. Every method of the plan is tried on a small random tensor, in some tens of milliseconds.

    Args:
        disk: where models are read and the result is written; see `probe`.
        crew: who will compute.
    """
    disk, crew = disk or Disk(), crew or Crew()
    bytes_read = sum(_bytes_in(step) for step in plan.steps)
    return Estimate(
        bytes_read,
        plan.nbytes,
        _own_memory() + peak_of_stream(plan, crew),
        bytes_read / disk.read,
        _arithmetic(plan, crew),
        plan.nbytes / disk.write + plan.nbytes * _seconds_to_hash(),
    )


def probe(plan: Plan, out: Path) -> Disk:
    """Bandwidths as they are now: about 64 MiB of the models are read, from all over their files, and as much is
    written and synced beside `out`, in a file without a name.

    What lies in the page cache is read at the speed of memory; so will the merge. Where nothing can be written or the
    plan is too small to tell, the defaults of `Disk` stand in.
    """
    default = Disk()
    return Disk(_read_speed(plan) or default.read, _write_speed(out) or default.write)


def peak_of_stream(plan: Plan, crew: Crew) -> int:
    """Bytes that the stream of a plan holds at once, at the most; see optimizer/merging/stream.py.

    Pieces that are done wait for the writer, every thread has one block with its temporaries, and facts of the tensors
    ahead are kept. A row is never cut, so rows longer than a block count in full.
    """
    waiting = 2 * crew.size + 2
    widest = 0
    facts = [0.0]
    for step in plan.steps:
        rows, columns = matrix(step.tensor.shape)
        block = min(rows, max(1, _block(crew) // max(1, columns))) * columns
        held = waiting * min(rows * columns, max(PIECE, block)) * DTYPE_SIZES[step.tensor.dtype]
        if step.method is not None:
            held += crew.size * block * 8 * (OF_INPUT * len(step.operands) + OF_RESULT)
            if step.method.prepare is not None:
                facts.append(FACTS * rows * columns * len(step.models))
        widest = max(widest, held)
    scattered = SCATTERED if len(facts) > 1 else 0
    return widest + scattered + int(sum(sorted(facts)[-AHEAD - 1 :]))


def _block(crew: Crew) -> int:
    return BLOCK.get(torch.device(crew.device).type, BLOCK["cpu"])


def _bytes_in(step: Step) -> int:
    numel = matrix(step.tensor.shape)[0] * matrix(step.tensor.shape)[1]
    return sum(numel * operand.tensor.dtype.itemsize for operand in step.operands)


def _own_memory() -> int:
    """Anonymous memory of this process, which has everything loaded that a merge needs."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 250_000_000


def _arithmetic(plan: Plan, crew: Crew) -> float:
    """Seconds of arithmetic. On a GPU it hides behind the transfers, so these are what counts."""
    work = [step for step in plan.steps if step.method is not None]
    if torch.device(crew.device).type != "cpu":
        return sum(_bytes_in(step) + step.tensor.nbytes for step in work) / HOST_TO_DEVICE
    numbers: dict[tuple[str, int], int] = {}
    largest: dict[tuple[str, int], Step] = {}
    for step in work:
        assert step.method is not None
        kind = (step.method.name, len(step.operands))
        rows, columns = matrix(step.tensor.shape)
        numbers[kind] = numbers.get(kind, 0) + rows * columns
        if kind not in largest or step.tensor.nbytes > largest[kind].tensor.nbytes:
            largest[kind] = step
    return sum(count * _seconds_a_number(largest[kind]) for kind, count in numbers.items()) / crew.size


def _seconds_a_number(step: Step) -> float:
    """Of one thread, on random numbers as wide as the step's tensor, as far as they fit into the sample."""
    assert step.case is not None
    rows, columns = matrix(step.tensor.shape)
    columns = max(1, min(columns, _WIDEST_SAMPLE))
    rows = max(1, min(rows, _SAMPLE // columns))
    draw = torch.Generator().manual_seed(0)
    base = torch.empty(rows, columns).normal_(0.0, 0.02, generator=draw)

    def like(operand: Operand) -> Operand:
        delta = torch.empty(rows, columns).normal_(0.0, 0.002, generator=draw)
        return Operand(operand.owner, StoredTensor((base + delta).to(operand.tensor.dtype)))

    sample = replace(
        step,
        tensor=replace(step.tensor, shape=(rows, columns)),
        case=replace(step.case, shape=(rows, columns)),
        base=None if step.base is None else like(step.base),
        models=tuple(like(model) for model in step.models),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return min(_timed(lambda: deque(merged_spans(sample), 0)) for _ in range(_REPEATS)) / (rows * columns)
    finally:
        torch.set_num_threads(threads)


def _seconds_to_hash() -> float:
    """A byte, of the sha256 that every file of the result gets."""
    data = bytes(4 << 20)
    return min(_timed(lambda: hashlib.sha256(data)) for _ in range(_REPEATS)) / len(data)


def _read_speed(plan: Plan) -> float | None:
    """Bytes a second, of stretches that lie evenly in the files of all models."""
    files = [file for folder in plan.models.values() for file in sorted(folder.glob("*.safetensors"))]
    sizes = [file.stat().st_size for file in files]
    every = max(_STRETCH, sum(sizes) // (_PROBE // _STRETCH))
    buffer = bytearray(_STRETCH)
    read, began = 0, time.perf_counter()
    for file, size in zip(files, sizes, strict=True):
        with file.open("rb", buffering=0) as stream:
            for position in range(0, size, every):
                stream.seek(position)
                read += stream.readinto(buffer) or 0
    seconds = time.perf_counter() - began
    return read / seconds if read >= _PROBE // 4 else None


def _write_speed(out: Path) -> float | None:
    """Bytes a second, of a file that vanishes when it is closed."""
    folder = next((parent for parent in out.absolute().parents if parent.is_dir()), None)
    data = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            began = time.perf_counter()
            for _ in range(_PROBE // len(data)):
                file.write(data)
            os.fsync(file.fileno())
            return _PROBE / (time.perf_counter() - began)
    except OSError:
        return None


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
