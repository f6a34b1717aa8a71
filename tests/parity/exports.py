"""Recipes as Temper's search makes them, written for mergekit."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optimizer.merging.checkpoint.source import Checkpoint
from optimizer.merging.layout import Layout
from optimizer.merging.mergekit.write import to_mergekit_yaml
from optimizer.merging.recipe import Coefficients, Recipe
from tests.parity.cases import Case


@dataclass(frozen=True)
class Export(Case):
    """`method` with a coefficient of its own for every model in every group of tensors."""

    method: str = "task_arithmetic"
    models: tuple[str, ...] = ("a", "b", "c")
    parameters: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)

    def temper(self, pool: Path) -> Recipe:
        """Temper's own recipe."""
        draw = random.Random(self.name)
        groups = layout_of(pool).groups
        rows = tuple(tuple(round(draw.uniform(0.05, 0.95), 3) for _ in groups) for _ in self.models)
        folders = {name: pool / name for name in self.models}
        coefficients = Coefficients(self.models, groups, rows)
        return Recipe(pool / "base", folders, self.method, coefficients, "float32", self.parameters)

    def text(self, pool: Path) -> str:
        """What Temper writes for mergekit."""
        return to_mergekit_yaml(self.temper(pool), layout_of(pool))


def layout_of(pool: Path) -> Layout:
    """The layout of the pool's base."""
    return Layout.of(Checkpoint(pool / "base").infos)


EXPORTS = [
    *(
        Export(f"export: {method} {pool}", "", pool, 0, method, models, parameters)
        for pool in ("llama", "llama-tied", "qwen2", "gemma2", "mixtral")
        for method, models, parameters in (("task_arithmetic", ("a", "b", "c"), {"lambda": 0.9}),)
    ),
    *(
        Export(f"export: {method} {pool}", "", pool, 0, method, models, parameters)
        for pool in ("llama", "llama-tied")
        for method, models, parameters in (
            ("linear", ("a", "b", "c"), {}),
            ("slerp", ("a",), {}),
            ("nuslerp", ("a", "b"), {}),
            ("multislerp", ("a", "b", "c"), {}),
            ("ties", ("a", "b", "c"), {"density": {"a": 0.3, "b": 0.6, "c": 0.8}}),
            ("breadcrumbs", ("a", "b"), {"density": 0.7, "gamma": 0.05}),
            ("dare_ties", ("a", "b"), {"density": 1.0}),
        )
    ),
]
