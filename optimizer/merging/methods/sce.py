"""SCE: select numbers on which the models disagree most, weigh models by how far they moved, erase minority signs."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimizer.merging.methods.affine import task_vectors
from optimizer.merging.methods.base import Block, Case, Look, Method, Parameter, block_dtype, matrix
from optimizer.merging.methods.gram import exact_sum, row_sums
from optimizer.merging.methods.ranks import find_cut, find_ranks, sample_step, sampled

#: sum of the mean squares below which all models weigh the same, and the least sum of weights that divides
LEAST = 1e-6


@dataclass(frozen=True)
class Facts:
    """`threshold`: numbers whose variance is larger are kept, and those equal to it up to position `cut`; None: all
    are. `squares`: each model's sum of squares of what is kept of its task vector."""

    threshold: float | None
    cut: int
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
    return total / count


def _facts(case: Case) -> Generator[Look, list[Any], Facts]:
    threshold, cut = (None, 0) if case.shared["select_topk"] >= 1 else (yield from _select(case))

    def look(block: Block) -> Tensor:
        kept = _kept(block, threshold, cut)
        moves = task_vectors(block)
        return torch.stack(
            [row_sums((move if kept is None else move * kept).double().square()) for move in moves]
        ).cpu()

    found = yield look
    squares = exact_sum(torch.cat(found, dim=-1).T).tolist() if found else [0.0] * len(case.models)
    return Facts(threshold, cut, tuple(squares))


def _select(case: Case) -> Generator[Look, list[Any], tuple[float, int]]:
    """Variance and position from which on numbers are dropped. k of them are kept, k being the part `select_topk` of
    those that differ at all, in float32 as mergekit has it; of equal variances, the first in the tensor."""
    rows, columns = matrix(case.shape)
    numel = rows * columns
    step = sample_step(numel, columns)

    def look(block: Block) -> tuple[int, Tensor]:
        keys = variance(block)
        return int(keys.count_nonzero()), sampled(keys, block.begin, step)

    found = yield look
    differing = sum(count for count, _ in found)
    keep = int(torch.tensor(differing) * case.shared["select_topk"])
    if keep <= 0:
        return math.inf, 0
    (place,) = yield from find_ranks(variance, [numel - keep], torch.cat([part for _, part in found]), numel)
    if place.equal == 0:  # a NaN among the numbers: nothing is kept, and whoever drives the merge finds it
        return math.nan, 0
    keep -= numel - place.below - place.equal
    if keep == place.equal:
        return place.value, numel
    return place.value, (yield from find_cut(variance, place.value, keep))


def _kept(block: Block, threshold: float | None, cut: int) -> Tensor | None:
    """[rows, columns], 1 where numbers are kept and 0 where not, in the dtype of the arithmetic; None: all are."""
    if threshold is None:
        return None
    keys = variance(block)
    equal = cut - block.begin
    compare = torch.ge if equal >= keys.numel() else torch.gt
    kept = compare(keys, threshold, out=torch.empty_like(keys))
    if 0 < equal < keys.numel():
        kept.view(-1)[:equal] += keys.view(-1)[:equal] == threshold
    return kept


def _sparsify(block: Block, case: Case, facts: Facts) -> Block:
    kept = _kept(block, facts.threshold, facts.cut)
    if kept is None:
        return block
    models = []
    for model in block.models:
        dtype = torch.promote_types(model.dtype, block.root.dtype)
        # at 0 and 1 an interpolation is a choice, and many times as fast as one by `where`
        models.append(torch.lerp(block.root.to(dtype), model.to(dtype), kept.to(dtype)))
    return Block(block.base, tuple(models), block.begin)


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
