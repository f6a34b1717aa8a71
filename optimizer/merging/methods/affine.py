"""Weighted sums of models: task arithmetic, plain averages, interpolations.

Task arithmetic is θ = θ_b + Σ_t λ_t (θ_t − θ_b) (Ilharco et al., arXiv 2212.04089; arXiv 2410.12937, section 2).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimizer.errors import RecipeError
from optimizer.merging.methods.base import Base, Block, Case, Method, Parameter, block_dtype


def affine_sum(block: Block, weights: Sequence[float]) -> Tensor:
    """θ_b + Σ_t w_t (θ_t − θ_b) over one block, one weight a model.

    Written as an affine sum, θ = Σ_i c_i θ_i with c_b = 1 − Σ w_t and c_t = w_t, the weights add up to 1, so the sum is
    a chain of interpolations: starting from the largest c, x ← x + (c_i / s)(θ_i − x), where s is the sum of the c seen
    so far. In falling order s never comes near 0. Three laws hold bit for bit in every dtype, where
    θ_b + w (θ_t − θ_b) rounds: all w = 0 gives the base; w_t = 1 alone gives model t; numbers that are equal in all
    models stay as they are.

    A step is one rounded subtraction and one fused multiply-add, in torch's vector, scalar and CUDA code alike: the
    result is the same on every device, for every chunking and number of threads. It also is one pass over memory
    instead of three.
    """
    return _interpolate([block.root, *block.models], [1.0 - sum(weights), *weights], block_dtype(block))


def average(block: Block, weights: Sequence[float]) -> Tensor:
    """Σ_t w_t θ_t / Σ_t w_t over one block, the base left out. The laws of `affine_sum` hold here, too."""
    total = sum(weights)
    return _interpolate(block.models, [weight / total for weight in weights], block_dtype(block))


def _interpolate(rows: Sequence[Tensor], shares: Sequence[float], dtype: torch.dtype) -> Tensor:
    first, steps = chain(shares)
    total = rows[first].to(dtype)
    for i, weight in steps:
        step = rows[i].to(dtype)
        total = torch.lerp(total, step, weight) if total is rows[first] else total.lerp_(step, weight)
    return total.clone() if total is rows[first] else total  # never what may be a view of a file


def chain(shares: Sequence[float]) -> tuple[int, list[tuple[int, float]]]:
    """The interpolations that make an affine sum: the row to start from, then (row, weight) in order."""
    first, *others = sorted((i for i, share in enumerate(shares) if share != 0.0), key=lambda i: -shares[i])
    steps, seen = [], shares[first]
    for i in others:
        seen += shares[i]
        steps.append((i, shares[i] / seen))
    return first, steps


def task_vectors(block: Block) -> list[Tensor]:
    """τ_t = θ_t − θ_b of every model, in the dtype of the arithmetic."""
    dtype = block_dtype(block)
    base = block.root.to(dtype)
    return [model.to(dtype) - base for model in block.models]


def omega(data_sizes: Sequence[int], general: int) -> tuple[float, ...]:
    """ω_k = |D_k| / |G|: the share of every expert, from how much data it and the general model were trained on.

    A heuristic for task arithmetic that needs no validation data (arXiv 2410.12937).

    Raises:
        RecipeError: a size that is not positive.
    """
    if general <= 0 or any(size <= 0 for size in data_sizes):
        raise RecipeError(f"data sizes {list(data_sizes)} over {general} found, expected positive numbers")
    return tuple(size / general for size in data_sizes)


def _task_arithmetic(block: Block, case: Case, state: Any) -> Tensor:
    return affine_sum(block, state)


def share_out(case: Case) -> tuple[float, ...]:
    """Each model's weight, over their sum where `normalize` says so, times lambda."""
    weights = case.each["weight"]
    total = sum(weights) if case.shared["normalize"] else 1.0
    scale = case.shared["lambda"] / (total if abs(total) >= TINY else 1.0)
    return tuple(weight * scale for weight in weights)


def _task_weights(case: Case, facts: Any) -> tuple[float, ...]:
    return share_out(case)


def _own_weights(case: Case, facts: Any) -> tuple[float, ...]:
    return case.each["weight"]


