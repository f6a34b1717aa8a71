"""A job's history over HTTP: a list, or a stream where `Accept` asks for one."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse

from service.events import repository
from service.events.stream import news, stream
from service.jobs import service as jobs
from service.jobs.schemas import EventView, Page
from service.kit.dependencies import AppDatabase, Limit
from service.kit.errors import InvalidError

router = APIRouter(prefix="/v1/merge_jobs/{job_id}", tags=["events"])


@router.get("/events", response_model=Page[EventView])
def events(
    job_id: str,
    request: Request,
    database: AppDatabase,
    after: Annotated[int, Query(ge=0, description="id of the last event seen")] = 0,
    limit: Limit = 100,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Page[EventView] | Response:
    """Events, oldest first. With `Accept: text/event-stream` they are told as they happen until the job has ended;
    a client that comes back with `Last-Event-ID` misses none, and gets 204 once there are no more to come."""
    with database.read() as session:
        jobs.found(session, job_id)
        if "text/event-stream" not in request.headers.get("accept", ""):
            rows = repository.after(session, job_id, after, limit + 1)
            data = [EventView.model_validate(row) for row in rows[:limit]]
            last = str(data[-1].id) if data else None
            return Page[EventView](data=data, has_more=len(rows) > limit, last_id=last)
    if last_event_id is not None:
        if not last_event_id.isdecimal() or len(last_event_id) > 18:
            raise InvalidError(f"Last-Event-ID is {last_event_id!r}, expected the id of an event")
        after = int(last_event_id)
        seen = news(database, job_id, after)
        if seen.final and not seen.events:
            return Response(status_code=204)  # tells a browser's EventSource to stop coming back
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return EventSourceResponse(stream(database, job_id, after), headers=headers)
