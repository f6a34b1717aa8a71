"""The pages people look at: the list of jobs and the page of one. HTML is written here alone, by the server."""

import contextlib
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from service.artifacts.store import Store
from service.dashboard import queries
from service.dashboard.candidates import candidates, points
from service.dashboard.downloads import Address, downloads
from service.dashboard.joblist import job_list
from service.dashboard.jobpage import Asked, job_page, points_revision
from service.dashboard.rendering import FreshFiles, PageRoute, render
from service.jobs import service as jobs
from service.kit.dependencies import AppDatabase, AppSettings
from service.kit.errors import ConflictError

router = APIRouter(include_in_schema=False, route_class=PageRoute)

Number = Annotated[int | None, Query(ge=0, lt=2**31)]


def install(app: FastAPI) -> None:
    """Add the pages and their static files to `app`, whose `state` has `database` and `settings`."""
    app.include_router(router)
    app.mount("/static", FreshFiles(), name="static")


@router.get("/")
def list_page(request: Request, database: AppDatabase, after: str | None = None) -> HTMLResponse:
    """All jobs, the newest first."""
    with database.read() as session:
        context = job_list(session, after, datetime.now(UTC))
    return render("jobs.html", **context, here=_here(request))


@router.get("/jobs/{job_id}")
def one_page(
    request: Request,
    job_id: str,
    database: AppDatabase,
    settings: AppSettings,
    page: Annotated[int, Query(ge=1, lt=2**31)] = 1,
    trial: Number = None,
) -> HTMLResponse:
    """One job; `page` of its trials' table, and the `trial` whose coefficients to show (the winner's otherwise)."""
    with database.read() as session:
        row = jobs.found(session, job_id)
        context = job_page(session, row, Asked(page, trial), datetime.now(UTC))
    artifact = downloads(
        context["job"], Store(settings.artifacts), Address(_here(request), settings.api_key is not None)
    )
    return render("job.html", **context, artifact=artifact)


@router.get("/jobs/{job_id}/points")
def plot_points(job_id: str, database: AppDatabase) -> JSONResponse:
    """What the plot of a job's page draws."""
    with database.read() as session:
        job = jobs.read(session, job_id)
        revision = points_revision(session, job)
        ranked = candidates(job, queries.trials(session, job_id))
    return JSONResponse({"revision": revision, "points": points(ranked)}, headers={"Cache-Control": "no-store"})


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: str, database: AppDatabase) -> RedirectResponse:
    """The cancel button. A job that ended in the meantime stays as it is, and the page shows how."""
    with contextlib.suppress(ConflictError), database.write() as session:
        jobs.cancel(session, job_id)
    return _back(job_id)


@router.post("/jobs/{job_id}/resume")
def resume(job_id: str, database: AppDatabase, settings: AppSettings) -> RedirectResponse:
    """The resume button of a failed or cancelled job."""
    with database.write() as session:
        jobs.resume(session, job_id, silence_seconds=settings.silence_seconds)
    return _back(job_id)


def _back(job_id: str) -> RedirectResponse:
    return RedirectResponse(f"/jobs/{quote(job_id, safe='')}", 303)


def _here(request: Request) -> str:
    return str(request.base_url).rstrip("/")
