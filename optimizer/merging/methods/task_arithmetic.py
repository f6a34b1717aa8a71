"""θ = θ_b + Σ_t λ_t (θ_t − θ_b): task arithmetic (Ilharco et al., arXiv 2212.04089; arXiv 2410.12937, section 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 where one of the tensors has it."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def task_arithmetic(base: Tensor, experts: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """The merge of one span: `base` [numel], `experts` each [numel], one coefficient an expert; returns [numel].

    Written as an affine sum, θ = Σ_i c_i θ_i with c_b = 1 − Σ λ_t and c_t = λ_t, the weights add up to 1, so any
    model p can be the point from which the others are seen: θ = θ_p + Σ_{i≠p} c_i (θ_i − θ_p). Taking the model with
    the largest weight as p makes three laws hold bit for bit in every dtype, where θ_b + λ (θ_t − θ_b) rounds:
    all λ = 0 gives the base; λ_t = 1 alone gives expert t; numbers that are equal in all models stay as they are.

    Multiplication and addition are rounded one at a time, never fused: the result is the same on every device, for
    every chunking and number of threads.
    """
    dtype = arithmetic_dtype(base, *experts)
    weights = [1.0 - sum(coefficients), *coefficients]
    rows = [base, *experts]
    pivot = max(range(len(weights)), key=weights.__getitem__)
    center = rows[pivot].to(dtype)
    total = center.clone()
    for i, (weight, row) in enumerate(zip(weights, rows, strict=True)):
        if i != pivot and weight != 0.0:
            total += (row.to(dtype) - center).mul_(weight)
    return total
