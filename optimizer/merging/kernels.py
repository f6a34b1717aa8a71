"""One pass over memory for weighted sums and elections on a CPU, where numba is installed (vLLM brings it along).

torch does a conversion, an interpolation and a rounding one after the other, each over a block in the cache: three
times what the memory would allow. A kernel keeps the numbers in registers. It gives the same bits as torch does, term
by term, and is only an accelerator: without numba torch does it.
"""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optimizer.merging.methods.affine import chain
from optimizer.merging.methods.consensus import Election, alone

#: numbers that are carried through the whole chain at a time: they stay in the first-level cache
_STRETCH = 1024
_VIEWS = {torch.bfloat16: (torch.int16, np.uint16), torch.float32: (torch.float32, np.float32)}

Kernel = Callable[..., None]

HAVE_NUMBA = find_spec("numba") is not None
_lock = threading.Lock()


def serves(stack: Tensor) -> bool:
    """Whether there are kernels for such a stack."""
    return HAVE_NUMBA and stack.device.type == "cpu" and stack.dtype in _VIEWS


def affine_into(stack: Tensor, weights: Sequence[float], out: Tensor) -> bool:
    """Write `affine_sum` of `stack` [1 + models, rows, columns], the base first, into `out` [rows, columns].

    Returns:
        False where this cannot be done here, and nothing was written: another device or dtype than bfloat16 and
        float32, tensors that are not contiguous, no numba.
    """
    kernel = _found(_sum, stack, out)
    if kernel is None:
        return False
    first, steps = chain([1.0 - sum(weights), *weights])
    places = np.array([first, *(row for row, _ in steps)], dtype=np.int64) * stack.stride(0)
    shares = np.array([share for _, share in steps], dtype=np.float32)
    # torch.lerp goes from the nearer end: x + w (y − x) below a half, y + (w − 1)(y − x) from there on
    far = np.abs(shares) >= np.float32(0.5)
    kernel(_flat(stack), places, np.where(far, shares - np.float32(1), shares).astype(np.float32), far, _flat(out))
    return True


def elect_into(stack: Tensor, election: Election, out: Tensor) -> bool:
    """Write what `elect` makes of such a stack; see `affine_into`."""
    voters = [i for i, vote in enumerate(election.votes) if vote != 0]
    if len(voters) < 2:
        return affine_into(stack, alone(election), out)
    kernel = _found(_election, stack, out)
    if kernel is None:
        return False
    places = np.array([0, *(i + 1 for i in voters)], dtype=np.int64) * stack.stride(0)
    votes, weights = (
        np.array([numbers[i] for i in voters], dtype=np.float32) for numbers in (election.votes, election.weights)
    )
    scale = np.float32(election.scale)
    kernel(_flat(stack), places, votes, weights, weights.min(), scale, election.normalize, _flat(out))
    return True


def _found(make: Callable[[torch.dtype, torch.dtype], Kernel], stack: Tensor, out: Tensor) -> Kernel | None:
    """The kernel for these tensors, if there can be one."""
    fits = serves(stack) and out.dtype in _VIEWS and out.device.type == "cpu"
    if not (fits and out.numel() and out.is_contiguous() and stack[0].is_contiguous()):
        return None
    with _lock:
        return make(stack.dtype, out.dtype)


def _flat(tensor: Tensor) -> Any:
    """All that lies from the first to the last number, as numpy sees it; bfloat16 as the upper halves of float32."""
    view, kind = _VIEWS[tensor.dtype]
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().view(view).as_strided((extent,), (1,)).numpy().view(kind)


@lru_cache
def _sum(source: torch.dtype, target: torch.dtype) -> Kernel:
    """The kernel of `affine_into` for these dtypes, compiled at its first call."""
    from numba import njit

    fma, load, store, _ = _parts(source, target)

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def run(stack: Any, places: Any, shares: Any, far: Any, out: Any) -> None:
        stretch = np.empty(_STRETCH, np.float32)
        for begin in range(0, out.size, _STRETCH):
            count = min(_STRETCH, out.size - begin)
            first = stack[places[0] + begin : places[0] + begin + count]
            for i in range(count):
                stretch[i] = load(first[i])
            for step in range(shares.size):
                share, place = shares[step], places[step + 1] + begin
                row = stack[place : place + count]
                if far[step]:
                    for i in range(count):
                        y = load(row[i])
                        stretch[i] = fma(share, y - stretch[i], y)
                else:
                    for i in range(count):
                        x = stretch[i]
                        stretch[i] = fma(share, load(row[i]) - x, x)
            merged = out[begin : begin + count]
            for i in range(count):
                merged[i] = store(stretch[i])

    return run  # type: ignore[no-any-return]


