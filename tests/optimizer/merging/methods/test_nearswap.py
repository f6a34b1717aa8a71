"""NearSwap: what is near is taken over, what is far moves by t."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.optimizer.merging.methods.driving import bits, merge, pool

SEEDS = st.integers(0, 2**20)


def nearswap(base: Tensor, model: Tensor, t: float, height: int | None = None) -> Tensor:
    return merge("nearswap", [model], base, height, t=t)


def test_near_numbers_are_swapped_far_ones_move_by_t() -> None:
    base, model = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.25, 0.5, 3.0, -7.0])
    assert nearswap(base, model, 0.5).tolist() == [1.25, 0.5, 1.5, 0.5]


@given(SEEDS, st.floats(1e-5, 2))
def test_is_an_interpolation_by_t_over_the_difference(seed: int, t: float) -> None:
    base, model = pool(1, 30, seed=seed)
    weight = (t / (base - model).abs().double()).clamp(max=1)
    assert torch.allclose(nearswap(base, model, t).double(), weight * model + (1 - weight) * base, atol=1e-6)


def test_below_a_millionth_differences_count_as_a_millionth() -> None:
    base, model = torch.zeros(2), torch.tensor([5e-7, 4.0])
    found = nearswap(base, model, 2.5e-7)
    assert torch.allclose(found, torch.tensor([0.25 * 5e-7, 2.5e-7]), rtol=1e-6, atol=0)


def test_ends_and_equal_tensors_bit_for_bit() -> None:
    base, model = pool(1, 9, 11)
    assert bits(nearswap(base, model, 0)) == bits(base)
    assert bits(nearswap(base, model, 100)) == bits(model)
    assert bits(nearswap(base, base.clone(), 0.01)) == bits(base)


@given(SEEDS, st.integers(1, 9))
def test_cuts_give_the_same_bits(seed: int, height: int) -> None:
    base, model = (tensor.bfloat16() for tensor in pool(1, 10, 7, seed=seed))
    assert bits(nearswap(base, model, 0.3, height)) == bits(nearswap(base, model, 0.3))


def test_damage_is_not_taken_for_a_far_number() -> None:
    for damaged in range(2):
        tensors = pool(1, 6)
        tensors[damaged][1] = torch.nan
        assert nearswap(tensors[0], tensors[1], 0.1)[1].isnan()
