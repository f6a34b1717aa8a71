"""Merge methods as rows: a pure tensor function and what the planner, the search and the gradients ask about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from optimizer.errors import RecipeError
from optimizer.merging.methods.task_arithmetic import task_arithmetic


class Combine(Protocol):
    """Combine the same span of numbers of every model."""

    def __call__(self, base: Tensor, experts: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
        """`base` [numel] and `experts`, each [numel], of any float dtype; returns [numel] in the dtype of the
        arithmetic (`arithmetic_dtype`), not yet rounded to what is stored."""


@dataclass(frozen=True)
class Method:
    """One row.

    `linear`: θ is linear in the coefficients with slope τ_t, so ∂L/∂λ_t = ⟨∂L/∂θ, τ_t⟩ holds. `models`: the fewest
    and the most experts (None: any number). `source`: where the formula comes from.
    """

    name: str
    combine: Combine
    linear: bool
    models: tuple[int, int | None]
    source: str


METHODS: Mapping[str, Method] = {
    row.name: row
    for row in (
        Method("task_arithmetic", task_arithmetic, linear=True, models=(1, None), source="arXiv 2410.12937, section 2"),
    )
}


def find_method(name: str) -> Method:
    """The row of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in METHODS:
        raise RecipeError(f"merge method {name!r} found, expected one of {', '.join(METHODS)}")
    return METHODS[name]
