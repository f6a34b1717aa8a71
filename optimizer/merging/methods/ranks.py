"""The k-th smallest of numbers that are computed block by block: exact, and without holding them."""

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimizer.merging.methods.base import Block, Look

#: about how many keys a sample has
SAMPLE = 1 << 16

#: the keys of a block's numbers, one a number
Key = Callable[[Block], Tensor]


class Rank(NamedTuple):
    """A key, how many keys are smaller, and how many are equal; NaN where keys are."""

    value: float
    below: int
    equal: int


def sample_step(numel: int, columns: int) -> int:
    """Every how many numbers one goes into a sample, so that all columns have their turn."""
    step = max(1, numel // SAMPLE)
    while step > 1 and math.gcd(step, columns) > 1:
        step += 1
    return step


def sampled(keys: Tensor, begin: int, step: int) -> Tensor:
    """Those keys of a block that begins at `begin` whose position in the flat tensor is a multiple of `step`, in memory
    of their own: a view would keep all keys of all blocks."""
    return keys.reshape(-1)[-begin % step :: step].clone().cpu()


def find_ranks(key: Key, ranks: Sequence[int], sample: Tensor, numel: int) -> Generator[Look, list[Any], list[Rank]]:
    """The keys at the places `ranks` (from 0) in ascending order.

    The sample says between which two keys to look; one pass counts the keys below and collects those between, about
    one in fifty. Should the key lie elsewhere, the next pass looks further out.

    Args:
        sample: keys of the numbers at fixed positions, so that the work does not depend on the cut into blocks; if all
            `numel` keys are there, no pass is needed.
    """
    ordered = sample.sort().values
    if len(ordered) == numel:
        return [_within(ordered, rank, 0) for rank in ranks]
    found: dict[int, Rank] = {}
    waiting, spread = list(dict.fromkeys(ranks)), 2 * math.isqrt(len(ordered)) + 8
    while waiting:
        brackets = [_bracket(ordered, rank / (numel - 1), spread) for rank in waiting]
        blocks = yield _counting(key, brackets)
        for rank, bracket, counts in zip(waiting, brackets, zip(*blocks, strict=True), strict=True):
            place = _resolve(rank, bracket, counts)
            if place is None and bracket == (-math.inf, math.inf):
                place = Rank(math.nan, 0, 0)
            if place is not None:
                found[rank] = place
        waiting = [rank for rank in waiting if rank not in found]
        spread *= 8
    return [found[rank] for rank in ranks]


def _bracket(ordered: Tensor, share: float, spread: int) -> tuple[float, float]:
    """The sample's keys `spread` places below and above the wanted one; infinite where there are none."""
    middle = round(share * (len(ordered) - 1))
    low, high = middle - spread, middle + spread
    return (
        float(ordered[low]) if low >= 0 else -math.inf,
        float(ordered[high]) if high < len(ordered) else math.inf,
    )


class _Count(NamedTuple):
    """Of one block: how many keys lie below a bracket and on each of its ends, and the keys inside."""

    below: int
    low: int
    inside: Tensor
    high: int


def _counting(key: Key, brackets: Sequence[tuple[float, float]]) -> Look:
    def look(block: Block) -> list[_Count]:
        keys = key(block).reshape(-1)
        return [_count(keys, low, high) for low, high in brackets]

    return look


def _count(keys: Tensor, low: float, high: float) -> _Count:
    reached = keys >= low
    held = keys[reached & (keys <= high)]
    inside = held[(held > low) & (held < high)].cpu()
    on_high = 0 if low == high else int((held == high).sum())
    return _Count(len(keys) - int(reached.sum()), int((held == low).sum()), inside, on_high)


def _resolve(rank: int, bracket: tuple[float, float], counts: Sequence[_Count]) -> Rank | None:
    """The key at that place, if the bracket holds it."""
    below, low = sum(count.below for count in counts), sum(count.low for count in counts)
    inside, high = torch.cat([count.inside for count in counts]), sum(count.high for count in counts)
    if below <= rank < below + low:
        return Rank(bracket[0], below, low)
    begin = below + low
    if begin <= rank < begin + len(inside):
        return _within(inside.sort().values, rank - begin, begin)
    begin += len(inside)
    return Rank(bracket[1], begin, high) if begin <= rank < begin + high else None


def _within(ordered: Tensor, place: int, before: int) -> Rank:
    """What stands at `place` of the ordered keys, before which there are so many more."""
    value = ordered[place]
    first, last = (int(torch.searchsorted(ordered, value, side=side)) for side in ("left", "right"))
    return Rank(float(value), before + first, last - first)
