"""Lengths and angles between models: their dot products, found block by block, and sums with the shares that follow.

Every method on a sphere is a weighted sum of its vectors, whose shares depend on the vectors' dot products alone, the
Gram matrix G_ij = ⟨x_i, x_j⟩. So one pass over the tensors finds G, and one more makes the result.
"""

import math
import threading
from collections.abc import Callable, Generator, Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor

from optimizer.merging.methods.affine import affine_sum, task_vectors
from optimizer.merging.methods.base import Block, Case, Look, block_dtype, matrix

#: longest stretch of a row that is summed in one go: torch never splits so few numbers among threads
STRETCH = 1 << 14
#: cosines so near to 1 or -1 are taken for it: two float64 sums over equal numbers agree no better
PARALLEL = 1e-14

#: the vectors of a block that the method measures, [rows, columns] each
Vectors = Callable[[Block], Sequence[Tensor]]


def models_of(block: Block) -> list[Tensor]:
    """The models themselves, in the dtype of the arithmetic."""
    dtype = block_dtype(block)
    return [model.to(dtype) for model in block.models]


def with_base(block: Block) -> list[Tensor]:
    """The base and the models, in the dtype of the arithmetic."""
    dtype = block_dtype(block)
    return [row.to(dtype) for row in (block.root, *block.models)]


def moves_of(block: Block) -> list[Tensor]:
    """Task vectors where the recipe has a base, else the models."""
    return models_of(block) if block.base is None else task_vectors(block)


