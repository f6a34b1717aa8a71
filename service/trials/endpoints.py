"""Trials over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from service.jobs import service as jobs
from service.jobs.schemas import Page, TrialView
from service.kit.dependencies import AppDatabase, Limit
from service.trials import repository

router = APIRouter(prefix="/v1/merge_jobs/{job_id}", tags=["trials"])

Full = Annotated[bool, Query(description="with every trial's coefficients")]


class Front(BaseModel):
    """The trials that no other trial beats on every axis, by number, and the one that was chosen."""

    object: str = "front"
    axes: list[str]
    winner: int | None
    data: list[TrialView]


@router.get("/trials")
def listed(
    job_id: str, database: AppDatabase, after: int = -1, limit: Limit = 100, coefficients: Full = False
) -> Page[TrialView]:
    """Trials by number; `after` is the number of the last one seen."""
    with database.read() as session:
        jobs.found(session, job_id)
        rows = repository.listed(session, job_id, after=after, limit=limit + 1, full=coefficients)
    data = rows[:limit]
    return Page[TrialView](data=data, has_more=len(rows) > limit, last_id=str(data[-1].number) if data else None)


@router.get("/front")
def front(job_id: str, database: AppDatabase, coefficients: Full = False) -> Front:
    """The Pareto front of the trials scored so far, on the search split."""
    with database.read() as session:
        job = jobs.found(session, job_id)
        data = repository.listed(session, job_id, front=True, full=coefficients)
        winner = job.winner
    axes = sorted({axis for trial in data for axis in trial.scores}, key=_order)
    return Front(axes=axes, winner=winner, data=data)


def _order(axis: str) -> tuple[int, str]:
    """Refusal, compliance, then the domains by name."""
    first = ("refusal", "compliance")
    return (first.index(axis) if axis in first else len(first), axis)
