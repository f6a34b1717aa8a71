"""Which model gives which row of a new vocabulary: positions only, no weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: in `Order.origin`: the row is a blend
BLEND = -1


@dataclass(frozen=True)
class Order:
    """Rows of one model in the order of the result's vocabulary.

    `origin` [rows] says by position in the pool whose row it is, or BLEND; `place` [rows] which row of that one's
    tensor. `blends` leads from a row to the (model, row) pairs whose average it is; none: zeros.
    """

    origin: Tensor
    place: Tensor
    blends: Mapping[int, tuple[tuple[int, int], ...]]

    @property
    def models(self) -> set[int]:
        """Every model whose rows are needed, by position."""
        return (set(self.origin.tolist()) - {BLEND}) | {model for model, _ in self.blended}

    @property
    def blended(self) -> tuple[tuple[int, int], ...]:
        """Every (model, row) that goes into an average of this order."""
        rows = torch.nonzero(self.origin == BLEND).flatten().tolist()
        return tuple(pair for row in rows for pair in self.blends[row])


@dataclass(frozen=True)
class Ruling:
    """A rule about one row: `pick` is a (model, row), None for zeros; `force`: also for models that have the row."""

    row: int
    pick: tuple[int, int] | None
    force: bool


def arrange(own: Sequence[Tensor], base: int | None, rulings: Sequence[Ruling]) -> list[Order]:
    """The order of every model of a pool.

    A row that a model lacks is taken from the base if it has it, else from the only model that has it, else it is the
    average of those that have it, else zeros; a ruling goes before all this.

    Args:
        own: a tensor [rows] a model: where its own row for every row of the result lies, negative where it has none.
        base: position of the base in the pool, None where there is none.
    """
    table = torch.stack(list(own))
    has = table >= 0
    count = has.sum(0)
    origin = torch.where(count == 1, has.int().argmax(0), BLEND)
    if base is not None:
        origin = torch.where(has[base], base, origin)
    place = table.gather(0, origin.clamp(min=0).unsqueeze(0)).squeeze(0)
    forced: list[int] = []
    averages: dict[int, tuple[tuple[int, int], ...]] = {}
    for ruling in rulings:
        origin[ruling.row], place[ruling.row] = (BLEND, 0) if ruling.pick is None else ruling.pick
        if ruling.pick is None:
            averages[ruling.row] = ()
        forced += [ruling.row] if ruling.force else []
    has[:, forced] = False
    for row in torch.nonzero((origin == BLEND) & ~has.all(0)).flatten().tolist():
        owners = torch.nonzero(table[:, row] >= 0).flatten().tolist()
        averages.setdefault(row, tuple((model, int(table[model, row])) for model in owners))
    return [
        Order(torch.where(has[model], model, origin), torch.where(has[model], table[model], place), averages)
        for model in range(len(own))
    ]
