"""The k-th smallest key of a stream, against sorting."""

from collections.abc import Generator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.methods.base import Block, Look
from optimizer.merging.methods.ranks import Rank, find_ranks, sample_step, sampled
from tests.optimizer.merging.methods.driving import draw


def key(block: Block) -> Tensor:
    return block.models[0]


def driven(work: Generator[Look, list[Any], Any], keys: Tensor, width: int) -> tuple[Any, int]:
    """What a search over `keys` in blocks of `width` found, and in how many passes."""
    passes = 0
    try:
        look = next(work)
        while True:
            passes += 1
            starts = range(0, len(keys), width)
            found = [look(Block(None, (keys[begin : begin + width].view(1, -1),), begin)) for begin in starts]
            look = work.send(found)
    except StopIteration as end:
        return end.value, passes


def wanted(keys: Tensor, rank: int) -> Rank:
    value = keys.sort().values[rank]
    return Rank(float(value), int((keys < value).sum()), int((keys == value).sum()))


def numbers(kind: str, size: int) -> Tensor:
    plain = draw(size)
    return {
        "normal": plain,
        "rounded": plain.bfloat16().float(),
        "mostly zero": plain * (plain > 1),
        "all equal": torch.full((size,), 0.5),
        "two values": (plain > 0).float(),
        "ascending": plain.sort().values,
        "outliers": plain * 10.0 ** (4 * plain),
        "infinite": torch.where(plain > 1, torch.inf, plain),
    }[kind]


KINDS = ("normal", "rounded", "mostly zero", "all equal", "two values", "ascending", "outliers", "infinite")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 3, 50, 900])
def test_ranks_are_those_of_sorting(kind: str, step: int) -> None:
    keys = numbers(kind, 3000)
    ranks = [0, 1, 750, 1500, 1501, 2250, 2998, 2999]
    found, passes = driven(find_ranks(key, ranks, sampled(keys, 0, step), len(keys)), keys, 700)
    assert found == [wanted(keys, rank) for rank in ranks]
    assert passes <= (0 if step == 1 else 3)


def test_a_misleading_sample_costs_passes_not_exactness() -> None:
    keys = draw(5000)
    sample = keys.sort().values[-100:]
    found, passes = driven(find_ranks(key, [100, 2500], sample, len(keys)), keys, 512)
    assert found == [wanted(keys, 100), wanted(keys, 2500)]
    assert passes > 1


def test_the_same_rank_twice() -> None:
    keys = draw(400)
    found, _ = driven(find_ranks(key, [7, 7], sampled(keys, 0, 5), 400), keys, 400)
    assert found == [wanted(keys, 7)] * 2


def test_keys_without_order_end_the_search() -> None:
    keys = torch.full((600,), torch.nan)
    (found,), _ = driven(find_ranks(key, [300], sampled(keys, 0, 7), 600), keys, 100)
    assert found.value != found.value


@settings(deadline=None)
@given(st.integers(2, 400), st.integers(1, 60), st.integers(1, 90), st.integers(1, 5), st.data())
def test_cuts_and_samples_do_not_matter(size: int, width: int, step: int, values: int, data: st.DataObject) -> None:
    keys = (draw(size) * values).round()
    rank = data.draw(st.integers(0, size - 1))
    parts = [sampled(keys[begin : begin + width], begin, step) for begin in range(0, size, width)]
    assert torch.equal(torch.cat(parts), keys[::step])
    (found,), _ = driven(find_ranks(key, [rank], torch.cat(parts), size), keys, width)
    assert found == wanted(keys, rank)


def test_samples_hold_no_more_memory_than_their_keys() -> None:
    assert sampled(draw(1000), 0, 10).untyped_storage().nbytes() == 100 * 4


@pytest.mark.parametrize(("numel", "columns"), [(10, 5), (2**27, 4096), (43 * 2**22, 11008), (2**31, 2**31)])
def test_samples_are_large_enough_and_see_all_columns(numel: int, columns: int) -> None:
    step = sample_step(numel, columns)
    assert step == 1 or torch.gcd(torch.tensor(step), torch.tensor(columns)) == 1
    assert numel // step >= min(numel, 2**15)
