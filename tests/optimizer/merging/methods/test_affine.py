"""The laws of task arithmetic and of averages, on numbers as odd as floats can be."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.errors import RecipeError
from optimizer.merging.methods.affine import affine_sum, omega
from optimizer.merging.methods.base import Base, Block, Case
from optimizer.merging.methods.registry import find_method
from tests.optimizer.merging.methods.drive import case_of, merge

DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
LAMBDAS = st.floats(-2, 2, allow_nan=False, width=32)


def task_arithmetic(base: Tensor, experts: list[Tensor], weights: list[float]) -> Tensor:
    return affine_sum(Block(base, tuple(experts), 0), weights)


@st.composite
def rows(draw: st.DrawFn, count: int = 3) -> list[Tensor]:
    """Tensors of one dtype with magnitudes from 2^-12 to 2^12, zeros and equal entries among them."""
    dtype, seed, size = draw(DTYPES), draw(st.integers(0, 2**32)), draw(st.integers(1, 70))
    source = torch.Generator().manual_seed(seed)
    scale = 2.0 ** torch.randint(-12, 12, (count, size), generator=source)
    numbers = torch.randn(count, size, generator=source, dtype=torch.float64) * scale
    numbers[:, ::7] = 0
    numbers[1:, ::5] = numbers[0, ::5]
    return list(numbers.to(dtype))


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@given(rows())
def test_all_zero_is_the_base_bit_for_bit(models: list[Tensor]) -> None:
    merged = task_arithmetic(models[0], models[1:], [0.0, 0.0])
    assert bits(merged.to(models[0].dtype)) == bits(models[0])


@given(rows(), st.integers(0, 1))
def test_one_alone_is_the_expert_bit_for_bit(models: list[Tensor], which: int) -> None:
    merged = task_arithmetic(models[0], models[1:], [1.0 if i == which else 0.0 for i in range(2)])
    assert bits(merged.to(models[0].dtype)) == bits(models[1 + which])


@given(rows(), LAMBDAS, LAMBDAS)
def test_numbers_that_all_models_share_stay(models: list[Tensor], first: float, second: float) -> None:
    merged = task_arithmetic(models[0], models[1:], [first, second]).to(models[0].dtype)
    same = (models[0] == models[1]) & (models[0] == models[2])
    assert torch.equal(merged[same], models[0][same])


@given(rows(), LAMBDAS, LAMBDAS)
def test_formula_to_the_rounding_of_the_arithmetic(models: list[Tensor], first: float, second: float) -> None:
    merged = task_arithmetic(models[0], models[1:], [first, second])
    base, *experts = (row.double() for row in models)
    exact = base + first * (experts[0] - base) + second * (experts[1] - base)
    size = (1 + abs(first) + abs(second)) * torch.stack([base, *experts]).abs().max(0).values
    assert ((merged.double() - exact).abs() <= 4 * torch.finfo(merged.dtype).eps * size).all()


@given(rows(), LAMBDAS, LAMBDAS, st.integers(1, 69))
def test_chunks_give_the_same_bits(models: list[Tensor], first: float, second: float, cut: int) -> None:
    whole = task_arithmetic(models[0], models[1:], [first, second])
    parts = [
        task_arithmetic(models[0][part], [row[part] for row in models[1:]], [first, second])
        for part in (slice(0, cut), slice(cut, None))
    ]
    assert bits(torch.cat(parts)) == bits(whole)


@settings(deadline=None)
@given(rows(), LAMBDAS, LAMBDAS)
def test_order_of_the_models_changes_nothing_but_rounding(models: list[Tensor], first: float, second: float) -> None:
    forth = task_arithmetic(models[0], models[1:], [first, second])
    back = task_arithmetic(models[0], models[:0:-1], [second, first])
    size = (1 + abs(first) + abs(second)) * torch.stack(models).to(forth.dtype).abs().max(0).values
    assert ((forth - back).abs() <= 4 * torch.finfo(forth.dtype).eps * size).all()


def test_threads_give_the_same_bits() -> None:
    models = [torch.randn(100_003, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(bits(task_arithmetic(models[0], models[1:], [0.3, 0.7, -0.2])))
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1]


def size_of(models: list[Tensor]) -> Tensor:
    return torch.stack(models).abs().max(0).values.double()


@given(rows())
def test_linear_averages(models: list[Tensor]) -> None:
    merged = merge("linear", models[0], models, weight=(1, 2, 5))
    exact = (models[0].double() + 2 * models[1].double() + 5 * models[2].double()) / 8
    assert ((merged.double() - exact).abs() <= 4 * torch.finfo(merged.dtype).eps * size_of(models)).all()
    assert torch.equal(merge("linear", models[0], models, weight=(2, 4, 10)), merged)


@given(rows(), st.integers(0, 2), st.sampled_from([0.25, 1.0, 3.0]))
def test_linear_of_one_alone_is_that_model_bit_for_bit(models: list[Tensor], which: int, weight: float) -> None:
    weights = [weight if i == which else 0.0 for i in range(3)]
    merged = merge("linear", models[0], models, weight=weights).to(models[0].dtype)
    assert bits(merged) == bits(models[which])


@given(rows(), st.tuples(*[st.floats(0.1, 2)] * 3))
def test_linear_leaves_numbers_that_all_models_share(models: list[Tensor], weights: tuple[float, ...]) -> None:
    merged = merge("linear", models[0], models, weight=weights).to(models[0].dtype)
    same = (models[0] == models[1]) & (models[0] == models[2])
    assert torch.equal(merged[same], models[0][same])


@given(rows())
def test_linear_without_normalize_is_the_plain_sum(models: list[Tensor]) -> None:
    merged = merge("linear", models[0], models, weight=(1, -2, 0.5), normalize=0)
    exact = models[0].double() - 2 * models[1].double() + 0.5 * models[2].double()
    assert ((merged.double() - exact).abs() <= 8 * torch.finfo(merged.dtype).eps * size_of(models)).all()


def test_linear_with_partial_sums_of_0() -> None:
    models = [torch.tensor([[float(number)]]) for number in (1, 10, 100)]
    assert merge("linear", models[0], models, weight=(2, -2, -5)).item() == pytest.approx((2 - 20 - 500) / -5)


def test_linear_refuses_to_divide_by_0() -> None:
    models = [torch.ones(2, 2)] * 2
    case = case_of("linear", models[0], models, {"weight": (1, -1)})
    check = find_method("linear").check
    assert check is not None
    with pytest.raises(RecipeError, match="weights 1, -1 add up to 0"):
        check(case)
    check(replace(case, shared={"normalize": 0.0}))


def test_linear_and_interpolation_do_without_a_base() -> None:
    for name, values in (("linear", {"weight": 0.5}), ("interpolation", {"alpha": 0.5})):
        method = find_method(name)
        assert method.base is Base.UNUSED
        assert method.weigh is not None
        one, two = torch.zeros(1, 3), torch.ones(1, 3)
        case: Case = case_of(name, one, [one, two], values)
        assert method.combine(Block(None, (one, two), 0), case, method.weigh(case, None)).tolist() == [[0.5] * 3]


@pytest.mark.parametrize("name", ["interpolation", "mergealign"])
@given(models=rows(), alpha=st.floats(-1, 2))
def test_interpolation_is_the_formula(name: str, models: list[Tensor], alpha: float) -> None:
    base, domain, aligned = models
    merged = merge(name, base, [domain, aligned], alpha=alpha)
    wide = [tensor.double() for tensor in models]
    exact = wide[0] + alpha * (wide[1] - wide[0]) + (1 - alpha) * (wide[2] - wide[0])
    assert ((merged.double() - exact).abs() <= 16 * torch.finfo(merged.dtype).eps * size_of(models)).all()


@given(rows())
def test_interpolation_has_its_ends_and_the_average_between(models: list[Tensor]) -> None:
    base, domain, aligned = models
    assert bits(merge("interpolation", base, [domain, aligned], alpha=1).to(base.dtype)) == bits(domain)
    assert bits(merge("interpolation", base, [domain, aligned], alpha=0).to(base.dtype)) == bits(aligned)
    average = merge("linear", base, [domain, aligned], weight=1)
    assert torch.equal(merge("interpolation", base, [domain, aligned], alpha=0.5), average)


@given(rows(2), LAMBDAS)
def test_wise_ft_is_task_arithmetic_of_one_model(models: list[Tensor], weight: float) -> None:
    general, tuned = models
    assert torch.equal(merge("wise_ft", general, [tuned], weight=weight), task_arithmetic(general, [tuned], [weight]))


def test_two_model_methods_say_how_many() -> None:
    assert find_method("wise_ft").models == (1, 1)
    assert find_method("interpolation").models == (2, 2)
    assert find_method("interpolation").coefficient == "alpha"


def test_slopes_are_differences() -> None:
    base, *models = (torch.randn(3, 5, dtype=torch.float64) for _ in range(3))
    for name, values in (("task_arithmetic", {"lambda": 0.7}), ("linear", {"normalize": 0}), ("wise_ft", {})):
        method = find_method(name)
        own = models[: method.models[1] or 2]
        weights = [0.3, 0.9][: len(own)]
        case = case_of(name, base, own, {**values, "weight": weights})
        assert method.slopes is not None
        slopes = method.slopes(Block(base, tuple(own), 0), case, None)
        for i, slope in enumerate(slopes):
            moved = [weight + (i == j) for j, weight in enumerate(weights)]
            change = merge(name, base, own, weight=moved, **values) - merge(name, base, own, weight=weights, **values)
            assert torch.allclose(change, slope)


def test_share_of_the_data_as_weight() -> None:
    """The sizes and weights of arXiv 2410.12937."""
    weights = omega((61_349, 66_161, 156_526), 275_464)
    assert [round(weight, 2) for weight in weights] == [0.22, 0.24, 0.57]
    with pytest.raises(RecipeError, match="expected positive numbers"):
        omega((10, 0), 100)
