"""A plan, carried out: every tensor of the result as consecutive pieces, in order, computed ahead by several threads.

Reading, arithmetic and what the caller does with the pieces overlap. Memory is that of the pieces in flight: it depends
neither on the number of layers nor on the size of a tensor.
"""

import os
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.source import DTYPES, StoredTensor
from optimizer.merging.methods.base import Block, Look, Method, facts_of, matrix, merged, state_of
from optimizer.merging.plan import Operand, Step
from optimizer.merging.threads import single_threaded_torch

#: numbers of a tensor handled at a time: so few that the temporaries of a block stay in the processor's cache, so many
#: that Python's part of an operation vanishes
BLOCK = {"cpu": 1 << 18, "cuda": 1 << 22}
#: numbers of a tensor that one task of a thread covers: long enough to make the task's own cost vanish
PIECE = 1 << 20
#: tensors whose facts are found ahead of the one that is written
AHEAD = 8


@dataclass(frozen=True)
class Crew:
    """Who computes: `threads` of them on `device` ("cpu", "cuda", "cuda:1")."""

    device: str = "cpu"
    threads: int = 0

    @property
    def size(self) -> int:
        return self.threads or min(8, len(os.sched_getaffinity(0)))


@torch.no_grad()
def merged_spans(step: Step) -> Iterator[Tensor]:
    """One tensor of the merge as consecutive flat spans in its final dtype, computed in this thread.

    Raises:
        CheckpointError: NaN or infinity in a model, or in the result because its dtype is too narrow.
    """
    facts, state = None, None
    spans = row_spans(step.tensor.shape)
    if step.method is not None and step.case is not None:
        facts = facts_of(step.method, step.case, lambda look: [look(_block(step, *span)) for span in spans])
        state = state_of(step.method, step.case, facts)
    for span in spans:
        yield _result(step, span, facts, state, torch.device("cpu")).reshape(-1)


def merged_pieces(steps: Sequence[Step], crew: Crew | None = None) -> Generator[tuple[Step, Tensor]]:
    """Every tensor of the merge, in the order of `steps`, as consecutive flat pieces on the CPU in the final dtype.

    Raises:
        CheckpointError: see `merged_spans`.
    """
    with single_threaded_torch(), _Workshop(crew or Crew()) as workshop:
        yield from workshop.run(steps)


