"""TIES, DARE, DELLA, breadcrumbs: worked by hand, and the laws that they keep."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.errors import RecipeError
from optimizer.merging.methods.base import matrix, state_of
from optimizer.merging.methods.registry import find_method
from optimizer.merging.methods.selection import NOTHING
from optimizer.merging.methods.sparse import ROWS
from optimizer.merging.methods.sparsify import Band, Sparsity, check_probabilities
from tests.optimizer.merging.methods.drive import case_of, cut, facts_over, merge

NAMES = [row.name for row in ROWS]
PLAIN = ["dare_linear", "della_linear", "breadcrumbs"]
VOTING = ["ties", "dare_ties", "della", "breadcrumbs_ties"]
RANDOM = ["dare_linear", "dare_ties", "della", "della_linear"]


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float32)


def pool(
    seed: int, count: int = 3, shape: tuple[int, ...] = (30, 50), dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """A base and models."""
    source = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=source)
    return [tensor.to(dtype) for tensor in (base, *(base + torch.randn(shape, generator=source) for _ in range(count)))]


def close(one: Tensor, other: Tensor, bound: float = 1e-6) -> bool:
    return bool(((one - other).abs() <= bound * (1 + other.abs())).all())


# ---- worked by hand -----------------------------------------------------------------------------------------------


def test_ties_by_hand() -> None:
    base = row(1, 1, 1, 1, 1, 1)
    models = [base + row(4, -3, 2, 1, 0, 0.5), base + row(2, 5, -3, -1, 0, 0.25)]
    # half of each stays: 4, −3, 2 of the first; 2, 5, −3 of the second. The sign of the larger mass wins: +, +, −.
    expected = base + row((4 + 2) / 2, 5, -3, 0, 0, 0)
    assert close(merge("ties", base, models, weight=1.0, density=0.5), expected)
    # weights 1 and 3: masses 4 + 6, −3 + 15, 2 − 9; the agreeing are averaged with their weights
    expected = base + row((4 + 6) / 4, 15 / 3, -9 / 3, 0, 0, 0)
    assert close(merge("ties", base, models, weight=(1, 3), density=0.5), expected)
    expected = base + 0.5 * row(4 + 6, 15, -9, 0, 0, 0)
    assert close(merge("ties", base, models, weight=(1, 3), density=0.5, normalize=0, scale=0.5), expected)


def test_votes_that_cancel_out_count_as_positive_and_zeros_agree_with_nobody() -> None:
    base = row(0, 0, 0)
    models = [base + row(2, -3, 0), base + row(-2, 3, 0), base + row(0, 0, 6)]
    assert close(merge("ties", base, models, weight=1.0), row(2, 3, 6))


def test_negative_weights_vote_with_the_turned_sign() -> None:
    base = row(0, 0)
    models = [base + row(2, 2), base + row(3, -1)]
    # votes: 2 − 3 < 0, so the second alone: −3 / −1; 2 + 1 > 0, so both: (2 + 1) / (1 − 1), and a sum of 0 is not
    # divided by
    assert close(merge("ties", base, models, weight=(1, -1)), row(3, 3))


def test_rescaled_ties_by_hand() -> None:
    base = row(0, 0, 0, 0)
    merged = merge("ties", base, [base + row(3, -1, 1, 1)], weight=1.0, density=0.25, rescale=1)
    assert close(merged, row(6, 0, 0, 0))  # all of the norm, 6, in what is left


def test_breadcrumbs_by_hand() -> None:
    base = row(*[1.0] * 10)
    tau = row(10, -9, 8, 7, 6, 5, 4, -3, 2, 1)
    one = merge("breadcrumbs", base, [base + tau], weight=0.5, density=0.4, gamma=0.2)
    assert close(one, base + 0.5 * row(0, 0, 8, 7, 6, 5, 0, 0, 0, 0))
    # nine of ten stay: room for one outlier, not for three
    one = merge("breadcrumbs", base, [base + tau], weight=1.0, density=0.9, gamma=0.3)
    assert close(one, base + row(0, -9, 8, 7, 6, 5, 4, -3, 2, 1))
    both = merge("breadcrumbs_ties", base, [base + tau, base - 2 * tau], weight=1.0, density=0.4, gamma=0.2)
    assert close(both, base - 2 * row(0, 0, 8, 7, 6, 5, 0, 0, 0, 0))


def test_dare_by_hand() -> None:
    """Of 1000 equal numbers each that stays carries the norm of the lost ones, or 1 / density."""
    base = torch.zeros(10, 100)
    kept = merge("dare_linear", base, [base + 1], weight=2.0, density=0.3, rescale=0) / 2
    assert set(kept.reshape(-1).tolist()) == {0.0, 1.0}
    count = int(kept.sum())
    assert close(merge("dare_linear", base, [base + 1], weight=2.0, density=0.3), kept * 2 * 1000 / count)
    by_chance = merge("dare_linear", base, [base + 1], weight=2.0, density=0.3, rescale_by_probability=1)
    assert close(by_chance, kept * 2 / 0.3)


def test_della_by_hand() -> None:
    """Rows of four, the largest first: it stays with 0.5 + 0.3, the next with 0.5 + 0.1, 0.5 − 0.1, 0.5 − 0.3."""
    base = torch.zeros(40_000, 4)
    tau = torch.tensor([4.0, -3.0, 2.0, 1.0]).repeat(40_000, 1)
    merged = merge("della_linear", base, [tau], rows=1000, weight=1.0, density=0.5, epsilon=0.3, rescale=0)
    chances = torch.tensor([0.8, 0.6, 0.4, 0.2])
    assert torch.allclose((merged != 0).double().mean(0).float(), chances, atol=4 * 0.5 / math.sqrt(40_000))
    boosted = merge(
        "della_linear", base, [tau], rows=1000, weight=1.0, density=0.5, epsilon=0.3, rescale_by_probability=1
    )
    assert close(boosted, merged / chances)


# ---- what stays ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 99), st.floats(0, 1), st.floats(0, 1), st.sampled_from([(7,), (1,), (13, 9), (3, 4, 5), ()]))
def test_exactly_so_many_stay(seed: int, density: float, gamma: float, shape: tuple[int, ...]) -> None:
    base, model = pool(seed, 1, shape)
    numel = base.numel()
    trimmed = merge("ties", base, [model], weight=1.0, density=density)
    wanted = numel if density == 1 else max(1, int(density * numel)) if density else 0
    assert int((trimmed != base).sum()) == wanted
    crumbs = merge("breadcrumbs", base, [model], weight=1.0, density=density, gamma=gamma)
    stay = crumbs != base
    assert int(stay.sum()) == int(density * numel)
    if 0 < int(density * numel) < numel:
        size, outliers = (model - base).abs(), min(int(gamma * numel), numel - int(density * numel))
        assert int((size > size[stay].max()).sum()) == outliers


def test_of_equal_numbers_the_first_stay() -> None:
    base = torch.zeros(4, 5)
    merged = merge("ties", base, [base + torch.tensor([1.0, -1, 1, -1, 1])], rows=1, weight=1.0, density=0.35)
    assert merged.reshape(-1).nonzero().reshape(-1).tolist() == list(range(7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_what_stays_is_the_model_and_the_rest_the_base_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    base, *models = pool(0, 2, dtype=dtype)
    models[1] = models[1].to(torch.float32)  # an expert may be wider than the base
    case = case_of(name, base, models, {"weight": 1.0, "density": 0.4})
    (block,) = cut(base, models)
    sparse = find_method(name).sparsify
    assert sparse is not None
    result = sparse(block, case, facts_over(name, case, [block]))
    for before, after in zip(models, result.models, strict=True):
        assert after.dtype == torch.promote_types(before.dtype, dtype)
        wide = before.to(after.dtype)
        own, theirs = after == wide, after == base.to(after.dtype)
        assert bool((own | theirs).all())
        assert 0.3 < float((own & ~theirs).double().mean()) < 0.5


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", RANDOM)
def test_share_that_stays_at_random(name: str, density: float) -> None:
    base, model = pool(1, 1, (400, 250))
    values: dict[str, Any] = {"epsilon": 0.05} if "della" in name else {}
    merged = merge(name, base, [model], rows=100, weight=1.0, density=density, rescale=0, **values)
    share = float((merged != base).double().mean())
    assert abs(share - density) < 4 * math.sqrt(density * (1 - density) / base.numel())


@pytest.mark.parametrize("name", RANDOM)
def test_masks_repeat_with_the_seed_and_differ_between_models_tensors_seeds(name: str) -> None:
    base, model = pool(2, 1)
    values: dict[str, Any] = {"weight": 1.0, "density": 0.5}
    case = case_of(name, base, [model, model], values, seed=1)
    (block,) = cut(base, [model, model])
    facts: Sparsity = facts_over(name, case, [block])
    first, second = (keep.mask(block, i) for i, keep in enumerate(facts.keeps) if keep is not None)
    assert not torch.equal(first, second)
    one = merge(name, base, [model], seed=1, weight=1.0, density=0.5)
    assert torch.equal(one, merge(name, base, [model], seed=1, weight=1.0, density=0.5))
    assert not torch.equal(one, merge(name, base, [model], seed=2, weight=1.0, density=0.5))


@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_ranks_are_those_of_a_sort(name: str) -> None:
    """A mask is what the chance of every rank, give or take a half, says about every draw; equal numbers share it."""
    base, model = pool(3, 1, (20, 300))
    model = (base + ((model - base) * 4).round() / 4).contiguous()
    density, epsilon = 0.4, 0.3
    case = case_of(name, base, [model], {"weight": 1.0, "density": density, "epsilon": epsilon})
    (block,) = cut(base, [model])
    (keep,) = facts_over(name, case, [block]).keeps
    fixed = case_of("dare_linear", base, [model], {"weight": 1.0, "density": 0.5})
    (chance,) = facts_over("dare_linear", fixed, [block]).keeps
    size = (model - base).abs()
    ordered = size.sort(dim=-1).values
    lowest, highest = torch.searchsorted(ordered, size), torch.searchsorted(ordered, size, right=True) - 1
    mask = keep.mask(block, 0) == -1
    half = chance.mask(block, 0) == -1  # the draw is below 0.5
    least, most = (density - epsilon + 2 * epsilon * (ranks + d) / 299 for ranks, d in ((lowest, -0.5), (highest, 0.5)))
    assert bool(mask[(least >= 0.5) & half].all())
    assert not bool(mask[(most <= 0.5) & ~half].any())


@pytest.mark.parametrize("boost", [0, 1])
def test_equal_magnitudes_share_the_chance_of_their_mean_rank(boost: int) -> None:
    base = torch.zeros(40_000, 6)
    tau = torch.tensor([1.0, 2.0, -2.0, 2.0, 3.0, 3.5]).repeat(40_000, 1)
    values = {"weight": 1.0, "density": 0.5, "epsilon": 0.25, "rescale": boost, "rescale_by_probability": boost}
    merged = merge("della_linear", base, [tau], rows=1000, **values)
    chances = torch.tensor([0.25, 0.45, 0.45, 0.45, 0.65, 0.75])
    stays = merged != 0
    assert torch.allclose(stays.double().mean(0).float(), chances, atol=4 * 0.5 / math.sqrt(40_000))
    assert close(merged, tau * stays / (chances if boost else 1))


# ---- rescaling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dare_linear", "della_linear", "breadcrumbs"])
def test_rescaling_keeps_the_norm(name: str) -> None:
    base, model = pool(4, 1)
    merged = merge(name, base, [model], weight=1.0, density=0.3, rescale=1)
    assert float((merged - base).abs().sum()) == pytest.approx(float((model - base).abs().sum()), rel=1e-5)


@pytest.mark.parametrize("name", ["dare_linear", "della_linear"])
def test_dividing_by_the_probability_keeps_the_expectation(name: str) -> None:
    base, model = pool(5, 1, (20, 20))
    total = torch.zeros_like(base)
    for seed in range(400):
        total += merge(name, base, [model], seed=seed, weight=1.0, density=0.5, rescale_by_probability=1) - base
    tau = model - base
    lowest = 0.5 if name == "dare_linear" else 0.35
    spread = tau.abs() * math.sqrt((1 - lowest) / lowest / 400)
    assert bool(((total / 400 - tau).abs() <= 4.5 * spread + 1e-5).all())


def test_nothing_left_is_not_rescaled() -> None:
    base, model = pool(6, 1)
    for name in NAMES:
        assert torch.equal(merge(name, base, [model], weight=1.0, density=0.0, rescale=1), base)


# ---- laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_density_1_is_task_arithmetic(name: str) -> None:
    base, *models = pool(7)
    plain = merge("task_arithmetic", base, models, weight=(0.3, 0.7, -0.2), scale=0.9)
    assert torch.equal(merge(name, base, models, weight=(0.3, 0.7, -0.2), density=1.0, scale=0.9), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_weights_of_0_are_the_base_and_1_alone_the_model_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    base, *models = pool(8, dtype=dtype)
    assert torch.equal(merge(name, base, models, weight=0.0, density=0.5).to(dtype), base)
    for which in range(3):
        weights = [1.0 if i == which else 0.0 for i in range(3)]
        assert torch.equal(merge(name, base, models, weight=weights).to(dtype), models[which])


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 99), st.integers(1, 29), st.sampled_from([torch.bfloat16, torch.float32]))
def test_the_cut_into_blocks_changes_no_bit(name: str, seed: int, rows: int, dtype: torch.dtype) -> None:
    base, *models = pool(seed, dtype=dtype)
    values: dict[str, Any] = {"weight": (0.3, 0.7, -0.2), "density": (0.3, 0.5, 1.0)}
    assert torch.equal(merge(name, base, models, rows, **values), merge(name, base, models, **values))


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_models_changes_nothing_but_rounding(name: str) -> None:
    base, *models = pool(9)
    keys, weights, densities = ["a", "b", "c"], [0.3, 0.7, 0.2], [0.3, 0.5, 0.8]
    results = []
    for places in ([0, 1, 2], [2, 0, 1]):
        own = [models[i] for i in places]
        values: dict[str, Any] = {"weight": [weights[i] for i in places], "density": [densities[i] for i in places]}
        case = case_of(name, base, own, values, keys=[keys[i] for i in places])
        (block,) = cut(base, own)
        method, facts = find_method(name), facts_over(name, case, [block])
        assert method.sparsify is not None
        results.append(method.combine(method.sparsify(block, case, facts), case, state_of(method, case, facts)))
    assert close(results[0], results[1], bound=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_slopes_are_differences(name: str) -> None:
    base, *models = (tensor.double() for tensor in pool(10))
    values: dict[str, Any] = {"weight": (0.3, 0.7, -0.2), "density": 0.5, "lambda": 0.8, "rescale": 1}
    case = case_of(name, base, models, values)
    (block,) = cut(base, models)
    method, facts = find_method(name), facts_over(name, case, [block])
    assert method.sparsify is not None
    assert method.slopes is not None
    slopes = method.slopes(method.sparsify(block, case, facts), case, state_of(method, case, facts))
    middle = merge(name, base, models, **values)
    for i, slope in enumerate(slopes):
        weights = [weight + (i == j) for j, weight in enumerate((0.3, 0.7, -0.2))]
        moved = merge(name, base, models, **{**values, "weight": weights})
        assert close(moved - middle, slope, bound=1e-9)


def test_voting_methods_have_no_slopes() -> None:
    assert [row.name for row in ROWS if not row.linear] == [name for name in NAMES if name in VOTING]


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str) -> None:
    for shape in ((), (1,), (5,), (5, 1), (2, 3, 4), (0, 4)):
        base, *models = pool(11, 2, shape)
        merged = merge(name, base, models, weight=0.5, density=0.5)
        assert merged.shape == base.shape
        assert bool(merged.isfinite().all())
        assert matrix(shape)[0] * matrix(shape)[1] == merged.numel()


@pytest.mark.parametrize("name", NAMES)
def test_tensors_that_no_model_changed_stay(name: str) -> None:
    base, _ = pool(12, 1)
    assert torch.equal(merge(name, base, [base, base.clone()], weight=(0.5, 0.4), density=0.5), base)


@pytest.mark.parametrize("name", NAMES)
def test_depends_names_what_the_facts_depend_on(name: str) -> None:
    """Facts do not change with other parameters; `depends` are parameters of the method."""
    base, *models = pool(13)
    method = find_method(name)
    assert all(method.parameter(parameter) is not None for parameter in method.depends)
    first = facts_over(name, case_of(name, base, models, {"weight": 1.0, "density": 0.5}), cut(base, models))
    other = case_of(name, base, models, {"weight": 0.2, "density": 0.5, "lambda": 2.0, "normalize": 1})
    second = facts_over(name, other, cut(base, models))
    assert first.scales == second.scales
    for i, (one, two) in enumerate(zip(first.keeps, second.keeps, strict=True)):
        (block,) = cut(base, models)
        assert torch.equal(one.mask(block, i), two.mask(block, i))


def test_outliers_are_left_alone_where_there_are_none() -> None:
    base, model = pool(14, 1)
    case = case_of("ties", base, [model], {"weight": 1.0, "density": 0.5})
    (keep,) = facts_over("ties", case, cut(base, [model])).keeps
    assert isinstance(keep, Band)
    assert keep.inner == NOTHING


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.15), (0.9, 0.15), (0.5, 0.5), (0.15, 0.15)])
def test_probabilities_out_of_range_are_refused(density: float, epsilon: float) -> None:
    base, model = pool(15, 1)
    method = find_method("della")
    case = case_of("della", base, [model], {"weight": 1.0, "density": density, "epsilon": epsilon})
    assert method.check is check_probabilities
    with pytest.raises(RecipeError, match=r"model 0, tensor layers\.0\.weight: density .* epsilon") as caught:
        method.check(case)
    assert "epsilon below" in str(caught.value.mend)


def test_all_or_nothing_needs_no_probabilities() -> None:
    base, model = pool(16, 1)
    for density in (0.0, 1.0):
        check_probabilities(case_of("della", base, [model], {"weight": 1.0, "density": density}))
