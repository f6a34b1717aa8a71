"""Arcee Fusion: the model's numbers where they are far more important than usual, the base's elsewhere."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimizer.merging.methods.base import Block, Case, Look, Method, block_dtype, matrix
from optimizer.merging.methods.gram import row_sums
from optimizer.merging.methods.ranks import find_ranks, sample_step, sampled

#: added to the probabilities whose ratio is taken
EPS = 1e-8


@dataclass(frozen=True)
class Facts:
    """`divergence` [rows] on the CPU, and the importance from which on the model's number is taken."""

    divergence: Tensor
    threshold: float


def divergence(block: Block) -> Tensor:
    """KL(softmax(θ_1) ‖ softmax(θ_b)) of every row: [rows], on the CPU in the dtype of the arithmetic.

    In float32 little is left of it where the rows are close to each other. It is mergekit's little all the same, as
    softmax and sum are torch's, row by row; on the CPU, so that other devices choose the same numbers.
    """
    dtype = block_dtype(block)
    model, base = (row.cpu().to(dtype).softmax(-1) + EPS for row in (block.models[0], block.root))
    return row_sums(model * (model / base).double().log().to(dtype), dtype)


def importance(block: Block, divergences: Tensor) -> Tensor:
    """|θ_1 − θ_b| times the divergence of the row: [rows, columns]; `divergences` are those of all rows."""
    dtype = block_dtype(block)
    model, base = block.models[0].to(dtype), block.root.to(dtype)
    rows, columns = base.shape
    first = block.begin // columns
    return (model - base).abs() * divergences[first : first + rows].to(base.device).unsqueeze(-1)


def _facts(case: Case) -> Generator[Look, list[Any], Facts]:
    """The threshold is the median plus 1.5 times the distance of the quartiles, at the places ⌊q (n − 1)⌋."""
    rows, columns = matrix(case.shape)
    numel = rows * columns
    step = sample_step(numel, columns)

    def look(block: Block) -> tuple[Tensor, Tensor]:
        own = divergence(block)
        local = Block(block.base, block.models, 0)
        return own, sampled(importance(local, own), block.begin, step)

    found = yield look
    if not found:
        return Facts(torch.zeros(0), 0.0)
    divergences = torch.cat([own for own, _ in found])
    lower, middle, upper = yield from find_ranks(
        lambda block: importance(block, divergences),
        [(numel - 1) // 4, (numel - 1) // 2, 3 * (numel - 1) // 4],
        torch.cat([part for _, part in found]),
        numel,
    )
    quartiles = torch.tensor([lower.value, middle.value, upper.value], dtype=divergences.dtype)
    return Facts(divergences, float(quartiles[1] + 1.5 * (quartiles[2] - quartiles[0])))


def _combine(block: Block, case: Case, state: Facts) -> Tensor:
    dtype = block_dtype(block)
    chosen = importance(block, state.divergence) >= state.threshold
    return torch.where(chosen, block.models[0].to(dtype), block.root.to(dtype))


ROWS = (
    Method(
        "arcee_fusion",
        "Arcee AI, Meet mergekit v0.1: important is where |θ_1 − θ_b| KL(softmax θ_1 ‖ softmax θ_b) is large",
        (),
        _combine,
        models=(1, 1),
        prepare=_facts,
    ),
)
