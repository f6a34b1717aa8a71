"""SCE: select numbers on which the models disagree most, weigh models by how far they moved, erase minority signs."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimizer.merging.methods.affine import task_vectors
from optimizer.merging.methods.base import Block, Case, Look, Method, Parameter, block_dtype
from optimizer.merging.methods.bits import choose
from optimizer.merging.methods.gram import exact_sum, row_sums
from optimizer.merging.methods.selection import Cutoff, Target, find_cutoffs

#: sum of the mean squares below which all models weigh the same, and the least sum of weights that divides
LEAST = 1e-6


@dataclass(frozen=True)
class Facts:
    """`cutoff`: down to which variance numbers are kept, None: all are. `squares`: each model's sum of squares of what
    is kept of its task vector."""

    cutoff: Cutoff | None
    squares: tuple[float, ...]


def variance(block: Block) -> Tensor:
    """Population variance over the models of every number's move from the base: [rows, columns]. 0 where all agree."""
    moves = task_vectors(block)
    first, count = moves[0], len(moves)
    apart = [move - first for move in moves[1:]]
    if not apart:
        return torch.zeros_like(first)
    mean = apart[0] / count
    for move in apart[1:]:
        mean += move / count
    total = mean * mean
    for move in apart:
        total += (move - mean).square_()
    return total.div_(count).abs_()  # clears the sign that a NaN may have


def _facts(case: Case) -> Generator[Look, list[Any], Facts]:
    cutoff = None if case.shared["select_topk"] >= 1 else (yield from _select(case))

    def look(block: Block) -> Tensor:
        moves = task_vectors(_selected(block, cutoff))
        return torch.stack([row_sums(move.double().square_()) for move in moves]).cpu()

    found = yield look
    squares = exact_sum(torch.cat(found, dim=-1).T).tolist() if found else [0.0] * len(case.models)
    return Facts(cutoff, tuple(squares))


def _select(case: Case) -> Generator[Look, list[Any], Cutoff]:
    """k numbers are kept, k being the part `select_topk` of those on which the models differ at all, in float32 as
    mergekit has it; of equal variances, the first in the tensor."""
    counts = yield lambda block: int(variance(block).count_nonzero())
    keep = int(torch.tensor(sum(counts)) * case.shared["select_topk"])
    (cutoff,) = yield from find_cutoffs([variance], [Target(0, keep)], math.prod(case.shape))
    return cutoff


def _selected(block: Block, cutoff: Cutoff | None) -> Block:
    """With the base's numbers in all models where they are not kept."""
    if cutoff is None:
        return block
    kept = cutoff.mask(variance(block), block.begin)
    return Block(block.base, tuple(choose(kept, model, block.root) for model in block.models), block.begin)


def _sparsify(block: Block, case: Case, facts: Facts) -> Block:
    return _selected(block, facts.cutoff)


def _weights(case: Case, facts: Facts) -> tuple[float, ...]:
    """Each model's share of the mean squares of all task vectors."""
    means = [total / max(1, math.prod(case.shape)) for total in facts.squares]
    total = math.fsum(means) if all(map(math.isfinite, means)) else math.nan
    return (1 / len(means),) * len(means) if total < LEAST else tuple(mean / total for mean in means)


def _combine(block: Block, case: Case, state: Sequence[float]) -> Tensor:
    """θ_b + Σ w_i τ_i / Σ w_i over the models that moved a number towards the sign of Σ τ_i, + where that is 0.

    The mean is built up one model at a time, the heaviest first: a number from one model, or the same from all, stays
    as it is.
    """
    moves = task_vectors(block)
    dtype = block_dtype(block)
    base = block.root.to(dtype)
    together = moves[0].clone()
    for move in moves[1:]:
        together += move
    sign = torch.ge(together, 0, out=together).mul_(2).sub_(1)
    total, seen = base.clone(), torch.zeros_like(base)
    for i in sorted(range(len(moves)), key=lambda i: -state[i]):
        along = moves[i].mul_(sign)
        share = torch.gt(along, 0, out=along).mul_(state[i])
        seen += share
        total.lerp_(block.models[i].to(dtype), share.div_(seen.clamp(min=torch.finfo(dtype).tiny)))
    # an own step, as all of these weights together count as LEAST where they are less
    return total if min(state) >= LEAST else torch.lerp(base, total, (seen / LEAST).clamp_(max=1))


ROWS = (
    Method(
        "sce",
        "arXiv 2408.07990, section 3.3",
        (
            Parameter("select_topk", 1.0, low=0, high=1, meaning="part of the numbers that differ which is kept"),
            Parameter("int8_mask", 0.0, boolean=True, meaning="accepted for mergekit's recipes, without effect"),
        ),
        _combine,
        prepare=_facts,
        depends=("select_topk",),
        sparsify=_sparsify,
        weigh=_weights,
    ),
)
