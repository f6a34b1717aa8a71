"""Dot products found block by block."""

from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.methods.base import Block, Case, Look
from optimizer.merging.methods.gram import (
    cosines,
    exact_sum,
    gram,
    gram_by_column,
    gram_by_row,
    lengths,
    models_of,
    row_sums,
)
from tests.optimizer.merging.methods.driving import bits, draw

Gram = Callable[[Case, Any], Generator[Look, list[Any], Tensor]]


def measured(method: Gram, tensors: list[Tensor], height: int) -> Tensor:
    """The facts, the tensors cut into blocks of `height` rows."""
    shape = tuple(tensors[0].shape)
    matrices = [tensor.reshape(-1, shape[-1]) for tensor in tensors]
    work = method(Case("tensor", shape, ("a", "b", "c"), {}, {}), models_of)
    starts = range(0, len(matrices[0]), height)
    blocks = [Block(None, tuple(m[begin : begin + height] for m in matrices), begin * shape[-1]) for begin in starts]
    try:
        look = next(work)
        while True:
            look = work.send([look(block) for block in blocks])
    except StopIteration as end:
        result: Tensor = end.value
        return result


@pytest.mark.parametrize(
    ("method", "pattern"),
    [(gram, "iabc,jabc->ij"), (gram_by_row, "iabc,jabc->ijab"), (gram_by_column, "iabc,jabc->ijbc")],
)
def test_dot_products_of_whole_tensors_rows_and_columns(method: Gram, pattern: str) -> None:
    tensors = draw(3, 4, 5, 6).double()
    wanted = torch.einsum(pattern, tensors, tensors).reshape(3, 3, -1)
    assert torch.allclose(measured(method, list(tensors), 20), wanted, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 30), st.sampled_from([gram, gram_by_row, gram_by_column]))
def test_cuts_give_the_same_bits(seed: int, height: int, method: Gram) -> None:
    shape = ((29, 11), (5, 6, 7), (1, 50))[seed % 3]
    tensors = [draw(*shape, seed=seed + i) * 10.0 ** draw(*shape, seed=seed + 9 + i) for i in range(2)]
    rows = tensors[0].numel() // shape[-1]
    assert bits(measured(method, tensors, height)) == bits(measured(method, tensors, rows))


def test_threads_and_long_rows_give_the_same_bits() -> None:
    numbers = draw(2, 100_003)
    before = torch.get_num_threads()
    sums = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sums += [row_sums(numbers), torch.cat([row_sums(numbers[:1]), row_sums(numbers[1:])])]
    finally:
        torch.set_num_threads(before)
    assert len({bits(total) for total in sums}) == 1
    assert torch.allclose(sums[0], numbers.double().sum(-1), rtol=1e-12)


@given(st.permutations(range(7)))
def test_sums_do_not_depend_on_the_order_where_plain_ones_lose_everything(order: list[int]) -> None:
    parts = torch.tensor([1e16, 1.0, -1e16, 1.0, 0.5, 1e-9, 3.0], dtype=torch.float64)
    assert exact_sum(parts[order]).item() == 5.5 + 1e-9


def test_sum_of_nothing_is_zero_and_of_damage_is_no_number() -> None:
    assert exact_sum(torch.empty(0, 3, dtype=torch.float64)).tolist() == [0, 0, 0]
    for damage in (torch.nan, torch.inf, -torch.inf):
        assert not exact_sum(torch.tensor([1.0, damage, 2.0], dtype=torch.float64)).isfinite()


def test_near_cosines_are_made_exact() -> None:
    x = draw(1000).double()
    pair = torch.stack([x, 3 * x])
    facts = (pair @ pair.T).unsqueeze(-1)
    assert torch.equal(cosines(facts, lengths(facts)), torch.ones(2, 2, 1, dtype=torch.float64))
