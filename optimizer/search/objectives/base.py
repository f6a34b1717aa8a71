"""What an objective says about a candidate. Imports no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AxisScores:
    """One axis of a candidate.

    Attributes:
        value: 0 … 1, higher is better.
        prompts: one score a prompt, in the order of the data set's split.
        unit: of `prompts` ("nats", "nats/token").
    """

    value: float
    prompts: tuple[float, ...]
    unit: str


@dataclass(frozen=True)
class Scores(Mapping[str, AxisScores]):
    """Axis → scores of one candidate. `invalid` says why the candidate must not count (gibberish); empty if it may."""

    axes: Mapping[str, AxisScores]
    invalid: str = ""

    def __getitem__(self, axis: str) -> AxisScores:
        return self.axes[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self.axes)

    def __len__(self) -> int:
        return len(self.axes)
