"""All SQL of trials. Functions take a session and never commit."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from optimizer.merging.recipe import Coefficients
from optimizer.search.trials import TrialRecord
from service.jobs.schemas import TrialView
from service.trials.tables import TrialRow


def record(session: Session, job_id: str, trial: TrialRecord) -> bool:
    """Keep a trial and its place on the front; says whether it is new. A number that is kept already stays as it is."""
    if session.get(TrialRow, (job_id, trial.number)) is not None:
        return False
    row = TrialRow(
        job_id=job_id,
        number=trial.number,
        origin=trial.origin,
        state=trial.state,
        scores=_finite(trial.scores),
        seconds=trial.seconds,
        seed=trial.seed,
        worker=trial.worker,
        note=trial.note,
        created_at=trial.created_at,
        coefficients={
            "models": list(trial.coefficients.models),
            "groups": list(trial.coefficients.groups),
            "values": [list(row) for row in trial.coefficients.values],
        },
        prompt_scores={axis: [_number(score) for score in scores] for axis, scores in trial.prompt_scores.items()},
        on_front=False,
    )
    if trial.state == "complete":
        row.on_front = _enter_front(session, job_id, row.scores)
    session.add(row)
    session.flush()
    return True


def _enter_front(session: Session, job_id: str, scores: Mapping[str, float]) -> bool:
    """Whether no trial of the front dominates `scores`; those that `scores` dominates leave it."""
    front = session.scalars(sa.select(TrialRow).where(TrialRow.job_id == job_id, TrialRow.on_front)).all()
    if any(_dominates(row.scores, scores) for row in front):
        return False
    for row in front:
        if _dominates(scores, row.scores):
            row.on_front = False
    return True


def _dominates(left: Mapping[str, float], right: Mapping[str, float]) -> bool:
    """At least as good on every axis and better on one."""
    pairs = [(left.get(axis, 0.0), right.get(axis, 0.0)) for axis in left.keys() | right.keys()]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def finished(session: Session, job_id: str) -> dict[int, TrialRecord]:
    query = (
        sa.select(TrialRow)
        .where(TrialRow.job_id == job_id)
        .order_by(TrialRow.number)
        .options(undefer(TrialRow.coefficients), undefer(TrialRow.prompt_scores))
    )
    return {row.number: _as_record(row) for row in session.scalars(query)}


def listed(
    session: Session, job_id: str, *, after: int = -1, limit: int | None = None, front: bool = False, full: bool = False
) -> list[TrialView]:
    """Trials by number, those after the number `after`; `front`: of the front alone; `full`: with coefficients."""
    query = sa.select(TrialRow).where(TrialRow.job_id == job_id, TrialRow.number > after).order_by(TrialRow.number)
    if front:
        query = query.where(TrialRow.on_front)
    if full:
        query = query.options(undefer(TrialRow.coefficients))
    return [_as_view(row, full=full) for row in session.scalars(query.limit(limit))]


def one(session: Session, job_id: str, number: int) -> TrialView | None:
    """One trial with its coefficients."""
    row = session.get(TrialRow, (job_id, number))
    return _as_view(row, full=True) if row else None


def judge(session: Session, job_id: str, judged: Mapping[int, Mapping[str, float]]) -> None:
    """Note what trials scored when they generated for real."""
    for row in _rows(session, job_id, judged):
        row.judged = _finite(judged[row.number])


def _rows(session: Session, job_id: str, numbers: Iterable[int]) -> Sequence[TrialRow]:
    return session.scalars(
        sa.select(TrialRow).where(TrialRow.job_id == job_id, TrialRow.number.in_(list(numbers)))
    ).all()


def _as_record(row: TrialRow) -> TrialRecord:
    return TrialRecord(
        number=row.number,
        origin=row.origin,
        coefficients=Coefficients(
            models=tuple(row.coefficients["models"]),
            groups=tuple(row.coefficients["groups"]),
            values=tuple(tuple(values) for values in row.coefficients["values"]),
        ),
        scores=row.scores,
        prompt_scores={
            axis: [math.nan if score is None else score for score in scores]
            for axis, scores in row.prompt_scores.items()
        },
        seconds=row.seconds,
        seed=row.seed,
        state=row.state,  # type: ignore[arg-type]
        worker=row.worker,
        created_at=row.created_at,
        note=row.note,
    )


def _as_view(row: TrialRow, *, full: bool) -> TrialView:
    names = [name for name in TrialView.model_fields if name != "coefficients"]
    return TrialView.model_validate(
        {**{name: getattr(row, name) for name in names}, "coefficients": _by_model(row.coefficients) if full else None}
    )


def _by_model(coefficients: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    groups = coefficients["groups"]
    return {
        model: dict(zip(groups, values, strict=True))
        for model, values in zip(coefficients["models"], coefficients["values"], strict=True)
    }


def _finite(scores: Mapping[str, float]) -> dict[str, float]:
    """JSON has no NaN and PostgreSQL refuses it: an axis without a number is left out."""
    return {axis: float(score) for axis, score in scores.items() if math.isfinite(score)}


def _number(score: float) -> float | None:
    return float(score) if math.isfinite(score) else None
