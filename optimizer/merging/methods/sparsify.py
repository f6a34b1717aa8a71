"""Which numbers of a task vector stay: the largest, all but the smallest and the outliers, or some at random.

Dropping a number of τ_t = θ_t − θ_b is writing the base's number into the model: that rounds nothing, so it can be done
once and kept. The factor that makes up for what was dropped is not written into the numbers but goes into the weights.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optimizer.errors import RecipeError
from optimizer.merging.methods.base import Block, Case, Look, Prepare, block_dtype, matrix
from optimizer.merging.methods.bits import below, choose, order
from optimizer.merging.methods.draws import RANGE, draw, threshold
from optimizer.merging.methods.selection import NOTHING, Cutoff, Score, Target, find_cutoffs

#: task vectors with less than this of an L1 norm are not rescaled, as in mergekit
FAINT = 1e-7
#: numbers of a tensor up to which masks that are dear to find are kept until the tensor is written: 32 MiB a model
REMEMBERED = 1 << 28


def magnitudes(block: Block, model: int) -> Tensor:
    """|τ_t|, [rows, columns] in the dtype of the arithmetic."""
    dtype = block_dtype(block)
    return torch.sub(block.models[model].to(dtype), block.root.to(dtype)).abs_()


class Keep(ABC):
    """Which numbers of one model stay."""

    @abstractmethod
    def mask(self, block: Block, model: int) -> Tensor:
        """−1 where a number stays, else 0: integers, [rows, columns]."""

    def sparse(self, block: Block, model: int) -> Tensor:
        """The model with the base's numbers where its own are dropped."""
        return choose(self.mask(block, model), block.models[model], block.root)


@dataclass(frozen=True)
class Band(Keep):
    """The largest magnitudes up to `outer`, without those up to `inner`, the outliers."""

    outer: Cutoff
    inner: Cutoff = NOTHING

    def mask(self, block: Block, model: int) -> Tensor:
        found = magnitudes(block, model)
        mask = self.outer.mask(found, block.begin)
        if self.inner != NOTHING:  # the outliers are among the largest: taking them away is an exclusive or
            mask ^= self.inner.mask(found, block.begin)
        return mask


@dataclass(frozen=True)
class Chance(Keep):
    """Each number with the probability `density`."""

    case: Case
    density: float

    def mask(self, block: Block, model: int) -> Tensor:
        return below(_drawn(self.case, block, model), threshold(self.density))


@dataclass(frozen=True)
class RankedChance(Keep):
    """Each number with a probability that grows with the rank of its magnitude in its row, from density − epsilon of
    the smallest to density + epsilon of the largest; equal ones between these share the probability of their mean rank.
    `boost`: divided by that probability, in the arithmetic's dtype. `known`: masks found before, see `remember`.
    """

    case: Case
    density: float
    epsilon: float
    boost: bool = False
    known: dict[tuple[int, int], np.ndarray[Any, Any]] = field(default_factory=dict, compare=False)

    def mask(self, block: Block, model: int) -> Tensor:
        packed = self.known.get((block.begin, block.root.numel()))
        if packed is not None:
            bits = torch.from_numpy(np.unpackbits(packed, count=block.root.numel()))
            return bits.view(torch.int8).neg_().to(torch.int32).view(block.root.shape)
        return self._mask(block, model, *_ranking(block, model))

    def remember(self, block: Block, mask: Tensor) -> None:
        """Keep a mask, as bits: sorting the rows again would take longer than all the rest."""
        if mask.device.type == "cpu" and math.prod(self.case.shape) <= REMEMBERED:
            self.known[block.begin, mask.numel()] = np.packbits(mask.numpy().reshape(-1).astype(np.bool_))

    def sparse(self, block: Block, model: int) -> Tensor:
        if not self.boost:
            return super().sparse(block, model)
        keys, ordered = _ranking(block, model)
        mask = self._mask(block, model, keys, ordered)
        # twice the mean rank of those with the same magnitude
        rank = torch.searchsorted(ordered, keys).add_(torch.searchsorted(ordered, keys, right=True)).sub_(1)
        slope = self.epsilon / (keys.shape[-1] - 1)
        chance = rank.to(block_dtype(block)).mul_(slope).add_(self.density - self.epsilon)
        base = block.root.to(block_dtype(block))
        return choose(mask, (block.models[model].to(base.dtype) - base).div_(chance).add_(base), base)

    def _mask(self, block: Block, model: int, keys: Tensor, ordered: Tensor) -> Tensor:
        # A draw has a rank whose probability it just falls below. What ranks higher stays and, of what has the same
        # magnitude, a half: that way equal magnitudes stay as often as their mean rank says.
        drawn, last = _drawn(self.case, block, model), keys.shape[-1] - 1
        slope = last / (2 * self.epsilon)
        rank = drawn.to(torch.float32).mul_(slope / RANGE).add_(0.5 - (self.density - self.epsilon) * slope)
        least = ordered.gather(-1, rank.floor_().clamp_(0, last).long())
        mask = least.sub_(keys).sub_(torch.bitwise_and(drawn, 1)).bitwise_right_shift_(31)
        # the ends have no half a rank beyond them: the smallest stay with the least probability, the largest with the
        # greatest
        mask &= torch.sub(ordered[..., :1], keys).bitwise_right_shift_(31)
        mask |= below(drawn, threshold(self.density - self.epsilon))
        mask |= torch.sub(keys, ordered[..., -1:]).bitwise_right_shift_(31).bitwise_not_()
        return mask.bitwise_and_(below(drawn, threshold(self.density + self.epsilon)))


