"""Merge jobs over HTTP: submit, list, read, cancel, resume, and what a job leaves to read."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from sqlalchemy.exc import IntegrityError

from service.jobs import repository, service
from service.jobs.schemas import MergeJob, MergeJobRequest, Page, Stage
from service.kit.dependencies import AppDatabase, AppSettings, Limit
from service.kit.errors import NotFoundError

router = APIRouter(prefix="/v1/merge_jobs", tags=["merge jobs"])

#: a report is one page with its scripts inside; it may run them and reach nothing
REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "sandbox allow-scripts"
)

IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="the same key submits at most one job"),
]


@router.post("", status_code=201)
def submit(request: MergeJobRequest, response: Response, database: AppDatabase, key: IdempotencyKey = None) -> MergeJob:
    """Submit a job. It is checked first: fields, folders, and whether the models can be merged."""
    try:
        job = service.accept(database, request, key=key)
    except IntegrityError:  # the same key at the same moment: the other one was first
        job = service.accept(database, request, key=key)
    response.headers["Location"] = f"/v1/merge_jobs/{job.id}"
    return job


@router.get("")
def listed(database: AppDatabase, after: str | None = None, limit: Limit = 20) -> Page[MergeJob]:
    """Jobs from the newest on; `after` is the `last_id` of the page before."""
    with database.read() as session:
        return service.listed(session, after=after, limit=limit)


@router.get("/{job_id}")
def read(job_id: str, database: AppDatabase) -> MergeJob:
    with database.read() as session:
        return service.read(session, job_id)


@router.post("/{job_id}/cancel")
def cancel(job_id: str, database: AppDatabase) -> MergeJob:
    """Cancel a job; one that runs stops within seconds. What its finished stages made is kept."""
    with database.write() as session:
        return service.cancel(session, job_id)


@router.post("/{job_id}/resume")
def resume(job_id: str, database: AppDatabase, settings: AppSettings) -> MergeJob:
    """Queue a failed or cancelled job again; it goes on after its last finished stage."""
    with database.write() as session:
        return service.resume(session, job_id, silence_seconds=settings.silence_seconds)


@router.get("/{job_id}/report")
def report(job_id: str, request: Request, database: AppDatabase) -> Response:
    """Held-out results: JSON, or the page where `Accept` prefers HTML."""
    if "text/html" in request.headers.get("accept", ""):
        return report_page(job_id, database)
    with database.read() as session:
        service.found(session, job_id)
        stage = repository.stage(session, job_id, Stage.REPORT)
        result: dict[str, Any] | None = stage.result if stage else None
    if result is None:
        raise _no_report(job_id)
    return JSONResponse(result, headers={"Vary": "Accept"})


@router.get("/{job_id}/report.html", response_class=HTMLResponse)
def report_page(job_id: str, database: AppDatabase) -> HTMLResponse:
    """Held-out results as one self-contained page."""
    with database.read() as session:
        service.found(session, job_id)
        page = repository.document(session, job_id, "report.html")
    if page is None:
        raise _no_report(job_id)
    return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY, "Vary": "Accept"})


def _no_report(job_id: str) -> NotFoundError:
    return NotFoundError(f"job {job_id} has no report yet", mend="it is written after the stage `select`")
