"""The held-out results of a job as a table: models down, axes across, with their intervals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.jobs.schemas import MergeJob


@dataclass(frozen=True)
class Score:
    """A score in 0 … 1 with its 95 % interval where the report gives one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ModelScores:
    name: str
    role: str
    winner: bool
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Figure:
    """One large figure: the winner on an axis, said `against` the model that is best at it."""

    axis: str
    score: Score
    against: str
    below: bool


@dataclass(frozen=True)
class Category:
    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Scoreboard:
    axes: tuple[str, ...]
    rows: tuple[ModelScores, ...]
    figures: tuple[Figure, ...]
    best: Mapping[str, float]
    note: str
    category_headings: tuple[str, ...] = ()
    categories: tuple[Category, ...] = field(default=())


def scoreboard(job: MergeJob, report: Mapping[str, Any]) -> Scoreboard | None:
    return None
