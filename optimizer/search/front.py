"""Pareto fronts of candidates, and the rule that chooses one. Pure; axes are maximised, 0 … 1. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.errors import SearchError
from optimizer.search.settings import SelectSettings

#: the axes that every pool has; all others are domains
SAFETY_AXES = ("refusal", "compliance")
_TOLERANCE = 1e-9

Point = Sequence[float]


def dominates(one: Point, other: Point) -> bool:
    """At least as good on every axis and better on one."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices, ascending, of the points that no other point dominates. Equal points are all on the front.

    A point with a coordinate that is not finite is on no front.
    """
    sound = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    return [i for i in sound if not any(dominates(points[j], points[i]) for j in sound)]


def fronts(points: Sequence[Point]) -> list[list[int]]:
    """Non-dominated sorting: the front, the front of what is left, and so on. Points not finite are left out."""
    left = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    layers = []
    while left:
        layer = [left[i] for i in pareto_front([points[i] for i in left])]
        layers.append(layer)
        left = [i for i in left if i not in set(layer)]
    return layers


def knee(points: Sequence[Point]) -> int:
    """Index of the front's point that is nearest to the ideal one, every axis scaled to the front's own range.

    Raises:
        SearchError: there is no finite point.
    """
    front = pareto_front(points)
    if not front:
        raise SearchError("no point has finite scores on every axis", mend="look at the reasons of the invalid trials")
    best = [max(points[i][axis] for i in front) for axis in range(len(points[front[0]]))]
    worst = [min(points[i][axis] for i in front) for axis in range(len(best))]

    def distance(index: int) -> float:
        gaps = zip(points[index], best, worst, strict=True)
        return math.hypot(*((high - value) / (high - low) for value, high, low in gaps if high > low))

    return min(front, key=distance)


def scalarise(values: Sequence[float]) -> float:
    """½ · min + ½ · mean of the axes, in 0 … 1.

    An augmented Chebyshev function with the ideal point at 1 (Steuer and Choo, 1983): the minimum pulls the weakest
    axis up, so that giving up one axis never pays; the mean keeps a slope where the weakest axis cannot move.
    """
    return 0.5 * min(values) + 0.5 * sum(values) / len(values)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume of what the points dominate above `reference`, exact (WFG, While et al. 2012).

    Points below the reference on an axis count for nothing. Worst case exponential in the number of points; a front
    of 100 points takes milliseconds in 3 dimensions and up to seconds in 5.
    """
    above = [tuple(point) for point in points if all(p > r for p, r in zip(point, reference, strict=True))]
    front = sorted({above[i] for i in pareto_front(above)}, reverse=True)
    return _volume(front, tuple(reference))


def _volume(front: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """`front`: distinct, none dominated, sorted by the first axis, best first."""
    if not front:
        return 0.0
    if len(reference) == 1:
        return front[0][0] - reference[0]
    if len(reference) == 2:
        total, floor = 0.0, reference[1]
        for x, y in front:  # x falls, so y rises
            total += (x - reference[0]) * (y - floor)
            floor = y
        return total
    total = 0.0
    for i, point in enumerate(front):
        # What this point alone adds to those after it. They are worse on the first axis, so that the overlap with
        # each of them is a box whose first side is theirs; one axis less each time the sides are cut off.
        box = math.prod(p - r for p, r in zip(point, reference, strict=True))
        limited = [tuple(map(min, point, other)) for other in front[i + 1 :]]
        kept = sorted({limited[j] for j in pareto_front(limited)}, reverse=True)
        total += box - _volume(kept, reference)
    return total


@dataclass(frozen=True)
class Floor:
    """What an axis must reach; `source` says where the number comes from."""

    axis: str
    value: float
    source: str


@dataclass(frozen=True)
class Choice:
    """The point chosen and why.

    Attributes:
        index: into the points given.
        feasible: whether it meets every floor. If none does, the point with the least total shortfall is taken.
        floors: of the rule, with references resolved.
        shortfalls: axis → how much is missing, for every floor that is missed.
        reason: one sentence for people.
    """

    index: int
    feasible: bool
    floors: tuple[Floor, ...]
    shortfalls: Mapping[str, float]
    reason: str


def axis_value(scores: Mapping[str, float], axis: str) -> float:
    """Score on an axis of the select rule; "domains" is the mean over the domains (1 where there is none).

    Raises:
        SearchError: there is no such axis.
    """
    domains = [value for name, value in scores.items() if name not in SAFETY_AXES]
    if axis == "domains":
        return sum(domains) / len(domains) if domains else 1.0
    if axis not in scores:
        raise SearchError(
            f"the select rule names the axis {axis!r}", mend="expected one of " + ", ".join([*scores, "domains"])
        )
    return scores[axis]


def floors_of(rule: SelectSettings, references: Mapping[str, Mapping[str, float]]) -> tuple[Floor, ...]:
    """The rule's constraints as numbers.

    Args:
        references: model of the pool → its scores, measured as the points are.

    Raises:
        SearchError: a constraint is relative to a model that has no scores, or names no axis.
    """
    found = []
    for axis, constraint in rule.subject_to.items():
        if constraint.of is None:
            found.append(Floor(axis, constraint.at_least, f"at least {constraint.at_least:g}"))
            continue
        if constraint.of not in references:
            raise SearchError(
                f"the select rule compares {axis} with {constraint.of!r}",
                mend="expected a model of the pool: " + ", ".join(references),
            )
        theirs = axis_value(references[constraint.of], axis)
        source = f"at least {constraint.at_least:g} × {constraint.of}'s {theirs:.3f}"
        found.append(Floor(axis, constraint.at_least * theirs, source))
    return tuple(found)


def choose(
    points: Sequence[Mapping[str, float]], rule: SelectSettings, references: Mapping[str, Mapping[str, float]]
) -> Choice:
    """The best point on `rule.maximize` among those that meet every floor; ties go to the higher mean over all axes.

    Args:
        points: axis → score of every candidate, all over the same axes. A point that is not finite is never chosen.
        references: model of the pool → its scores, measured as the points are.

    Raises:
        SearchError: no point to choose from, or the rule names an unknown axis or model.
    """
    floors = floors_of(rule, references)
    sound = [i for i, point in enumerate(points) if all(map(math.isfinite, point.values()))]
    if not sound:
        raise SearchError("no candidate to choose from", mend="look at the reasons of the invalid trials")

    def missing(index: int) -> dict[str, float]:
        gaps = {floor.axis: floor.value - axis_value(points[index], floor.axis) for floor in floors}
        return {axis: gap for axis, gap in gaps.items() if gap > _TOLERANCE}

    def merit(index: int) -> tuple[float, float, float, int]:
        scores = points[index]
        mean = sum(scores.values()) / len(scores)
        return -sum(missing(index).values()), axis_value(scores, rule.maximize), mean, -index

    best = max(sound, key=merit)
    shortfalls = missing(best)
    feasible = sum(not missing(i) for i in sound)
    if not shortfalls:
        reason = f"best {rule.maximize} among the {feasible} of {len(sound)} candidates that meet every constraint"
    else:
        gaps = ", ".join(f"{axis} by {gap:.3f}" for axis, gap in shortfalls.items())
        reason = f"none of {len(sound)} candidates meets every constraint; this one misses least: {gaps}"
    return Choice(best, not shortfalls, floors, shortfalls, reason)
