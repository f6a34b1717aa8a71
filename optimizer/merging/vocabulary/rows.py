"""A model's embedding or head in the order of another vocabulary, read row by row: nothing is held in memory."""

from bisect import bisect_right
from collections.abc import Mapping
from functools import reduce
from threading import Lock

import torch
from torch import Tensor

from optimizer.merging.checkpoint.source import TensorSource
from optimizer.merging.vocabulary.orders import BLEND, Order

#: numbers that are summed up at a time
_PIECE = 1 << 18


class Column:
    """A vector with a number for every token (the bias of a head), as [tokens, 1]."""

    def __init__(self, vector: TensorSource) -> None:
        self.shape = (vector.shape[0], 1)
        self.dtype = vector.dtype
        self._vector = vector

    def rows(self, begin: int, end: int) -> Tensor:
        return self._vector.rows(0, 1)[0, begin:end, None]


class Flat:
    """The reverse: [tokens, 1] as a vector."""

    def __init__(self, column: TensorSource) -> None:
        self.shape = (column.shape[0],)
        self.dtype = column.dtype
        self._column = column

    def rows(self, begin: int, end: int) -> Tensor:
        return self._column.rows(0, self.shape[0]).reshape(1, -1)[begin:end]


class VocabularyRows:
    """The rows that an order names, and the mean of them all in every row behind them, which no token has.

    `sources` are the pool's tensors [tokens, columns] by position, at least those that the order names. The dtype holds
    all of them; averages and means are computed in float64 and rounded to float32.

    Rows of consecutive places are handed on as they are, without a copy where no change of dtype asks for one.
    """

    def __init__(self, sources: Mapping[int, TensorSource], order: Order, size: int) -> None:
        self._sources, self._order = sources, order
        origin, place = order.origin, order.place
        dtypes = [sources[model].dtype for model in sorted(order.models)]
        dtypes += [torch.float32] if order.blended or size > len(origin) or not dtypes else []
        self.shape = (size, next(iter(sources.values())).shape[1])
        self.dtype = reduce(torch.promote_types, dtypes)
        new = (origin[1:] != origin[:-1]) | (place[1:] != place[:-1] + 1) | (origin[1:] == BLEND)
        self._starts: list[int] = [0, *(torch.nonzero(new).flatten() + 1).tolist()]
        # where each run of consecutive rows comes from
        self._origins: list[int] = origin[self._starts].tolist()
        self._places: list[int] = place[self._starts].tolist()
        self._known = len(origin)
        self._mean: Tensor | None = None
        self._lock = Lock()

    @property
    def straight(self) -> int | None:
        """The one model whose leading rows these are, in their order; None where there is more to it."""
        plain = len(self._starts) == 1 and self._known == self.shape[0] and self._places[0] == 0
        return self._origins[0] if plain and self._origins[0] != BLEND else None

    def rows(self, begin: int, end: int) -> Tensor:
        parts = []
        at, stop = begin, min(end, self._known)
        number = bisect_right(self._starts, begin)
        while at < stop:
            until = min(stop, self._starts[number]) if number < len(self._starts) else stop
            parts.append(self._run(number - 1, at, until))
            at, number = until, number + 1
        if end > self._known:
            padding = end - max(begin, self._known)
            parts.append(self._padding().expand(padding, -1))
        if not parts:
            return torch.empty((0, self.shape[1]), dtype=self.dtype)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, number: int, begin: int, end: int) -> Tensor:
        """Rows of one run."""
        model = self._origins[number]
        if model != BLEND:
            place = self._places[number] + begin - self._starts[number]
            return self._sources[model].rows(place, place + end - begin).to(self.dtype)
        pairs = self._order.blends[begin]
        if not pairs:
            return torch.zeros((1, self.shape[1]), dtype=self.dtype)
        total = sum((self._sources[m].rows(row, row + 1).double() for m, row in pairs), start=torch.zeros(()).double())
        return (total / len(pairs)).to(self.dtype)

    def _padding(self) -> Tensor:
        """[1, columns], computed when it is first asked for."""
        with self._lock:
            if self._mean is None:
                total = torch.zeros(self.shape[1], dtype=torch.float64)
                height = max(1, _PIECE // self.shape[1])
                for begin in range(0, self._known, height):
                    total += self.rows(begin, min(begin + height, self._known)).sum(0, dtype=torch.float64)
                self._mean = (total / self._known).to(self.dtype).unsqueeze(0)
        return self._mean
