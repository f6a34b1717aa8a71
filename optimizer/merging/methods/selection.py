"""The k largest of scores that are computed block by block: exact, and without holding them.

A sample says between which two scores the k-th lies; one pass counts those above and collects those between. Among
equal scores the first positions are chosen, so that exactly k are, whatever the numbers.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimizer.merging.methods.base import Block, Look
from optimizer.merging.methods.bits import above, order

#: every how many numbers one is sampled: a prime, so that all columns have their turn
SAMPLE_STEP = 127
#: tensors of fewer numbers are not sampled
SMALL = 1 << 16
#: standard deviations between the sample's idea of a place and the ends of the bracket, at first
SPREAD = 4.5

Scores = NDArray[Any]
#: [rows, columns] of scores, floats without a sign; each depends on nothing but the numbers at its position
Score = Callable[[Block], Tensor]


class Cutoff(NamedTuple):
    """Where the k largest end: at `value` (the bits of a score; -1: below all). Of the scores that equal it, those
    before `position` in the flat tensor are among the k."""

    value: int
    position: int

    def mask(self, scores: Tensor, begin: int) -> Tensor:
        """−1 where a score of the block that begins at `begin` is among the k largest, else 0."""
        bits = order(scores)
        value = min(self.value, torch.iinfo(bits.dtype).max)
        if self.position <= begin or self.position >= begin + bits.numel():
            return above(bits, value - (self.position > begin))
        flat, early = bits.reshape(-1), self.position - begin
        parts = above(flat[:early], value - 1), above(flat[early:], value)
        return torch.cat(parts).view(bits.shape)


#: none at all, all of them
NOTHING, EVERYTHING = Cutoff((1 << 63) - 1, 0), Cutoff(-1, 0)


class Target(NamedTuple):
    """A question: the `size` largest of scores number `score`."""

    score: int
    size: int


class _Bracket(NamedTuple):
    """Bits of scores; both ends are included."""

    low: int
    high: int


class _Found(NamedTuple):
    """Of one block: how many scores lie above a bracket, and the different ones inside with their numbers."""

    above: int
    values: Scores
    counts: Scores


class _Tie(NamedTuple):
    """The cutoff is at the `nth` score that equals `value` in the block that begins at `begin`."""

    score: int
    value: int
    begin: int
    nth: int


def find_cutoffs(
    scores: Sequence[Score], targets: Sequence[Target], numel: int
) -> Generator[Look, list[Any], list[Cutoff]]:
    """Where each of the `targets` ends, of tensors of `numel` numbers. All are found in the same passes: one over a
    sample, one over everything, and, where equal scores must be told apart, one that looks at the blocks they are in.
    """
    cutoffs = {t: EVERYTHING if t.size >= numel else NOTHING for t in targets if not 0 < t.size < numel}
    waiting = [target for target in dict.fromkeys(targets) if target not in cutoffs]
    ties: dict[Target, _Tie] = {}
    samples: dict[int, Scores] = {}
    if waiting and numel > SMALL:
        samples = yield from _sampled(scores, sorted({target.score for target in waiting}))
    spread = SPREAD
    while waiting:
        brackets = [_bracket(samples.get(target.score), target.size, numel, spread) for target in waiting]
        blocks = yield _collecting(scores, waiting, brackets)
        begins = [begin for begin, _ in blocks]
        for target, found in zip(waiting, zip(*(answer for _, answer in blocks), strict=True), strict=True):
            settled = _settle(target, found, begins, numel)
            if isinstance(settled, Cutoff):
                cutoffs[target] = settled
            elif settled is not None:
                ties[target] = settled
        waiting = [target for target in waiting if target not in cutoffs and target not in ties]
        spread *= 8
    if ties:
        places = yield _locating(scores, list(ties.values()))
        for i, (target, tie) in enumerate(ties.items()):
            cutoffs[target] = Cutoff(tie.value, max(place[i] for place in places))
    return [cutoffs[target] for target in targets]


def _sampled(scores: Sequence[Score], wanted: Sequence[int]) -> Generator[Look, list[Any], dict[int, Scores]]:
    """Scores at positions that do not depend on the cut into blocks, in ascending order."""

    def look(block: Block) -> list[Tensor]:
        thin = _thinned(block)
        return [order(scores[i](thin)).reshape(-1).cpu() for i in wanted]

    blocks = yield look
    return {i: np.sort(torch.cat(parts).numpy()) for i, parts in zip(wanted, zip(*blocks, strict=True), strict=True)}


def _thinned(block: Block) -> Block:
    def thin(tensor: Tensor) -> Tensor:
        return tensor.reshape(1, -1)[:, -block.begin % SAMPLE_STEP :: SAMPLE_STEP]

    base = None if block.base is None else thin(block.base)
    return replace(block, base=base, models=tuple(thin(model) for model in block.models))


def _bracket(sample: Scores | None, count: int, numel: int, spread: float) -> _Bracket:
    """Between which scores the one at place `count` from above is to be looked for."""
    low, high = 0, (1 << 63) - 1
    if sample is None:
        return _Bracket(low, high)
    share = count / numel
    middle = len(sample) * (1 - share)
    margin = spread * (math.sqrt(len(sample) * share * (1 - share)) + 2)
    first, last = math.floor(middle - margin), math.ceil(middle + margin)
    return _Bracket(
        int(sample[first]) if first >= 0 else low,
        int(sample[last]) if last < len(sample) else high,
    )


def _collecting(scores: Sequence[Score], targets: Sequence[Target], brackets: Sequence[_Bracket]) -> Look:
    def look(block: Block) -> tuple[int, list[_Found]]:
        rows = {i: _ascending(order(scores[i](block))) for i in {target.score for target in targets}}
        pairs = zip(targets, brackets, strict=True)
        return block.begin, [_inside(rows[target.score], bracket) for target, bracket in pairs]

    return look


def _ascending(bits: Tensor) -> Scores:
    # numpy sorts integers with vector instructions, 25 times as fast as torch on one core; a GPU has its own
    flat = bits.reshape(-1)
    ordered: Scores = np.sort(flat.numpy()) if flat.device.type == "cpu" else flat.sort().values.cpu().numpy()
    return ordered


def _inside(ordered: Scores, bracket: _Bracket) -> _Found:
    first = int(np.searchsorted(ordered, bracket.low))
    last = int(np.searchsorted(ordered, min(bracket.high, np.iinfo(ordered.dtype).max), side="right"))
    held = ordered[first:last]
    starts = np.flatnonzero(np.concatenate(([True], held[1:] != held[:-1]))) if len(held) else np.empty(0, np.int64)
    # copies: a view would keep the whole block in memory
    return _Found(len(ordered) - last, held[starts], np.diff(starts, append=len(held)).astype(np.int32))


def _settle(target: Target, found: Sequence[_Found], begins: Sequence[int], numel: int) -> Cutoff | _Tie | None:
    """The cutoff, or where it is to be looked for; None if it lies outside the bracket."""
    missing = target.size - sum(part.above for part in found)
    values = np.concatenate([part.values for part in found])
    counts = np.concatenate([part.counts for part in found])
    blocks = np.repeat(np.arange(len(found)), [len(part.values) for part in found])
    falling = np.argsort(values)[::-1]
    reached = np.cumsum(counts[falling], dtype=np.int64)
    if missing <= 0 or len(reached) == 0 or missing > reached[-1]:
        return None
    value = int(values[falling[np.searchsorted(reached, missing)]])
    equal = values == value
    missing -= int(counts[values > value].sum(dtype=np.int64))
    in_blocks = np.cumsum(counts[equal], dtype=np.int64)
    if missing == in_blocks[-1]:
        return Cutoff(value, numel)
    place = int(np.searchsorted(in_blocks, missing))
    earlier = int(in_blocks[place - 1]) if place else 0
    return _Tie(target.score, value, begins[blocks[equal][place]], missing - earlier)


def _locating(scores: Sequence[Score], ties: Sequence[_Tie]) -> Look:
    """One past the position of every tie's last chosen score, 0 in other blocks."""

    def look(block: Block) -> list[int]:
        places = [0] * len(ties)
        for i, tie in enumerate(ties):
            if tie.begin == block.begin:
                equal = (order(scores[tie.score](block)).reshape(-1) == tie.value).nonzero()
                places[i] = tie.begin + int(equal[tie.nth - 1]) + 1
        return places

    return look
