"""Model Stock: the ratio of the paper, its ends, one angle a tensor or a row."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.methods.model_stock import ratio
from tests.optimizer.merging.methods.driving import bits, merge, pool

SEEDS = st.integers(0, 2**20)


def model_stock(models: list[Tensor], base: Tensor, height: int | None = None, filter_wise: float = 0) -> Tensor:
    return merge("model_stock", models, base, height, filter_wise=filter_wise)


@pytest.mark.parametrize(
    ("cosine", "count", "t"),
    [(1, 2, 1), (0, 2, 0), (0.5, 2, 2 / 3), (0.5, 3, 0.75), (1, 5, 1), (-0.25, 2, -2 / 3), (-1, 2, 0), (-0.5, 3, 0)],
)
def test_ratio(cosine: float, count: int, t: float) -> None:
    assert math.isclose(float(ratio(torch.tensor(cosine, dtype=torch.float64), count)), t)


def test_two_models_at_sixty_degrees_go_two_thirds_of_the_way() -> None:
    base = torch.tensor([1.0, 1.0])
    moves = [torch.tensor([2.0, 0.0]), torch.tensor([0.5, 0.5 * math.sqrt(3)])]
    found = model_stock([base + move for move in moves], base)
    assert torch.allclose(found, base + 2 / 3 * (moves[0] + moves[1]) / 2)


def test_the_angle_of_three_is_the_mean_cosine_of_all_pairs() -> None:
    base, *models = pool(3, 40)
    moves = [(model - base).double() for model in models]
    pairs = [torch.cosine_similarity(moves[i], moves[j], dim=0) for i, j in ((0, 1), (0, 2), (1, 2))]
    cosine = torch.stack(pairs).mean()
    found = model_stock(models, base)
    t = 3 * cosine / (1 + 2 * cosine)
    assert torch.allclose(found.double(), t * torch.stack(models).double().mean(0) + (1 - t) * base, atol=1e-6)


def test_filter_wise_is_the_method_row_by_row() -> None:
    base, *models = pool(3, 6, 20)
    found = model_stock(models, base, filter_wise=1)
    rows = [model_stock([model[i] for model in models], base[i]) for i in range(6)]
    assert torch.allclose(found, torch.stack(rows), atol=1e-6)
    vectors = [model[0] for model in models]
    assert torch.equal(model_stock(vectors, base[0], filter_wise=1), model_stock(vectors, base[0]))


@pytest.mark.parametrize("filter_wise", [0, 1])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_equal_models_and_models_that_stayed_bit_for_bit(filter_wise: int, count: int) -> None:
    base, model = pool(1, 5, 8)
    assert bits(model_stock([model.clone() for _ in range(count)], base, filter_wise=filter_wise)) == bits(model)
    assert bits(model_stock([base.clone() for _ in range(count)], base, filter_wise=filter_wise)) == bits(base)


def test_opposite_moves_leave_the_base() -> None:
    base, model = pool(1, 10)
    assert torch.equal(model_stock([model, 2 * base - model], base), base)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12), st.sampled_from([0, 1]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_cuts_give_the_same_bits(seed: int, height: int, filter_wise: int, dtype: torch.dtype) -> None:
    base, *models = (tensor.to(dtype) for tensor in pool(3, 12, 9, seed=seed))
    whole = model_stock(models, base, filter_wise=filter_wise)
    assert bits(model_stock(models, base, height, filter_wise)) == bits(whole)


@given(SEEDS, st.permutations(range(3)))
def test_order_of_the_models_changes_nothing_but_rounding(seed: int, order: list[int]) -> None:
    base, *models = pool(3, 5, 9, seed=seed)
    assert torch.allclose(model_stock([models[i] for i in order], base), model_stock(models, base), atol=1e-5)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 0), (1, 1)])
@pytest.mark.parametrize("filter_wise", [0, 1])
def test_scalars_and_empty_tensors(shape: tuple[int, ...], filter_wise: int) -> None:
    base, *models = pool(2, *shape)
    found = model_stock(models, base, filter_wise=filter_wise)
    assert found.shape == shape
    assert found.isfinite().all()


@pytest.mark.parametrize("damaged", [0, 1, 2])
@pytest.mark.parametrize("filter_wise", [0, 1])
def test_damage_in_any_model_shows_in_the_result(damaged: int, filter_wise: int) -> None:
    tensors = pool(2, 6, 5)
    tensors[damaged][2, 3] = math.nan
    assert not model_stock(tensors[1:], tensors[0], filter_wise=filter_wise).isfinite().all()
