"""SCE: select by variance, weigh by squares, erase minority signs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.methods import selection
from optimizer.merging.methods.base import Block
from optimizer.merging.methods.sce import variance
from tests.optimizer.merging.methods.driving import bits, merge, pool

SEEDS = st.integers(0, 2**20)


def sce(models: list[Tensor], base: Tensor, topk: float = 1, height: int | None = None) -> Tensor:
    return merge("sce", models, base, height, select_topk=topk)


def wanted(models: list[Tensor], base: Tensor, topk: float) -> Tensor:
    """The definition, in float64, of a tensor whose variances all differ."""
    moves = torch.stack([model.double() - base.double() for model in models])
    spread = moves.var(0, unbiased=False).flatten()
    kept = torch.zeros_like(spread)
    kept[spread.argsort(descending=True)[: int(torch.tensor(int(spread.count_nonzero())) * topk)]] = 1
    moves = moves * kept.view(base.shape)
    squares = moves.square().flatten(1).mean(1)
    weights = squares / squares.sum() if squares.sum() >= 1e-6 else torch.full_like(squares, 1 / len(models))
    sign = torch.where(moves.sum(0) >= 0, 1.0, -1.0)
    shares = (moves.sign() == sign) * weights.view(-1, *[1] * base.ndim)
    return base.double() + (moves * shares).sum(0) / shares.sum(0).clamp(min=1e-6)


def test_worked_by_hand() -> None:
    """Mean squares 3 and 3/2 make weights 2/3 and 1/3. First number: signs agree; second: the larger move wins; third:
    a sum of 0 counts as positive; fourth: nobody moved."""
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    moves = [torch.tensor([2.0, -2.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, -2.0, 0.0])]
    found = sce([base + move for move in moves], base)
    assert torch.allclose(found, base + torch.tensor([5 / 3, -2.0, 2.0, 0.0]))


@pytest.mark.parametrize("topk", [1.0, 0.9, 0.5, 0.29, 0.1, 0.001])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_is_the_definition(topk: float, count: int) -> None:
    base, *models = pool(count, 19, 23, seed=count)
    assert torch.allclose(sce(models, base, topk).double(), wanted(models, base, topk), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("topk", "kept"), [(1.0, 600), (0.5, 300), (0.29, 174), (0.001, 0), (0.0, 0)])
def test_keeps_exactly_that_part_of_the_numbers_that_differ(topk: float, kept: int) -> None:
    base, *models = pool(3, 800)
    for model in models:
        model[200:400] = base[200:400] + 1
    changed = sce(models, base, topk) != base
    assert int(changed[torch.arange(800) // 200 != 1].sum()) == kept
    assert int(changed[200:400].sum()) == (200 if topk == 1 else 0)


def test_of_equal_variances_the_first_are_kept() -> None:
    base = torch.zeros(4, 25)
    models = [torch.ones(4, 25), 3 * torch.ones(4, 25)]
    for height in (1, 3, 4):
        assert (sce(models, base, 0.37, height) != base).flatten().tolist() == [True] * 37 + [False] * 63


def test_variance_of_agreement_is_exactly_zero() -> None:
    base, model = pool(1, 500)
    assert not variance(Block(base, (model,) * 7, 0)).any()
    assert not variance(Block(base, (model,), 0)).any()
    moves = pool(4, 500)
    block = Block(moves[0], tuple(moves[1:]), 0)
    exact = torch.stack([move.double() - moves[0].double() for move in moves[1:]]).var(0, unbiased=False)
    assert torch.allclose(variance(block).double(), exact, rtol=1e-5)


def test_tiny_moves_weigh_the_same() -> None:
    base = torch.zeros(4)
    moves = [torch.tensor([2e-4, 0.0, 0.0, 0.0]), torch.tensor([1e-4, 1e-4, 1e-4, 1e-4])]
    assert torch.allclose(sce(moves, base), torch.tensor([1.5e-4, 1e-4, 1e-4, 1e-4]))


def test_a_model_that_weighs_next_to_nothing_moves_next_to_nothing() -> None:
    """Alone at a number, a weight of 1e-8 counts as 1e-8 / 1e-6 of the way."""
    base, large = torch.zeros(2), torch.tensor([1e4, 0.0])
    small = torch.tensor([0.0, 1.0])
    assert torch.allclose(sce([large, small], base), torch.tensor([1e4, 0.01]), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_models_and_models_that_stayed_bit_for_bit(count: int, dtype: torch.dtype) -> None:
    base, model = (tensor.to(dtype) for tensor in pool(1, 8, 9))
    assert bits(sce([model.clone() for _ in range(count)], base).to(dtype)) == bits(model)
    assert bits(sce([base.clone() for _ in range(count)], base, 0.5).to(dtype)) == bits(base)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12), st.sampled_from([1.0, 0.5, 0.1]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_cuts_give_the_same_bits(seed: int, height: int, topk: float, dtype: torch.dtype) -> None:
    base, *models = (tensor.to(dtype) for tensor in pool(3, 13, 17, seed=seed))
    assert bits(sce(models, base, topk, height)) == bits(sce(models, base, topk))


@given(SEEDS, st.permutations(range(3)))
def test_order_of_the_models_changes_nothing_but_rounding(seed: int, order: list[int]) -> None:
    base, *models = pool(3, 60, seed=seed)
    assert torch.allclose(sce([models[i] for i in order], base), sce(models, base), atol=1e-5)


def test_a_sample_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    base, *models = pool(3, 70, 40)
    whole = [sce(models, base, topk) for topk in (0.01, 0.4, 0.99)]
    monkeypatch.setattr(selection, "SMALL", 64)
    assert [bits(sce(models, base, topk, 9)) for topk in (0.01, 0.4, 0.99)] == [bits(tensor) for tensor in whole]


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_models_and_base_of_different_width(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    base, *models = pool(2, 20, 10)
    base, models = base.to(dtypes[0]), [model.to(dtypes[1]) for model in models]
    found = sce(models, base, 0.5)
    assert torch.allclose(found.double(), wanted(models, base, 0.5), rtol=0, atol=2e-6)
    assert torch.equal(found[found == base], base[found == base].float())


@pytest.mark.parametrize("topk", [1.0, 0.5])
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 0)])
def test_scalars_and_empty_tensors(shape: tuple[int, ...], topk: float) -> None:
    base, *models = pool(2, *shape)
    found = sce(models, base, topk)
    assert found.shape == shape
    assert found.isfinite().all()


def test_damage_does_not_stop_the_search_for_a_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who drives the merge looks for damage in the models, once the method has had its way."""
    monkeypatch.setattr(selection, "SMALL", 16)
    base, *models = pool(2, 30, 10)
    models[1][5:9] = math.nan
    assert sce(models, base, 0.5).shape == (30, 10)
    assert sce([torch.full_like(base, math.nan), *models], base, 0.5).shape == (30, 10)
