"""Weighted sums of models: task arithmetic, plain averages, interpolations.

Task arithmetic is θ = θ_b + Σ_t λ_t (θ_t − θ_b) (Ilharco et al., arXiv 2212.04089; arXiv 2410.12937, section 2).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimizer.merging.methods.base import Block, Case, Method, Parameter, block_dtype


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
    dtype = block_dtype(block)
    shares = [1.0 - sum(weights), *weights]
    rows = [block.root, *block.models]
    first, *others = sorted((i for i, share in enumerate(shares) if share != 0.0), key=lambda i: -shares[i])
    total = rows[first].to(dtype)
    seen = shares[first]
    for i in others:
        seen += shares[i]
        step, weight = rows[i].to(dtype), shares[i] / seen
        total = torch.lerp(total, step, weight) if total is rows[first] else total.lerp_(step, weight)
    return total.clone() if total is rows[first] else total  # never what may be a view of a file


def task_vectors(block: Block) -> list[Tensor]:
    """τ_t = θ_t − θ_b of every model, in the dtype of the arithmetic."""
    dtype = block_dtype(block)
    base = block.root.to(dtype)
    return [model.to(dtype) - base for model in block.models]


def _task_arithmetic(block: Block, case: Case, state: Any) -> Tensor:
    return affine_sum(block, state)


def _weights(case: Case, facts: Any) -> tuple[float, ...]:
    """Each model's weight, over their sum where `normalize` says so, times lambda."""
    weights = case.each["weight"]
    total = sum(weights) if case.shared["normalize"] else 1.0
    scale = case.shared["lambda"] / (total if abs(total) >= 1e-8 else 1.0)
    return tuple(weight * scale for weight in weights)


def _slopes(block: Block, case: Case, state: Any) -> list[Tensor]:
    scale = case.shared["lambda"]
    return task_vectors(block) if scale == 1 else [tau * scale for tau in task_vectors(block)]


WEIGHT = Parameter("weight", per_model=True, low=-100, high=100, meaning="λ_t, the model's share")
LAMBDA = Parameter("lambda", 1.0, low=-100, high=100, meaning="scales the sum of all task vectors")
NORMALIZE = Parameter("normalize", 0.0, boolean=True, meaning="divide the weights by their sum")

ROWS = (
    Method(
        "task_arithmetic",
        "arXiv 2212.04089; arXiv 2410.12937, section 2",
        (WEIGHT, NORMALIZE, LAMBDA),
        _task_arithmetic,
        weigh=_weights,
        slopes=_slopes,
        affine=True,
    ),
)
