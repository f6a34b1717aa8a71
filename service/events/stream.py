"""A job's events as they happen: server-sent events that can be taken up again where they broke off."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from service.database import Database, now
from service.events import repository
from service.jobs import repository as jobs
from service.jobs.schemas import EventView, Progress, Status

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 10.0
BATCH = 500


@dataclass(frozen=True)
class _News:
    """What a job has to say since an event: kept events, its progress, whether it has ended."""

    events: list[EventView]
    progress: Progress | None
    final: bool


def news(database: Database, job_id: str, after: int) -> _News:
    """Read the status before the events: an event told together with the last status is then never missed."""
    with database.read() as session:
        row = jobs.get(session, job_id)
        final = row is None or Status(row.status).final
        rows = repository.after(session, job_id, after, BATCH)
        progress = Progress.model_validate(row.progress) if row and row.progress and not final else None
        return _News([EventView.model_validate(event) for event in rows], progress, final and len(rows) < BATCH)


async def stream(database: Database, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Kept events with their ids, progress without (it is not history), comments while nothing happens, until the job
    has ended."""
    yield format_sse_event(retry=2000)
    told: Progress | None = None
    spoke = time.monotonic()
    while True:
        latest = await run_in_threadpool(news, database, job_id, after)
        lines = [
            format_sse_event(data_str=event.model_dump_json(), event=event.type, id=str(event.id))
            for event in latest.events
        ]
        after = latest.events[-1].id if latest.events else after
        if latest.progress is not None and latest.progress != told:
            told = latest.progress
            lines.append(format_sse_event(data_str=_progress(told, after).model_dump_json(), event="progress"))
        if not lines and time.monotonic() - spoke >= HEARTBEAT_SECONDS:
            lines.append(KEEPALIVE_COMMENT)
        if lines:
            spoke = time.monotonic()
            yield b"".join(lines)
        if latest.final:
            return
        await asyncio.sleep(POLL_SECONDS)


def _progress(progress: Progress, after: int) -> EventView:
    return EventView(
        id=after, created_at=now(), type="progress", message=progress.note, data=progress.model_dump(mode="json")
    )
