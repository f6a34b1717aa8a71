"""Interpolation on a sphere: worked examples, ends, lengths, symmetries, vectors without a direction."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.errors import RecipeError
from optimizer.merging.methods.spherical import karcher_mean
from tests.optimizer.merging.methods.driving import Values, bits, draw, merge, pool

SEEDS = st.integers(0, 2**20)
FRACTIONS = st.floats(0, 1, width=32)
X, Y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def slerp(base: Tensor, model: Tensor, t: float) -> Tensor:
    return merge("slerp", [model], base, t=t)


def near(found: Tensor, wanted: Tensor, scale: float = 1.0) -> bool:
    return bool(torch.allclose(found.double(), wanted.double(), rtol=0, atol=1e-6 * scale))


def on_sphere(seed: int, count: int, size: int = 16) -> list[Tensor]:
    return [row / row.norm() for row in draw(count, size, seed=seed)]


# --- slerp


def test_slerp_a_third_of_a_right_angle_is_thirty_degrees() -> None:
    assert near(slerp(X, Y, 1 / 3), torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]))


def test_slerp_sums_the_vectors_not_their_directions() -> None:
    assert near(slerp(4 * X, 2 * Y, 0.5), torch.tensor([4.0, 2.0]) * math.sin(math.pi / 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step", [1.0, 1e-3, 0.0])
def test_slerp_ends_bit_for_bit(dtype: torch.dtype, step: float) -> None:
    base, model = (tensor.to(dtype) for tensor in pool(1, 6, 9, step=step))
    assert bits(slerp(base, model, 0).to(dtype)) == bits(base)
    assert bits(slerp(base, model, 1).to(dtype)) == bits(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_slerp_of_equal_tensors_stays_bit_for_bit(dtype: torch.dtype) -> None:
    base = draw(5, 7, dtype=dtype)
    assert bits(slerp(base, base.clone(), 0.3).to(dtype)) == bits(base)


@pytest.mark.parametrize("sign", [1, -1])
def test_slerp_of_nearly_parallel_tensors_is_a_straight_line(sign: int) -> None:
    base, model = pool(1, 8, 8, step=0.01)
    assert near(slerp(base, sign * model, 0.3), 0.7 * base + 0.3 * sign * model)


def test_slerp_with_a_zero_tensor_turns_by_a_right_angle() -> None:
    model = draw(4, 4)
    assert near(slerp(torch.zeros(4, 4), model, 1 / 3), model / 2)
    assert torch.equal(slerp(torch.zeros(4), torch.zeros(4), 0.4), torch.zeros(4))


@given(SEEDS, FRACTIONS)
def test_slerp_stays_on_the_sphere_at_its_share_of_the_angle(seed: int, t: float) -> None:
    a, b = on_sphere(seed, 2)
    angle = math.acos(float(a @ b))
    found = slerp(a, b, t)
    assert abs(float(found.norm()) - 1) < 1e-6
    assert abs(math.acos(min(1.0, float(a @ found))) - t * angle) < 1e-3
    assert near(found, slerp(b, a, 1 - t))


# --- nuslerp


def nuslerp(models: list[Tensor], base: Tensor | None = None, **given: Values) -> Tensor:
    return merge("nuslerp", models, base, **given)


@given(SEEDS, st.floats(0.015625, 10, width=32), st.floats(0, 10, width=32))
def test_nuslerp_is_slerp_at_the_share_of_the_second_weight(seed: int, first: float, second: float) -> None:
    a, b = draw(2, 30, seed=seed)
    assert near(nuslerp([a, b], weight=(first, second)), slerp(a, b, second / (first + second)), 5)


def test_nuslerp_with_a_base_turns_the_task_vectors() -> None:
    base, a, b = pool(2, 6, 5)
    moved = base + slerp(a - base, b - base, 0.75)
    assert near(nuslerp([a, b], base, weight=(1, 3)), moved, 5)


def test_nuslerp_weights_that_cancel_meet_in_the_middle() -> None:
    a, b = draw(2, 12)
    assert bits(nuslerp([a, b], weight=(1, -1))) == bits(nuslerp([a, b], weight=(1, 1)))


@pytest.mark.parametrize("with_base", [False, True])
def test_nuslerp_by_vectors_is_slerp_of_each(with_base: bool) -> None:
    base, a, b = pool(2, 6, 5, seed=3)
    origin = torch.zeros(6, 5) if not with_base else base
    by_row = torch.stack([o + slerp(x - o, y - o, 0.25) for o, x, y in zip(origin, a, b, strict=True)])
    by_column = torch.stack([o + slerp(x - o, y - o, 0.25) for o, x, y in zip(origin.T, a.T, b.T, strict=True)]).T
    weights: dict[str, Values] = {"weight": (3.0, 1.0), "nuslerp_flatten": 0.0}
    own = base if with_base else None
    assert near(nuslerp([a, b], own, **weights), by_row, 5)
    assert near(nuslerp([a, b], own, nuslerp_row_wise=1, **weights), by_column, 5)


def test_nuslerp_by_columns_of_three_axes_follows_the_first() -> None:
    a, b = draw(2, 4, 3, 5)
    found = nuslerp([a, b], weight=(1, 2), nuslerp_flatten=0, nuslerp_row_wise=1)
    whole = nuslerp([a.flatten(1), b.flatten(1)], weight=(1, 2), nuslerp_flatten=0, nuslerp_row_wise=1)
    assert torch.equal(found, whole.view(4, 3, 5))


@pytest.mark.parametrize("flatten", [1.0, 0.0])
@pytest.mark.parametrize("row_wise", [1.0, 0.0])
@pytest.mark.parametrize("with_base", [False, True])
def test_nuslerp_ends_and_equal_models_bit_for_bit(flatten: float, row_wise: float, with_base: bool) -> None:
    base, a, b = pool(2, 6, 5, seed=1)
    b[2] = a[2]
    own = base if with_base else None
    modes = {"nuslerp_flatten": flatten, "nuslerp_row_wise": row_wise}
    assert bits(nuslerp([a, b], own, weight=(2, 0), **modes)) == bits(a)
    assert bits(nuslerp([a, b], own, weight=(0, 2), **modes)) == bits(b)
    assert bits(nuslerp([a, a.clone()], own, weight=(0.3, 0.7), **modes)) == bits(a)


def test_nuslerp_by_row_keeps_rows_that_are_equal() -> None:
    base, a, b = pool(2, 6, 5, seed=1)
    b[2] = a[2]
    assert torch.equal(nuslerp([a, b], base, weight=(1, 2), nuslerp_flatten=0)[2], a[2])


def test_nuslerp_of_opposite_vectors_is_a_straight_line() -> None:
    a = draw(20)
    assert near(nuslerp([a, -a], weight=(3, 1)), 0.5 * a)


# --- multislerp


def test_multislerp_is_the_mean_direction_with_the_mean_length() -> None:
    found = merge("multislerp", [4 * X, 2 * Y], weight=(1, 1))
    assert near(found, torch.tensor([3.0, 3.0]) / math.sqrt(2))


def test_multislerp_weights_as_they_are_scale_the_length() -> None:
    a, b = draw(2, 10)
    once = merge("multislerp", [a, b], weight=(0.25, 0.75))
    assert near(merge("multislerp", [a, b], weight=(0.5, 1.5), normalize_weights=0), 2 * once, 5)
    assert near(merge("multislerp", [a, b], weight=(0.5, 1.5)), once)


def test_multislerp_with_a_base_works_on_task_vectors() -> None:
    base, a, b, c = pool(3, 5, 6)
    moved = base + merge("multislerp", [a - base, b - base, c - base], weight=(1, 2, 3))
    assert near(merge("multislerp", [a, b, c], base, weight=(1, 2, 3)), moved, 5)


def test_multislerp_large_eps_shortens() -> None:
    a, b = on_sphere(4, 2)
    mean = (a + b) / (a + b).norm()
    assert near(merge("multislerp", [a, b], weight=(1, 1), eps=0.125), math.cos(0.125) * mean)


@pytest.mark.parametrize("with_base", [False, True])
def test_multislerp_of_one_and_of_equal_models_is_the_model(with_base: bool) -> None:
    base, a = pool(1, 4, 6)
    own = base if with_base else None
    assert bits(merge("multislerp", [a], own, weight=0.3)) == bits(a)
    assert bits(merge("multislerp", [a, a.clone(), a.clone()], own, weight=(1, 1, 1))) == bits(a)
    assert bits(merge("multislerp", [a, draw(4, 6, seed=9)], own, weight=(1, 0))) == bits(a)


def test_multislerp_directions_that_cancel_leave_the_weighted_sum() -> None:
    a = draw(9)
    assert near(merge("multislerp", [3 * a, -a], weight=(1, 1)), a)
    thirds = [torch.tensor([math.cos(angle), math.sin(angle)]) for angle in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    assert near(merge("multislerp", thirds, weight=(1, 1, 1)), torch.zeros(2))


def test_multislerp_where_no_model_moved_is_the_base() -> None:
    base = draw(3, 4)
    assert bits(merge("multislerp", [base.clone()] * 3, base, weight=(1, 2, 3))) == bits(base)


def test_multislerp_weights_without_a_sum_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"tensor: multislerp weights \(1, -1\) found, expected a sum other than 0"):
        merge("multislerp", [X, Y], weight=(1, -1))


# --- karcher


@given(SEEDS)
def test_karcher_mean_of_two_is_slerp_at_half(seed: int) -> None:
    a, b = on_sphere(seed, 2)
    assert near(merge("karcher", [a, b]), slerp(a, b, 0.5), 5)


@given(SEEDS)
def test_karcher_mean_balances_the_pulls(seed: int) -> None:
    models = on_sphere(seed, 4)
    mean = merge("karcher", models, max_iter=200, tol=1e-9).double()
    assert abs(float(mean.norm()) - 1) < 1e-6
    pulls = []
    for model in models:
        angle = torch.acos((mean @ model.double()).clamp(-1, 1))
        pulls.append(angle / torch.sin(angle) * (model.double() - torch.cos(angle) * mean))
    assert float(torch.stack(pulls).sum(0).norm()) < 1e-5


def test_karcher_length_is_the_mean_length_zero_models_included() -> None:
    a, b = on_sphere(2, 2)
    assert near(merge("karcher", [5 * a, b]).norm(), torch.tensor(3.0), 5)
    assert near(merge("karcher", [6 * a, torch.zeros(16), torch.zeros(16)]), 2 * a, 5)
    assert torch.equal(merge("karcher", [torch.zeros(16)] * 3), torch.zeros(16))


def test_karcher_of_one_and_of_equal_models_is_the_model() -> None:
    a = draw(7, 5)
    assert bits(merge("karcher", [a])) == bits(a)
    for count in (2, 3, 5, 7):
        assert bits(merge("karcher", [a.clone() for _ in range(count)])) == bits(a)


def test_karcher_of_opposite_models_follows_the_first() -> None:
    a = draw(12)
    assert near(merge("karcher", [a, -a]), a)


def test_karcher_without_steps_is_the_direction_of_the_mean() -> None:
    cosine = torch.tensor([[1.0, 0.2, 0.1], [0.2, 1.0, -0.3], [0.1, -0.3, 1.0]], dtype=torch.float64)
    equal = karcher_mean(cosine, 0, 1e-5)
    assert torch.allclose(equal, equal[0].expand(3))
    assert abs(float(equal @ cosine @ equal) - 1) < 1e-12
    assert not torch.allclose(karcher_mean(cosine, 10, 1e-5), equal)


# --- all


CASES: list[tuple[str, int, dict[str, Values]]] = [
    ("slerp", 1, {"t": 0.3}),
    ("nuslerp", 2, {"weight": (0.3, 0.9)}),
    ("nuslerp", 2, {"weight": (0.3, 0.9), "nuslerp_flatten": 0.0}),
    ("nuslerp", 2, {"weight": (0.3, 0.9), "nuslerp_flatten": 0.0, "nuslerp_row_wise": 1.0}),
    ("multislerp", 3, {"weight": (0.3, 0.9, 0.2)}),
    ("karcher", 3, {}),
]


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.sampled_from(CASES), st.integers(1, 12), st.sampled_from([torch.float32, torch.bfloat16]))
def test_cuts_give_the_same_bits(
    seed: int, case: tuple[str, int, dict[str, Values]], height: int, dtype: torch.dtype
) -> None:
    name, count, given = case
    shape = ((13, 17), (3, 4, 17), (37,))[seed % 3]
    base, *models = (tensor.to(dtype) for tensor in pool(count, *shape, seed=seed))
    own = None if name == "karcher" else base
    assert bits(merge(name, models, own, height, **given)) == bits(merge(name, models, own, **given))


@given(SEEDS, st.permutations(range(4)))
def test_order_of_the_models_changes_nothing_but_rounding(seed: int, order: list[int]) -> None:
    models = list(draw(4, 40, seed=seed))
    weights = [0.4, 0.1, 0.7, 0.2]
    shuffled, own = [models[i] for i in order], [weights[i] for i in order]
    assert near(merge("karcher", shuffled), merge("karcher", models), 5)
    found, wanted = merge("multislerp", shuffled, weight=own), merge("multislerp", models, weight=weights)
    assert near(found, wanted, 5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case[0], *case[2]]))
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 0), (1, 1)])
def test_scalars_and_empty_tensors(case: tuple[str, int, dict[str, Values]], shape: tuple[int, ...]) -> None:
    name, count, given = case
    base, *models = pool(count, *shape)
    own = None if name == "karcher" else base
    found = merge(name, models, own, **given)
    assert found.shape == shape
    assert found.isfinite().all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case[0], *case[2]]))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_damage_in_any_model_shows_in_the_result(case: tuple[str, int, dict[str, Values]], value: float) -> None:
    name, count, given = case
    for damaged in range(count + 1):
        base, *models = pool(count, 6, 5)
        (base, *models)[damaged][2, 3] = value
        if name == "karcher":
            models, own = [base, *models], None
        else:
            own = base
        assert not merge(name, models, own, **given).isfinite().all()
