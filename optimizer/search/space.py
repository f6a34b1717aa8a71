"""Coefficients ↔ search dimensions: how many numbers the search moves, and which groups each of them sets.

Imports no torch.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.errors import SearchError
from optimizer.merging.layout import Layout
from optimizer.merging.recipe import Coefficients, Granularity, MergeSettings

#: "layers.3.mlp" and, in a second tower, "vision_tower.layers.3.mlp"
_LAYER = re.compile(r"^(.+\.\d+)\.[^.]+$")


@dataclass(frozen=True)
class Dimension:
    """One number the search moves: "chat" (granularity model), "chat/layers.3" (layer), "chat/layers.3.mlp"."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Space:
    """A box of coefficients.

    `covers[d] = (m, groups)`: dimension d sets λ of model m in these groups (indices into `models` and `groups`).
    Every model × group belongs to exactly one dimension.
    """

    models: tuple[str, ...]
    groups: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    covers: tuple[tuple[int, tuple[int, ...]], ...]

    @classmethod
    def of(cls, layout: Layout, models: Sequence[str], settings: MergeSettings) -> "Space":
        """The space of a pool: every model in `models`, cut as `settings.granularity` says, within `settings.bounds`.

        Granularity `layer` gives one dimension to the embedding, one to each layer, one to what follows the last layer
        (final norm and head); `layer_component` one to each group of the layout; `model` one in all.

        Raises:
            SearchError: no models, or one named twice.
        """
        if not models or len(set(models)) != len(models):
            raise SearchError(
                f"the models of the space are {list(models)}, expected at least one and no name twice",
                mend="name every model of the pool once under `models:`",
            )
        low, high = settings.bounds
        parts: dict[str, list[int]] = {}
        for index, group in enumerate(layout.groups):
            parts.setdefault(_part(group, settings.granularity), []).append(index)
        names = [f"{model}/{part}" if part else model for model in models for part in parts]
        dimensions = tuple(Dimension(name, float(low), float(high)) for name in names)
        covers = tuple((m, tuple(indices)) for m in range(len(models)) for indices in parts.values())
        return cls(tuple(models), tuple(layout.groups), dimensions, covers)

    def coefficients(self, values: Sequence[float]) -> Coefficients:
        """The coefficients of a point. `values` has one number a dimension; bounds are not enforced here.

        Raises:
            SearchError: another number of values than dimensions.
        """
        self._check(len(values))
        matrix = [[0.0] * len(self.groups) for _ in self.models]
        for value, (model, groups) in zip(values, self.covers, strict=True):
            for group in groups:
                matrix[model][group] = float(value)
        return Coefficients(self.models, self.groups, tuple(map(tuple, matrix)))

    def values(self, coefficients: Coefficients) -> list[float]:
        """The nearest point of the space: for every dimension the mean over the groups it covers, clipped to bounds.

        Raises:
            SearchError: the coefficients are of other models or groups.
        """
        if coefficients.models != self.models or coefficients.groups != self.groups:
            raise SearchError(
                f"coefficients of models {coefficients.models} in {len(coefficients.groups)} groups do not belong to "
                f"the space of models {self.models} in {len(self.groups)} groups",
                mend="use coefficients made for this pool",
            )
        return self.clip([_mean([coefficients.values[model][g] for g in groups]) for model, groups in self.covers])

    def clip(self, values: Sequence[float]) -> list[float]:
        """`values` projected on the bounds."""
        self._check(len(values))
        return [min(max(v, d.low), d.high) for v, d in zip(values, self.dimensions, strict=True)]

    def pull_back(self, gradient: Sequence[Sequence[float]]) -> list[float]:
        """∂L/∂values from ∂L/∂λ `[models, groups]`: a dimension's is the sum over the groups it covers (chain rule)."""
        return [sum(gradient[model][group] for group in groups) for model, groups in self.covers]

    def _check(self, count: int) -> None:
        if count != len(self.dimensions):
            raise SearchError(
                f"a point has {count} values, the space {len(self.dimensions)} dimensions",
                mend="the merge settings changed since the point was made; start a new search",
            )


def _mean(values: Sequence[float]) -> float:
    """The mean; of equal values exactly that value, so that a point survives the way to coefficients and back."""
    return values[0] if len(set(values)) == 1 else math.fsum(values) / len(values)


def _part(group: str, granularity: Granularity) -> str:
    """The name of the dimension a group falls into, without the model's."""
    if granularity is Granularity.MODEL:
        return ""
    if granularity is Granularity.LAYER_COMPONENT:
        return group
    layer = _LAYER.match(group)
    if layer:
        return layer[1]
    return group if group == "embedding" else "head"