def _drawn(case: Case, block: Block, model: int) -> Tensor:
    root = block.root
    flat = draw(case.seed, case.tensor, case.models[model], block.begin, root.numel(), root.device)
    return flat.view(root.shape)


def _ranking(block: Block, model: int) -> tuple[Tensor, Tensor]:
    """Integers in the order of the magnitudes, and these sorted, row by row."""
    keys = order(magnitudes(block, model).to(torch.float32))
    if keys.device.type == "cpu":  # numpy's sort is some forty times as fast as torch's on one core
        return keys, torch.from_numpy(np.sort(keys.numpy(), axis=-1))
    return keys, keys.sort(dim=-1).values


@dataclass(frozen=True)
class Sparsity:
    """What stays of every model (None: everything), and the factors that make up for the rest."""

    keeps: tuple[Keep | None, ...]
    scales: tuple[float, ...]


#: finds what stays of every model of a tensor
Rule = Callable[[Case], Generator[Look, list[Any], list[Keep | None]]]


def sparsify(block: Block, case: Case, facts: Any) -> Block:
    """The block with the base's numbers where those of a model are dropped."""
    sparsity: Sparsity = facts
    rows = enumerate(zip(block.models, sparsity.keeps, strict=True))
    return replace(block, models=tuple(row if keep is None else keep.sparse(block, i) for i, (row, keep) in rows))


def preparing(rule: Rule) -> Prepare:
    """`prepare` of a method that drops numbers by the rule; returns `Sparsity`."""

    def prepare(case: Case) -> Generator[Look, list[Any], Sparsity]:
        keeps = yield from rule(case)
        if not case.shared["rescale"]:
            scales = [1.0] * len(keeps)
        elif case.shared.get("rescale_by_probability"):
            scales = [1 / keep.density if isinstance(keep, Chance) and keep.density else 1.0 for keep in keeps]
        else:
            scales = yield from _l1_scales(keeps)
        return Sparsity(tuple(keeps), tuple(scales))

    return prepare


def _l1_scales(keeps: list[Keep | None]) -> Generator[Look, list[Any], list[float]]:
    """‖τ_t‖₁ over what stays of it: with this factor, dropping leaves the norm as it was."""
    scales = [1.0] * len(keeps)
    dropping = [(i, keep) for i, keep in enumerate(keeps) if keep is not None]
    if not dropping:
        return scales

    def look(block: Block) -> list[tuple[float, float]]:
        norms = []
        for i, keep in dropping:
            whole, mask = magnitudes(block, i), keep.mask(block, i)
            if isinstance(keep, RankedChance):
                keep.remember(block, mask)
            kept = order(whole).bitwise_and(mask.to(order(whole).dtype)).view(whole.dtype)
            norms.append((float(whole.double().sum()), float(kept.double().sum())))
        return norms

    blocks: list[list[tuple[float, float]]] = yield look
    for place, (i, _) in enumerate(dropping):
        before, after = (math.fsum(block[place][side] for block in blocks) for side in (0, 1))
        if before >= FAINT and after >= FAINT:
            # no finer than float32: sums of float64 differ in their last bits with the cut into blocks
            scales[i] = float(np.float32(before / after))
    return scales


