"""The laws of task arithmetic, on numbers as odd as floats can be."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.methods.affine import affine_sum
from optimizer.merging.methods.base import Block

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