@lru_cache
def _election(source: torch.dtype, target: torch.dtype) -> Kernel:
    """The kernel of `elect_into` for these dtypes, compiled at its first call."""
    from numba import njit

    _, load, store, sign = _parts(source, target)
    zero, one = np.float32(0), np.float32(1)

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def run(
        stack: Any, places: Any, votes: Any, weights: Any, least: Any, scale: Any, normalize: Any, out: Any
    ) -> None:
        base, outcome = np.empty(_STRETCH, np.float32), np.empty(_STRETCH, np.float32)
        total, weight = np.empty(_STRETCH, np.float32), np.empty(_STRETCH, np.float32)
        for begin in range(0, out.size, _STRETCH):
            count = min(_STRETCH, out.size - begin)
            root = stack[places[0] + begin : places[0] + begin + count]
            for i in range(count):
                base[i] = load(root[i])
                total[i] = zero
                weight[i] = zero
            for voter in range(votes.size):
                vote, place = votes[voter], places[voter + 1] + begin
                row = stack[place : place + count]
                if voter == 0:
                    for i in range(count):
                        outcome[i] = (load(row[i]) - base[i]) * vote
                else:
                    for i in range(count):
                        outcome[i] += (load(row[i]) - base[i]) * vote
            for i in range(count):
                outcome[i] = sign(outcome[i])
            for voter in range(votes.size):
                vote, own, place = votes[voter], weights[voter], places[voter + 1] + begin
                row = stack[place : place + count]
                for i in range(count):
                    agreed = (load(row[i]) - base[i]) * vote * outcome[i]
                    total[i] += agreed if agreed > zero else zero
                    weight[i] += own if agreed > zero else zero
            # one loop a case: the compiler turns only loops without branches into vector code
            if normalize and least > zero:
                for i in range(count):
                    total[i] /= weight[i] if weight[i] > least else least
            elif normalize:
                for i in range(count):
                    total[i] /= weight[i] if weight[i] != zero else one
            merged = out[begin : begin + count]
            for i in range(count):
                merged[i] = store(total[i] * scale * outcome[i] + base[i])

    return run  # type: ignore[no-any-return]


def _parts(source: torch.dtype, target: torch.dtype) -> tuple[Any, Any, Any, Any]:
    """Fused multiply-add, what reads and writes one number, and its sign as 1 or -1."""
    from llvmlite import ir
    from numba import njit, types
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def as_float(_context: Any, bits: Any) -> Any:
        return types.float32(types.uint32), lambda _c, builder, _s, args: builder.bitcast(args[0], ir.FloatType())

    @intrinsic  # type: ignore[untyped-decorator]
    def as_bits(_context: Any, number: Any) -> Any:
        return types.uint32(types.float32), lambda _c, builder, _s, args: builder.bitcast(args[0], ir.IntType(32))

    @intrinsic  # type: ignore[untyped-decorator]
    def fma(_context: Any, a: Any, b: Any, c: Any) -> Any:
        kind = types.float32
        return kind(kind, kind, kind), lambda _c, builder, _s, args: builder.fma(*args)

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def same(number: Any) -> Any:
        return number

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def widen(bits: Any) -> Any:
        return as_float(np.uint32(bits) << np.uint32(16))

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def narrow(number: Any) -> Any:
        # to the nearest, to even; what is infinite stays so, and stacks hold nothing that is not a number
        bits = as_bits(number)
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def sign(number: Any) -> Any:
        return as_float((as_bits(number) & np.uint32(0x80000000)) | np.uint32(0x3F800000))

    load, store = (widen if source == torch.bfloat16 else same), (narrow if target == torch.bfloat16 else same)
    return fma, load, store, sign