def trim(case: Case) -> Generator[Look, list[Any], list[Keep | None]]:
    """The int(density · n) largest magnitudes of each model, at least one (TIES, arXiv 2306.01708, section 4.1; the
    rounding is mergekit's)."""
    numel = math.prod(case.shape)
    counts = [max(1, int(density * numel)) if density else 0 for density in case.each["density"]]
    return (yield from _bands(case, [(count, 0) for count in counts]))


def trim_with_outliers(case: Case) -> Generator[Look, list[Any], list[Keep | None]]:
    """Without the int(gamma · n) largest, the int(density · n) largest of each model (Model Breadcrumbs,
    arXiv 2312.06795, section 3; mergekit's counts: where both are more than all, there are fewer outliers)."""
    numel = math.prod(case.shape)
    pairs = []
    for density, gamma in zip(case.each["density"], case.each["gamma"], strict=True):
        count = int(density * numel)
        outliers = min(int(gamma * numel), numel - count) if count else 0
        pairs.append((count + outliers, outliers))
    return (yield from _bands(case, pairs))


def _bands(case: Case, counts: list[tuple[int, int]]) -> Generator[Look, list[Any], list[Keep | None]]:
    """`counts`: of every model, how many of the largest, the outliers among them, and how many outliers."""
    numel = math.prod(case.shape)
    dropping = [i for i, density in enumerate(case.each["density"]) if density < 1]
    scores: list[Score] = [_score(i) for i in range(len(case.models))]
    targets = [Target(i, count) for i in dropping for count in counts[i]]
    cutoffs = yield from find_cutoffs(scores, targets, numel)
    keeps: list[Keep | None] = [None] * len(case.models)
    for i, outer, inner in zip(dropping, cutoffs[::2], cutoffs[1::2], strict=True):
        keeps[i] = Band(outer, inner)
    return keeps


def _score(model: int) -> Score:
    return lambda block: magnitudes(block, model)


def drop_at_random(case: Case) -> Generator[Look, list[Any], list[Keep | None]]:
    """Every number stays with the probability density (DARE, arXiv 2311.03099, section 3.2)."""
    yield from ()
    return [None if density == 1 else Chance(case, density) for density in case.each["density"]]


def drop_by_rank(case: Case) -> Generator[Look, list[Any], list[Keep | None]]:
    """Large numbers stay more often than small ones of their row (MagPrune of DELLA, arXiv 2406.11617, section 3.1).

    Raises:
        RecipeError: see `check_probabilities`.
    """
    yield from ()
    check_probabilities(case)
    boost = bool(case.shared["rescale"] and case.shared["rescale_by_probability"])
    keeps: list[Keep | None] = []
    for density, epsilon in zip(case.each["density"], case.each["epsilon"], strict=True):
        if density == 1:
            keeps.append(None)
        elif density == 0 or epsilon == 0 or matrix(case.shape)[1] == 1:  # nothing to rank
            keeps.append(Chance(case, density))
        else:
            keeps.append(RankedChance(case, density, epsilon, boost))
    return keeps


def check_probabilities(case: Case) -> None:
    """Raises RecipeError where density ± epsilon leaves 0 … 1 (density 0 and 1 drop all and nothing, for sure)."""
    for model, density, epsilon in zip(case.models, case.each["density"], case.each["epsilon"], strict=True):
        if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            room = min(density, 1 - density)
            raise RecipeError(
                f"{model}, tensor {case.tensor}: density {density:g} ± epsilon {epsilon:g} found, expected "
                "probabilities between 0 and 1",
                mend=f"set epsilon below {room:.6g}",
            )
