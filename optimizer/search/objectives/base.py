"""What an objective gives: a value an axis, and the score of every prompt. Imports no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AxisScores:
    """One axis of one candidate.

    Attributes:
        value: 0 … 1, higher is better.
        prompts: one score a prompt, in the data set's order, in `unit`; higher is better.
        unit: of `prompts`, such as "nats" or "nats/token".
    """

    value: float
    prompts: tuple[float, ...]
    unit: str


@dataclass(frozen=True)
class Scores(Mapping[str, AxisScores]):
    """All axes of one candidate; `invalid` says why a broken candidate counts for nothing, and is empty otherwise."""

    axes: Mapping[str, AxisScores]
    invalid: str = ""

    def __getitem__(self, axis: str) -> AxisScores:
        return self.axes[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self.axes)

    def __len__(self) -> int:
        return len(self.axes)
