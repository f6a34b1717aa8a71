"""Arcee Fusion: the model's numbers above a threshold of importance, else the base's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.methods import ranks
from tests.optimizer.merging.methods.driving import bits, draw, merge, pool


def fused(base: Tensor, model: Tensor, height: int | None = None) -> Tensor:
    return merge("arcee_fusion", [model], base, height)


def wanted(base: Tensor, model: Tensor) -> Tensor:
    """The definition, in float64 and with all numbers sorted."""
    a, b = base.double(), model.double()
    p, q = b.softmax(-1) + 1e-8, a.softmax(-1) + 1e-8
    importance = (b - a).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    ordered, last = importance.flatten().sort().values, importance.numel() - 1
    quarter, half, three = (float(ordered[int(share * last)]) for share in (0.25, 0.5, 0.75))
    return torch.where(importance >= half + 1.5 * (three - quarter), model, base)


@pytest.mark.parametrize("shape", [(30, 20), (7, 5, 9), (300,), (1,), ()])
def test_is_the_definition(shape: tuple[int, ...]) -> None:
    base, model = pool(1, *shape)
    found = fused(base, model)
    assert torch.equal(found, wanted(base, model))
    assert model.numel() < 2 or 0 < int((found == model).sum()) < model.numel() / 2


def test_a_row_that_changed_more_is_taken_over_first() -> None:
    base = draw(8, 32)
    model = base + 0.01 * draw(8, 32, seed=1)
    model[3] += draw(32, seed=2)
    taken = (fused(base, model) == model).float().mean(-1)
    assert taken[3] > 0.8
    assert (taken[torch.arange(8) != 3] < 0.4).all()


def test_equal_tensors_stay_bit_for_bit() -> None:
    base = draw(6, 7)
    assert bits(fused(base, base.clone())) == bits(base)


def test_every_number_is_one_of_the_two_bit_for_bit() -> None:
    base, model = (tensor.bfloat16() for tensor in pool(1, 20, 30))
    found = fused(base, model).bfloat16()
    assert ((found == base) | (found == model)).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**20), st.integers(1, 12), st.sampled_from([0.001, 1.0]))
def test_cuts_give_the_same_bits(seed: int, height: int, step: float) -> None:
    base, model = pool(1, 13, 37, seed=seed, step=step)
    assert bits(fused(base, model, height)) == bits(fused(base, model))


def test_a_small_sample_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    base, model = pool(1, 60, 40)
    whole = fused(base, model)
    monkeypatch.setattr(ranks, "SAMPLE", 64)
    assert bits(fused(base, model, 7)) == bits(whole)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    assert fused(torch.empty(shape), torch.empty(shape)).shape == shape


def test_damage_in_the_base_shows_in_the_result() -> None:
    base, model = pool(1, 5, 6)
    base[2, 3] = torch.nan
    assert fused(base, model).isnan().any()
