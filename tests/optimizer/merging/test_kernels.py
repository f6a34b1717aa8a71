"""Weighted sums in one pass: the same bits as the chain of torch operations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.merging import held, kernels
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.kernels import affine_into, elect_into
from optimizer.merging.methods.affine import affine_sum
from optimizer.merging.methods.base import Block, Case
from optimizer.merging.methods.consensus import Election, elect
from optimizer.merging.recipe import Coefficients
from optimizer.merging.resident import ResidentMerge
from tests.optimizer.merging.conftest import Pool

DTYPES = st.sampled_from([torch.bfloat16, torch.float32])
WEIGHTS = st.lists(st.floats(-2, 2, width=32) | st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4)


@settings(deadline=None, max_examples=200)
@given(WEIGHTS, DTYPES, DTYPES, st.integers(1, 40), st.integers(1, 90), st.integers(0, 2**20))
def test_the_bits_of_the_chain(
    weights: list[float], source: torch.dtype, target: torch.dtype, rows: int, columns: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    scale = 2.0 ** torch.randint(-12, 12, (len(weights) + 1, rows, columns), generator=draw)
    stack = (torch.randn(scale.shape, generator=draw) * scale).to(source)
    stack[1:, :, ::5] = stack[:1, :, ::5]
    middle = stack[:, rows // 3 :]  # rows of a longer tensor, as they are handed over
    out = torch.empty(middle.shape[1:], dtype=target)
    assert affine_into(middle, weights, out)
    base, *models = middle.unbind()
    assert torch.equal(out, affine_sum(Block(base, tuple(models), 0), weights).to(target))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 0.5, -0.7, 1.3]), st.sampled_from([1.0, 1.9])), min_size=2, max_size=4
    ),
    DTYPES,
    DTYPES,
    st.booleans(),
    st.sampled_from([1.0, 0.7]),
    st.integers(0, 2**20),
)
def test_the_bits_of_an_election(
    models: list[tuple[float, float]],
    source: torch.dtype,
    target: torch.dtype,
    normalize: bool,
    scale: float,
    seed: int,
) -> None:
    draw = torch.Generator().manual_seed(seed)
    stack = torch.randn(len(models) + 1, 7, 300, generator=draw)
    stack[1:] = torch.where(torch.rand(stack[1:].shape, generator=draw) < 0.4, stack[:1], stack[1:])  # what is dropped
    stack = stack.to(source)
    weights = tuple(weight for weight, _ in models)
    election = Election(tuple(weight * factor for weight, factor in models), weights, scale, normalize)
    out = torch.empty(7, 300, dtype=target)
    assert elect_into(stack, election, out)
    base, *rows = stack.unbind()
    case = Case("t", (7, 300), tuple("abcd"[: len(models)]), {}, {})
    assert torch.equal(out, elect(Block(base, tuple(rows), 0), case, election).to(target))


def test_rounding_to_bfloat16_at_the_edges() -> None:
    numbers = torch.tensor([0.0, -0.0, 1.00390625, 1.01171875, -1.00390625, 3.3895e38, -3.4e38, 1e-40, 1e38])
    stack = numbers.view(1, 1, -1).repeat(2, 1, 1)
    out = torch.empty(1, numbers.numel(), dtype=torch.bfloat16)
    assert affine_into(stack, [0.0], out)
    assert torch.equal(out[0].view(torch.int16), numbers.bfloat16().view(torch.int16))


@pytest.mark.parametrize(
    ("stack", "out"),
    [
        (torch.zeros(2, 3, 4, dtype=torch.float16), torch.zeros(3, 4)),
        (torch.zeros(2, 3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)),
        (torch.zeros(2, 3, 4), torch.zeros(4, 3).T),
        (torch.zeros(2, 4, 3).transpose(1, 2), torch.zeros(3, 4)),
    ],
)
def test_what_it_leaves_to_torch(stack: torch.Tensor, out: torch.Tensor) -> None:
    out += 7
    assert not affine_into(stack, [0.5], out)
    assert bool((out == 7).all())


def test_without_numba_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, out = torch.zeros(2, 3, 4), torch.ones(3, 4)
    assert kernels.serves(stack)
    monkeypatch.setattr(kernels, "HAVE_NUMBA", False)
    assert not kernels.serves(stack)
    assert not affine_into(stack, [0.5], out)
    assert bool((out == 1).all())


@pytest.mark.parametrize("method", ["task_arithmetic", "dare_linear", "ties"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pool_merged_by_kernels(
    method: str, dtype: torch.dtype, half_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    base, models = half_pool
    layout = check_pool(base, models)
    rows = tuple(tuple(0.1 * t + 0.03 * g for g in range(len(layout.groups))) for t in range(len(models)))
    coefficients = Coefficients(tuple(models), layout.groups, rows)
    found = []
    for limit in (held.WORTH_A_KERNEL, 0):
        monkeypatch.setattr(held, "WORTH_A_KERNEL", limit)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        parameters = {"density": 0.5} if method != "task_arithmetic" else {}
        resident = ResidentMerge(model, base, models, layout, method=method, parameters=parameters)
        resident.apply(coefficients)
        found.append({name: tensor.detach().clone() for name, tensor in model.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