class _Workshop:
    """Threads that compute, one that has the disk read ahead, and some that only wait for the facts of tensors to
    come."""

    def __init__(self, crew: Crew) -> None:
        self._device = torch.device(crew.device)
        self._width = 2 * crew.size + 2
        self._hands = ThreadPoolExecutor(crew.size, "merge")
        self._clerks = ThreadPoolExecutor(AHEAD, "facts")
        self._reader = ThreadPoolExecutor(1, "read")
        self._local = threading.local()
        self._span = BLOCK.get(self._device.type, BLOCK["cpu"])

    def __enter__(self) -> "_Workshop":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._clerks.shutdown(wait=False, cancel_futures=True)
        self._hands.shutdown(wait=False, cancel_futures=True)  # so that a waiting clerk sees its work cancelled
        self._clerks.shutdown()
        self._hands.shutdown()

    def run(self, steps: Sequence[Step]) -> Iterator[tuple[Step, Tensor]]:
        coming = iter(steps)
        ahead: deque[tuple[Step, Future[tuple[Any, Any]] | None]] = deque()
        flight: deque[tuple[Step, Future[Tensor]]] = deque()

        def refill() -> None:
            while len(ahead) < AHEAD and (step := next(coming, None)) is not None:
                self._reader.submit(_prefetch, step)
                ahead.append((step, self._prepared(step)))

        refill()
        while ahead:
            step, prepared = ahead.popleft()
            refill()
            facts, state = (None, None) if prepared is None else prepared.result()
            for piece in self._pieces(step):
                flight.append((step, self._hands.submit(self._piece, step, piece, facts, state)))
                if len(flight) >= self._width:
                    owner, done = flight.popleft()
                    yield owner, done.result()
        for owner, done in flight:
            yield owner, done.result()

    def _prepared(self, step: Step) -> "Future[tuple[Any, Any]] | None":
        method, case = step.method, step.case
        if method is None or case is None:
            return None

        def over(look: Look) -> list[Any]:
            pieces = self._pieces(step)
            found = [self._hands.submit(self._look, step, look, piece) for piece in pieces]
            return [answer for future in found for answer in future.result()]

        def find() -> tuple[Any, Any]:
            facts = facts_of(method, case, over)
            return facts, state_of(method, case, facts)

        return self._clerks.submit(find)

    @torch.no_grad()
    def _look(self, step: Step, look: Look, piece: tuple[int, int]) -> list[Any]:
        with self._stream():
            return [look(_block(step, *span, self._device)) for span in self._spans(step, piece)]

    @torch.no_grad()
    def _piece(self, step: Step, piece: tuple[int, int], facts: Any, state: Any) -> Tensor:
        with self._stream():
            if step.method is None:
                return _result(step, piece, facts, state, self._device).reshape(-1)
            out = torch.empty(piece[1] - piece[0], matrix(step.tensor.shape)[1], dtype=DTYPES[step.tensor.dtype])
            for begin, end in self._spans(step, piece):
                out[begin - piece[0] : end - piece[0]] = _result(step, (begin, end), facts, state, self._device)
            return out.view(-1)

    def _pieces(self, step: Step) -> list[tuple[int, int]]:
        return row_spans(step.tensor.shape, self._span, max(1, PIECE // self._span))

    def _spans(self, step: Step, piece: tuple[int, int]) -> list[tuple[int, int]]:
        """A piece cut into blocks."""
        begin, end = piece
        _, columns = matrix(step.tensor.shape)
        return [(begin + top, begin + bottom) for top, bottom in row_spans((end - begin, columns), self._span)]

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """On a GPU every thread has a queue of its own, so that copies in, arithmetic and copies out overlap."""
        if self._device.type != "cuda":
            yield
            return
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._local.stream):
            yield


def row_spans(shape: tuple[int, ...], numbers: int = BLOCK["cpu"], whole: int = 1) -> list[tuple[int, int]]:
    """Cut a tensor's rows into blocks of about so many numbers, or into pieces of `whole` such blocks; none where it
    has no numbers."""
    rows, columns = matrix(shape)
    if rows == 0 or columns == 0:
        return []
    height = max(1, numbers // columns) * whole
    return [(begin, min(begin + height, rows)) for begin in range(0, rows, height)]


def _prefetch(step: Step) -> None:
    for operand in step.operands:
        if isinstance(operand.tensor, StoredTensor):
            operand.tensor.prefetch()


def _block(step: Step, begin: int, end: int, device: torch.device | None = None) -> Block:
    def read(operand: Operand) -> Tensor:
        rows = operand.tensor.rows(begin, end)
        return rows if device is None or device.type == "cpu" else rows.to(device, non_blocking=True)

    base = None if step.base is None else read(step.base)
    return Block(base, tuple(read(model) for model in step.models), begin * matrix(step.tensor.shape)[1])


def _result(step: Step, span: tuple[int, int], facts: Any, state: Any, device: torch.device) -> Tensor:
    """Rows of the result, [rows, columns], in the final dtype, on the device."""
    if step.method is None or step.case is None:
        assert step.base is not None
        return step.base.tensor.rows(*span)
    block = _block(step, *span, device)
    result = merged(step.method, block, step.case, facts, state).to(DTYPES[step.tensor.dtype])
    # one pass: a sum is finite only where every number is, unless it overflows itself
    if any(not part.sum().isfinite() and not part.isfinite().all() for part in (result, *_unseen(block, step))):
        raise _not_finite(step, step.method)
    return result


def _unseen(block: Block, step: Step) -> Iterator[Tensor]:
    """What a result may not show damage of: the base, of which a weighted sum may leave nothing, models of weight 0,
    and all of them where a method compares and chooses."""
    if block.base is not None:
        yield block.base
    if step.method is None or step.case is None or not step.method.affine:
        yield from block.models
        return
    weights = step.case.each.get("weight", ())
    yield from (model for model, weight in zip(block.models, weights, strict=False) if weight == 0)


def _not_finite(step: Step, method: Method) -> CheckpointError:
    """Which model the NaN or infinity comes from."""
    name = step.tensor.name
    for owner, tensor in step.operands:
        if not all(tensor.rows(*span).isfinite().all() for span in row_spans(step.tensor.shape)):
            return CheckpointError(
                f"tensor {name}: NaN or infinity in {owner}",
                mend="fetch the checkpoint again, or leave this model out",
            )
    values = {} if step.case is None else {**step.case.shared, **step.case.each}
    return CheckpointError(
        f"tensor {name}: {method.name} with {values} does not fit into {step.tensor.dtype}",
        mend="write bfloat16 or float32, or lower the coefficients",
    )