def row_sums(numbers: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Sums of the rows of [rows, columns]: [rows], in `dtype`, the same bits however a tensor is cut into blocks."""
    parts = [part.sum(-1, dtype=dtype) for part in torch.split(numbers, STRETCH, dim=-1)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def exact_sum(parts: Tensor) -> Tensor:
    """Sum over the first axis of float64 numbers: [parts, …] → […]. Not finite where one of the parts is not.

    The rounding errors are summed beside (Knuth's two-sum), which leaves an error of about 2⁻¹⁰⁰: after the final
    rounding to float64 the order of the parts, and so the cut into blocks, makes no difference.
    """
    high, low = _pairwise(parts)
    return high + low


def _pairwise(high: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over the first axis and what it lacks, […] each."""
    if high.shape[0] == 0:
        return high.new_zeros(high.shape[1:]), high.new_zeros(high.shape[1:])
    low = torch.zeros_like(high)
    while high.shape[0] > 1:
        if high.shape[0] % 2:
            blank = torch.zeros_like(high[:1])
            high, low = torch.cat([high, blank]), torch.cat([low, blank])
        total, lost = _two_sum(high[0::2], high[1::2])
        high, low = total, low[0::2] + low[1::2] + lost
    return high[0], low[0]


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """fl(a + b) and exactly what it lacks."""
    total = a + b
    rest = total - a
    return total, (a - (total - rest)) + (b - rest)


def _products(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Elementwise products of every pair of vectors in float64, where those of float32 numbers are exact."""
    wide = [vector.double() for vector in vectors]
    return [a * b for a, b in combinations_with_replacement(wide, 2)]


def gram_by_row(case: Case, vectors: Vectors) -> Generator[Look, list[Any], Tensor]:
    """Dot products row by row: [vectors, vectors, rows], float64, on the CPU.

    The looks write into one tensor: a small one from each would lie between the large ones that come and go, and keep
    the allocator from using their room again, up to a gigabyte of it.
    """
    rows, columns = matrix(case.shape)
    sums: list[Tensor] = []
    lock = threading.Lock()

    def look(block: Block) -> None:
        products = _products(vectors(block))
        with lock:
            if not sums:
                sums.append(torch.empty(len(products), rows, dtype=torch.float64))
        begin = block.begin // columns
        for place, product in zip(sums[0], products, strict=True):
            place[begin : begin + product.shape[0]] = row_sums(product)

    yield look
    return _symmetric(sums[0] if sums else _no_pairs(case))


def gram(case: Case, vectors: Vectors) -> Generator[Look, list[Any], Tensor]:
    """Dot products of whole tensors: [vectors, vectors, 1], float64, on the CPU."""
    rows = yield from gram_by_row(case, vectors)
    return exact_sum(rows.movedim(-1, 0)).unsqueeze(-1)


def gram_by_column(case: Case, vectors: Vectors) -> Generator[Look, list[Any], Tensor]:
    """Dot products along the first axis: [vectors, vectors, numbers in a slice of it], float64, on the CPU.

    The looks add to one sum, as what each would return is as large as its block where blocks have few rows.
    """
    _, columns = matrix(case.shape)
    height = math.prod(case.shape[1:-1])
    sums = _ColumnSums(height, columns)

    def look(block: Block) -> None:
        products = torch.stack(_products(vectors(block))).cpu()
        sums.add(products, block.begin // columns)

    yield look
    pairs = _no_pairs(case) if sums.high is None else sums.total()
    return _symmetric(pairs)


class _ColumnSums:
    """Sums over the first axis of a tensor, whose slices have `height` rows of `columns` numbers."""

    def __init__(self, height: int, columns: int) -> None:
        self.height, self.columns = height, columns
        self.high: Tensor | None = None
        self._low = torch.empty(0)
        self._lock = threading.Lock()

    def add(self, products: Tensor, row: int) -> None:
        """`products` is [pairs, rows, columns], `row` the number of its first row in the tensor."""
        with self._lock:
            if self.high is None:
                self.high = products.new_zeros(products.shape[0], self.height, self.columns)
                self._low = torch.zeros_like(self.high)
        if self.height == 1:
            high, low = _pairwise(products.movedim(1, 0))
            self._put(high.unsqueeze(1), low.unsqueeze(1), 0)
            return
        begin = 0
        while begin < products.shape[1]:
            first = (row + begin) % self.height
            end = min(begin + self.height - first, products.shape[1])
            part = products[:, begin:end]
            self._put(part, torch.zeros_like(part), first)
            begin = end

    def _put(self, high: Tensor, low: Tensor, first: int) -> None:
        assert self.high is not None
        place = slice(first, first + high.shape[1])
        with self._lock:
            total, lost = _two_sum(self.high[:, place], high)
            self.high[:, place] = total
            self._low[:, place] += low + lost

    def total(self) -> Tensor:
        assert self.high is not None
        return (self.high + self._low).flatten(1)


def _no_pairs(case: Case) -> Tensor:
    """The dot products of vectors without numbers: of the models, and of the base in case it is measured, too."""
    count = len(case.models) + 1
    return torch.zeros(count * (count + 1) // 2, 1, dtype=torch.float64)


def _symmetric(pairs: Tensor) -> Tensor:
    """[pairs, n] in the order of `combinations_with_replacement` → [vectors, vectors, n]."""
    count = (math.isqrt(8 * pairs.shape[0] + 1) - 1) // 2
    upper = torch.triu_indices(count, count)
    full = pairs.new_empty(count, count, pairs.shape[1])
    full[upper[0], upper[1]] = pairs
    full[upper[1], upper[0]] = pairs
    return full


def lengths(gram: Tensor) -> Tensor:
    """‖x_i‖ from [vectors, vectors, n]: [vectors, n]."""
    return gram.diagonal(dim1=0, dim2=1).movedim(-1, 0).sqrt()


def cosines(gram: Tensor, norms: Tensor, least: float = 0.0) -> Tensor:
    """G_ij / max(‖x_i‖·‖x_j‖, least), within −1 … 1: [vectors, vectors, n]; `norms` is [vectors, n] and not zero."""
    found = gram / (norms.unsqueeze(0) * norms.unsqueeze(1)).clamp(min=least)
    return torch.where(found.abs() > 1 - PARALLEL, found.sign(), found)


def weighted_sum(block: Block, tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Σ_i c_i x_i over one block, [rows, columns] in the dtype of the block's arithmetic.

    Shares that add up to 1 are taken as an affine sum: numbers that all vectors share stay as they are, and a share of
    1 alone gives its vector. Multiplication and addition are else rounded one at a time: the same on every device, for
    every chunking.
    """
    dtype = block_dtype(block)
    kept = [(tensor.to(dtype), share) for tensor, share in zip(tensors, shares, strict=True) if share != 0.0]
    if not kept:
        return torch.zeros_like(tensors[0], dtype=dtype)
    (first, share), *others = kept
    if math.isclose(sum(share for _, share in kept), 1.0, rel_tol=PARALLEL):
        return affine_sum(Block(first, tuple(x for x, _ in others), block.begin), [c for _, c in others])
    total = first * share
    for tensor, share in others:
        total += tensor * share
    return total


def sum_of_moves(block: Block, shares: Sequence[float]) -> Tensor:
    """Σ c_i θ_i, or, where there is a base, θ_b + Σ c_i (θ_i − θ_b)."""
    rest = 1.0 - sum(shares)
    if block.base is None or abs(rest) <= PARALLEL:
        return weighted_sum(block, block.models, shares)
    return affine_sum(block, shares)


def sum_by_place(first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
    """a·x + b·y with other shares for every row or number: `shares` [2, rows, 1 or columns], in the dtype of both.

    Seen from the vector with the larger share: where a + b = 1, equal numbers stay, and a share of 1 gives its vector.
    """
    swap = (shares[1] > shares[0]).to(shares.dtype)
    near, far = torch.lerp(first, second, swap), torch.lerp(second, first, swap)
    return near * (shares[0] + shares[1]) + (far - near) * shares.amin(0)


def shares_of_rows(shares: Tensor, block: Block, dtype: torch.dtype) -> Tensor:
    """The rows of `shares` [vectors, rows, 1 or columns] that belong to a block, in `dtype` on the block's device.

    Where a slice along the first axis has shares of its own, they repeat from slice to slice.
    """
    rows, columns = block.models[0].shape
    first = block.begin // columns
    places = torch.arange(first, first + rows) % shares.shape[1]
    return shares[:, places].to(dtype).to(block.models[0].device)
