"""Exactly the k largest, the first of equal ones, whatever the numbers and the cut into blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.methods.base import Block, Look
from optimizer.merging.methods.bits import choose
from optimizer.merging.methods.selection import SMALL, Cutoff, Target, find_cutoffs


def magnitude(block: Block) -> Tensor:
    return block.models[0].abs()


def blocks_of(numbers: Tensor, rows: int) -> list[Block]:
    return [Block(None, (numbers[i : i + rows],), i * numbers.shape[1]) for i in range(0, max(1, len(numbers)), rows)]


def cutoffs(numbers: Tensor, sizes: Sequence[int], rows: int) -> tuple[list[Cutoff], int]:
    """What was found, and in how many passes."""
    blocks = blocks_of(numbers, rows)
    work = find_cutoffs([magnitude], [Target(0, size) for size in sizes], numbers.numel())
    passes = 0
    answers: list[Any] | None = None
    while True:
        try:
            look: Look = next(work) if answers is None else work.send(answers)
        except StopIteration as end:
            return end.value, passes
        answers = [look(block) for block in blocks]
        passes += 1


def chosen(numbers: Tensor, cutoff: Cutoff, rows: int) -> Tensor:
    masks = [cutoff.mask(magnitude(block), block.begin) for block in blocks_of(numbers, rows)]
    return torch.cat(masks).reshape(-1) == -1


def by_sorting(numbers: Tensor, size: int) -> Tensor:
    """The definition: a stable sort."""
    expected = torch.zeros(numbers.numel(), dtype=torch.bool)
    expected[numbers.abs().reshape(-1).sort(descending=True, stable=True).indices[:size]] = True
    return expected


def lattice(seed: int, rows: int, columns: int) -> Tensor:
    """Differences of bfloat16 numbers: few different values, many zeros."""
    source = torch.Generator().manual_seed(seed)
    one = (torch.randn(rows, columns, generator=source) * 0.02).bfloat16()
    two = (one.float() + torch.randn(rows, columns, generator=source) * 1e-4).bfloat16()
    return two.float() - one.float()


def randoms(seed: int, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def mostly_zero(seed: int, rows: int, columns: int) -> Tensor:
    numbers = randoms(seed, rows, columns)
    return numbers * (randoms(seed + 1, rows, columns) > 3.5)


def growing(seed: int, rows: int, columns: int) -> Tensor:
    """In order, over 60 powers of two, with a wide step in the middle."""
    return torch.logspace(-10, 8, rows * columns).view(rows, columns) * (
        1 + 99 * (torch.arange(rows) > rows // 2)[:, None]
    )


def outlying_columns(seed: int, rows: int, columns: int) -> Tensor:
    numbers = randoms(seed, rows, columns)
    numbers[:, ::127] *= 1000
    return numbers


def equal(seed: int, rows: int, columns: int) -> Tensor:
    return torch.full((rows, columns), -2.5)


SHAPES: list[Callable[[int, int, int], Tensor]] = [lattice, randoms, mostly_zero, growing, outlying_columns, equal]


@settings(deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 99), st.integers(1, 30), st.integers(1, 20), st.data())
def test_small_tensors(
    shape: Callable[[int, int, int], Tensor], seed: int, rows: int, columns: int, data: st.DataObject
) -> None:
    numbers = shape(seed, rows, columns)
    sizes = data.draw(st.lists(st.integers(0, numbers.numel()), min_size=1, max_size=3))
    height = data.draw(st.integers(1, rows))
    found, _ = cutoffs(numbers, sizes, height)
    for size, cutoff in zip(sizes, found, strict=True):
        assert torch.equal(chosen(numbers, cutoff, data.draw(st.integers(1, rows))), by_sorting(numbers, size))


@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_that_are_sampled(shape: Callable[[int, int, int], Tensor]) -> None:
    numbers = shape(1, 400, 254)
    assert numbers.numel() > SMALL
    sizes = [1, 40, 1_000, 50_800, 101_000, numbers.numel() - 1, numbers.numel()]
    found, passes = cutoffs(numbers, sizes, 60)
    for size, cutoff in zip(sizes, found, strict=True):
        assert torch.equal(chosen(numbers, cutoff, 77), by_sorting(numbers, size))
    again, _ = cutoffs(numbers, sizes, 400)
    assert again == found
    assert passes <= 4


def test_two_passes_suffice_where_all_numbers_differ() -> None:
    numbers = torch.randperm(100_000, generator=torch.Generator().manual_seed(0)).float().view(500, 200)
    assert cutoffs(numbers, [20_000, 70_000], 100)[1] == 2


def test_a_sample_that_misleads_costs_passes_but_not_exactness() -> None:
    numbers = torch.zeros(1000, 127)  # the sample sees the first column, and in it nothing but zeros
    numbers[:, 1:50] = torch.rand(1000, 49, generator=torch.Generator().manual_seed(0)) + 1
    found, _ = cutoffs(numbers, [30_000], 100)
    assert torch.equal(chosen(numbers, found[0], 100), by_sorting(numbers, 30_000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends(dtype: torch.dtype) -> None:
    numbers = torch.tensor([[3.0, -3.0, 0.0, 1.0]], dtype=dtype)
    found, _ = cutoffs(numbers, [0, 1, 2, 3, 4], 1)
    kept = [chosen(numbers, cutoff, 1).int().tolist() for cutoff in found]
    assert kept == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]]


def test_infinity_is_largest_and_nan_hangs_nothing() -> None:
    numbers = torch.tensor([[1.0, float("inf"), float("nan"), 2.0]])
    found, _ = cutoffs(numbers, [2], 1)
    assert chosen(numbers, found[0], 1).tolist() == [False, True, True, False]


def test_nothing_to_choose_from() -> None:
    assert cutoffs(torch.zeros(0, 4), [0], 1)[1] == 0


def test_what_looks_return_is_small() -> None:
    """A bracket of a sampled tensor is a small part of it, and equal numbers count as one."""
    numbers = torch.ones(300, 300)
    work = find_cutoffs([magnitude], [Target(0, 45_000)], numbers.numel())
    look = next(work)
    look = work.send([look(block) for block in blocks_of(numbers, 100)])
    for _, answers in [look(block) for block in blocks_of(numbers, 100)]:
        assert [(len(found.values), int(found.counts.sum())) for found in answers] == [(1, 30_000)]
        assert answers[0].values.base is None  # a view would hold the block


@pytest.mark.parametrize("one", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("other", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_choosing_by_bits_rounds_nothing(one: torch.dtype, other: torch.dtype) -> None:
    ours = torch.tensor([-0.0, 1.1, float("inf"), 3.3], dtype=one)
    theirs = torch.tensor([5.5, -0.0, 7.7, 1e-7], dtype=other)
    result = choose(torch.tensor([-1, 0, -1, 0], dtype=torch.int32), ours, theirs)
    assert result.dtype == torch.promote_types(one, other)
    assert result.tolist() == [ours[0].item(), theirs[1].item(), ours[2].item(), theirs[3].item()]
    assert result.signbit().tolist() == [True, True, False, False]
