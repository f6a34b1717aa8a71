"""Model Stock: as far from the base towards the mean of the models as the angles between them justify."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from optimizer.merging.methods.affine import affine_sum, task_vectors
from optimizer.merging.methods.base import Block, Case, Look, Method, Parameter, block_dtype
from optimizer.merging.methods.gram import (
    cosines,
    gram,
    gram_by_row,
    lengths,
    shares_of_rows,
    sum_by_place,
    sum_of_moves,
)

#: product of two lengths below which a cosine shrinks to 0
SHORT = 1e-6
#: distance from the pole of the ratio below which the base stays
POLE = 1e-6


def _facts(case: Case) -> Generator[Look, list[Any], Tensor]:
    by_row = case.shared["filter_wise"] and len(case.shape) > 1
    return (gram_by_row if by_row else gram)(case, task_vectors)


def ratio(cosine: Tensor, count: int) -> Tensor:
    """t = k cos Ω / (1 + (k − 1) cos Ω) for k models at the angle Ω from each other; 0 at its pole."""
    below = 1 + (count - 1) * cosine
    singular = below.abs() < POLE
    return torch.where(singular, 0.0, count * cosine / torch.where(singular, 1.0, below))


def _weigh(case: Case, facts: Tensor) -> float | Tensor:
    """t of the tensor, or the shares of base and mean for every row, [2, rows, 1].

    The angle is the mean cosine over all pairs of task vectors.
    """
    count = len(case.models)
    first, second = torch.triu_indices(count, count, 1)
    t = ratio(cosines(facts, lengths(facts), SHORT)[first, second].mean(0), count)
    return float(t[0]) if bool((t == t[0]).all()) else torch.stack([1 - t, t]).unsqueeze(-1)


def _combine(block: Block, case: Case, state: float | Tensor) -> Tensor:
    count = len(block.models)
    if not isinstance(state, Tensor):
        return sum_of_moves(block, (state / count,) * count)
    dtype = block_dtype(block)
    mean = affine_sum(Block(block.models[0], block.models[1:], block.begin), (1 / count,) * (count - 1)).to(dtype)
    return sum_by_place(block.root.to(dtype), mean, shares_of_rows(state, block, dtype))


ROWS = (
    Method(
        "model_stock",
        "arXiv 2403.19522; of more than two models, the mean cosine of all pairs is the angle",
        (Parameter("filter_wise", 0.0, boolean=True, meaning="every row has an angle of its own"),),
        _combine,
        models=(2, None),
        prepare=_facts,
        depends=("filter_wise",),
        weigh=_weigh,
        affine=True,
    ),
)
