"""Random numbers that depend on nothing but the seed, two names and a position."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.methods.draws import RANGE, draw, threshold

CPU = torch.device("cpu")
COUNT = 1 << 20


def uniform(seed: int = 0, tensor: str = "weight", model: str = "a", begin: int = 0) -> Tensor:
    return draw(seed, tensor, model, begin, COUNT, CPU).double() / RANGE


def deviations(correlation: Tensor) -> float:
    return abs(float(correlation)) * math.sqrt(COUNT)


@given(st.integers(0, 2**40), st.lists(st.integers(0, 300), min_size=1, max_size=6))
def test_the_cut_changes_nothing(begin: int, sizes: list[int]) -> None:
    whole = draw(7, "weight", "a", begin, sum(sizes), CPU)
    parts, position = [], begin
    for size in sizes:
        parts.append(draw(7, "weight", "a", position, size, CPU))
        position += size
    assert torch.equal(torch.cat(parts), whole)


def test_positions_beyond_32_bits_have_numbers_of_their_own() -> None:
    edge = 1 << 32
    across = draw(0, "weight", "a", edge - 5, 10, CPU)
    assert torch.equal(across[:5], draw(0, "weight", "a", edge - 5, 5, CPU))
    assert torch.equal(across[5:], draw(0, "weight", "a", edge, 5, CPU))
    assert not torch.equal(across[5:], draw(0, "weight", "a", 0, 5, CPU))


def test_known_values() -> None:
    """A change of these changes every merge that was ever made with a seed."""
    assert draw(0, "weight", "a", 0, 4, CPU).tolist() == [919505519, 1440374421, 524313236, 585584047]
    assert draw(1, "weight", "b", (1 << 33) + 1, 2, CPU).tolist() == [116339721, 473904666]


@pytest.mark.parametrize("probability", [0.003, 0.1, 0.5, 0.97])
def test_share_below_a_threshold(probability: float) -> None:
    below = draw(3, "weight", "a", 0, COUNT, CPU) < threshold(probability)
    spread = math.sqrt(probability * (1 - probability) / COUNT)
    assert abs(float(below.double().mean()) - probability) < 4 * spread


def test_nothing_is_below_probability_0_and_the_threshold_of_1_fits() -> None:
    numbers = draw(3, "weight", "a", 0, COUNT, CPU)
    assert int(numbers.min()) >= threshold(0.0) == 0
    assert threshold(1.0) == RANGE - 1


def test_flat_histogram() -> None:
    counts = torch.histc(uniform(), 1024)
    expected = COUNT / 1024
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 1023) < 4 * math.sqrt(2 * 1023)


@pytest.mark.parametrize("other", [{"seed": 1}, {"tensor": "weight2"}, {"model": "b"}, {"begin": COUNT}])
def test_streams_are_independent(other: dict[str, int | str]) -> None:
    pair = torch.stack([uniform(), uniform(**other)])  # type: ignore[arg-type]
    assert deviations(torch.corrcoef(pair)[0, 1]) < 4
    squares = (pair - 0.5).square()
    assert deviations(torch.corrcoef(squares)[0, 1]) < 4


@pytest.mark.parametrize("distance", [1, 2, 3, 16, 127, 128, 896, 1024, 4096, 4864, 32768, 65536])
def test_no_pattern_along_rows_and_columns(distance: int) -> None:
    numbers = uniform() - 0.5
    assert deviations((numbers[distance:] * numbers[:-distance]).mean() * 12) < 4


def test_rows_and_columns_hold_as_many_as_chance_says() -> None:
    kept = (uniform(seed=5) < 0.9).double().view(1024, 1024)
    for axis in (0, 1):
        ratio = float(kept.sum(axis).var() / (1024 * 0.9 * 0.1))
        assert abs(ratio - 1) < 4 * math.sqrt(2 / 1023)


def test_names_do_not_run_together() -> None:
    assert not torch.equal(uniform(tensor="a b", model="c"), uniform(tensor="a", model="b c"))