def _slopes(block: Block, case: Case, state: Any) -> list[Tensor]:
    scale = case.shared["lambda"]
    return task_vectors(block) if scale == 1 else [tau * scale for tau in task_vectors(block)]


def _check_linear(case: Case) -> None:
    weights = case.each["weight"]
    if case.shared["normalize"] and abs(sum(weights)) < TINY:
        raise RecipeError(
            f"tensor {case.tensor}: weights {', '.join(f'{weight:g}' for weight in weights)} add up to 0, "
            "linear with normalize divides by their sum",
            mend="change the weights, or set normalize: false",
        )


def _linear(block: Block, case: Case, state: Any) -> Tensor:
    _check_linear(case)
    weights: tuple[float, ...] = state
    if case.shared["normalize"] or sum(weights) == 1.0:
        return average(block, weights)
    dtype = block_dtype(block)
    total = torch.zeros_like(block.models[0], dtype=dtype)
    for model, weight in zip(block.models, weights, strict=True):
        total.add_(model.to(dtype), alpha=weight)
    return total


def _linear_slopes(block: Block, case: Case, state: Any) -> list[Tensor]:
    dtype = block_dtype(block)
    return [model.to(dtype) for model in block.models]


def _interpolation_weights(case: Case, facts: Any) -> tuple[float, ...]:
    alpha = case.shared["alpha"]
    return alpha, 1.0 - alpha


def _average(block: Block, case: Case, state: Any) -> Tensor:
    return average(block, state)


#: sums of weights closer to 0 than this are not divided by
TINY = 1e-8
WEIGHT = Parameter("weight", per_model=True, low=-100, high=100, meaning="λ_t, the model's share")
LAMBDA = Parameter("lambda", 1.0, low=-100, high=100, meaning="scales the sum of all task vectors")
NORMALIZE = Parameter("normalize", 0.0, boolean=True, meaning="divide the weights by their sum")
INT8_MASK = Parameter("int8_mask", 0.0, boolean=True, meaning="no effect: masks are never kept")
ALPHA = Parameter("alpha", low=-10, high=10, meaning="α, the share of the first model, the domain expert")


def _between(name: str, source: str) -> Method:
    # θ_b + α τ_d + (1 − α) τ_a = α θ_d + (1 − α) θ_a: the base cancels out, and is not read
    return Method(
        name,
        source,
        (ALPHA,),
        _average,
        models=(2, 2),
        base=Base.UNUSED,
        weigh=_interpolation_weights,
        coefficient="alpha",
        affine=True,
    )


ROWS = (
    Method(
        "task_arithmetic",
        "arXiv 2212.04089; arXiv 2410.12937, section 2",
        (
            WEIGHT,
            NORMALIZE,
            LAMBDA,
            # mergekit's recipes may carry these over from the methods that drop numbers
            Parameter("density", 1.0, per_model=True, low=0, high=1, meaning="no effect: nothing is dropped"),
            Parameter("rescale", 0.0, boolean=True, meaning="no effect: nothing is dropped"),
            INT8_MASK,
        ),
        _task_arithmetic,
        weigh=_task_weights,
        slopes=_slopes,
        shares=tuple,
        affine=True,
    ),
    Method(
        "linear",
        "model soups: arXiv 2203.05482",
        (WEIGHT, Parameter("normalize", 1.0, boolean=True, meaning="divide the weights by their sum")),
        _linear,
        base=Base.UNUSED,
        weigh=_own_weights,
        slopes=_linear_slopes,
        check=_check_linear,
        affine=True,
    ),
    Method(
        "wise_ft",
        "θ_G + ω (θ_CFT − θ_G): WiSE-FT, arXiv 2109.01903; arXiv 2410.12937",
        (WEIGHT,),
        _task_arithmetic,
        models=(1, 1),
        weigh=_own_weights,
        slopes=lambda block, case, state: task_vectors(block),
        shares=tuple,
        affine=True,
    ),
    _between("interpolation", "θ_b + α τ_d + (1 − α) τ_a: arXiv 2411.06824, MergeAlign"),
    _between("mergealign", "arXiv 2411.06824: `interpolation` under the name of its paper"),
)
