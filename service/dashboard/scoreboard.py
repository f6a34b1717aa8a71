"""The held-out results of a job as tables: models down, axes across, with their intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optimizer.reporting.audit import Notice
from optimizer.reporting.report import ModelScores, Report
from optimizer.search.evaluation import CategoryScores, Share
from service.jobs.schemas import MergeJobRequest

#: of the reports that this page reads
VERSION = 1
#: a winner that keeps less of what the best parent does on an axis is marked
KEPT = 0.9


@dataclass(frozen=True)
class Row:
    """One model; `tag` is what it is for."""

    name: str
    tag: str
    winner: bool
    scores: Mapping[str, Share]


@dataclass(frozen=True)
class Figure:
    """One large figure: the winner on an axis, said `against` the parent that is best at it."""

    axis: str
    score: Share
    against: str
    below: bool


@dataclass(frozen=True)
class Scoreboard:
    """`best` is the highest value of each axis; `categories` are the winner's, by hazard category."""

    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...]
    best: Mapping[str, float]
    note: str
    notices: tuple[Notice, ...]
    categories: Mapping[str, CategoryScores]


def scoreboard(request: MergeJobRequest, result: Mapping[str, Any]) -> Scoreboard | None:
    """Tables of a report, given as the JSON that the report stage left; None where another version wrote it."""
    if result.get("version") != VERSION:
        return None
    report = Report.model_validate(result)
    winner = report.of("winner")[0]
    rows = tuple(_row(request, model) for model in report.models)
    return Scoreboard(
        axes=tuple(winner.shares),
        rows=rows,
        figures=tuple(_figure(axis, share, report.of("parent")) for axis, share in winner.shares.items()),
        best={axis: max(row.scores[axis].value for row in rows if axis in row.scores) for axis in winner.shares},
        note=f"on {report.rows.get('report', 0)} prompts that the search never saw, read by {report.judge}",
        notices=report.notices,
        categories=winner.categories,
    )


def _row(request: MergeJobRequest, model: ModelScores) -> Row:
    known = request.models.get(model.name)
    tag = known.role.value if known and model.role == "parent" else model.role
    return Row(model.name, "" if tag == model.name else tag, model.role == "winner", model.shares)


def _figure(axis: str, share: Share, parents: tuple[ModelScores, ...]) -> Figure:
    rivals = [parent for parent in parents if axis in parent.shares]
    if not rivals:
        return Figure(axis, share, "", below=False)
    best = max(rivals, key=lambda parent: parent.shares[axis].value)
    theirs = best.shares[axis].value
    if theirs == 0:
        return Figure(axis, share, f"no parent scores here ({best.name}: 0)", below=False)
    kept = share.value / theirs
    return Figure(axis, share, f"{kept:.0%} of {best.name}’s {theirs:.3f}".replace("%", " %"), below=kept < KEPT)
