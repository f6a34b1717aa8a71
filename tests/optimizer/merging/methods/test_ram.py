"""RAM: numbers that one model changed are taken over, those that several changed are averaged."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.optimizer.merging.methods.driving import Values, bits, draw, merge

BASE = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])
ONE = torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0])
TWO = torch.tensor([1.0, 1.0, 5.0, 2.0, 1.5])


def sparse_pool(count: int, *shape: int, seed: int) -> list[Tensor]:
    """A base and models that changed a third of its numbers each."""
    base = draw(*shape, seed=seed)
    changed = [draw(*shape, seed=seed + 50 + i) > 0.4 for i in range(count)]
    return [base, *(base + draw(*shape, seed=seed + 1 + i) * mask for i, mask in enumerate(changed))]


def test_ram_worked_by_hand() -> None:
    assert merge("ram", [ONE, TWO], BASE).tolist() == [1.0, 2.0, 5.0, 2.5, 1.5]


def test_changes_up_to_epsilon_are_none() -> None:
    assert merge("ram", [ONE, TWO], BASE, epsilon=1).tolist() == [1.0, 1.0, 5.0, 3.0, 1.0]


def test_ramplus_worked_by_hand() -> None:
    """The first model shares one number and has one of its own, ρ = 1; the second two of its own, ρ = 1/2."""
    found = merge("ramplus_tl", [ONE, TWO], BASE, r=0.5, alpha=0.75)
    first, second = 1 + 0.5 * 0.75, 1 + 0.5 * 0.5
    assert torch.allclose(found, torch.tensor([1.0, 1 + first, 1 + 4 * second, 2.5, 1 + 0.5 * second]))


def test_ramplus_model_without_numbers_of_its_own_has_the_largest_ratio() -> None:
    """Nothing shared and nothing alone is ρ = 0; all shared is cut to alpha: neither has a number to boost."""
    found = merge("ramplus_tl", [ONE, ONE.clone(), BASE.clone()], BASE, r=1, alpha=5)
    assert torch.equal(found, ONE)


@pytest.mark.parametrize("name", ["ram", "ramplus_tl"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_equal_models_and_models_that_stayed_bit_for_bit(name: str, count: int) -> None:
    base, model = sparse_pool(1, 8, 9, seed=3)
    assert bits(merge(name, [base.clone() for _ in range(count)], base)) == bits(base)
    if count > 1:
        assert bits(merge(name, [model.clone() for _ in range(count)], base)) == bits(model)


def test_numbers_of_one_model_are_taken_bit_for_bit() -> None:
    base, *models = sparse_pool(3, 40, 10, seed=5)
    moved = torch.stack([model != base for model in models])
    found = merge("ram", models, base, epsilon=0)
    for own, model in zip(moved, models, strict=True):
        alone = own & (moved.sum(0) == 1)
        assert alone.any()
        assert torch.equal(found[alone], model[alone])
    assert torch.equal(found[~moved.any(0)], base[~moved.any(0)])


@given(st.integers(0, 2**20))
def test_ramplus_without_boost_is_ram(seed: int) -> None:
    base, *models = sparse_pool(3, 6, 7, seed=seed)
    plain = merge("ram", models, base)
    for given_ in ({"r": 0.0}, {"alpha": 0.0}):
        assert bits(merge("ramplus_tl", models, base, **given_)) == bits(plain)


@pytest.mark.parametrize(("name", "given_"), [("ram", {}), ("ramplus_tl", {"r": 0.7, "alpha": 2.0})])
@given(seed=st.integers(0, 2**20), height=st.integers(1, 12), order=st.permutations(range(3)))
def test_cuts_give_the_same_bits_and_order_only_rounding(
    name: str, given_: dict[str, Values], seed: int, height: int, order: list[int]
) -> None:
    base, *models = sparse_pool(3, 12, 5, seed=seed)
    whole = merge(name, models, base, **given_)
    assert bits(merge(name, models, base, height, **given_)) == bits(whole)
    assert torch.allclose(merge(name, [models[i] for i in order], base, **given_), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["ram", "ramplus_tl"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 0)])
def test_scalars_and_empty_tensors(name: str, shape: tuple[int, ...]) -> None:
    base, *models = (draw(*shape, seed=i) for i in range(3))
    found = merge(name, models, base)
    assert found.shape == shape
    assert torch.allclose(found, (models[0] + models[1]) / 2)
