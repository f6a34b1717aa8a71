"""What can be done with jobs.

Functions take a session and never commit: the caller's transaction is the unit of work. Only `accept` opens its own.
"""

import hashlib
import json
import secrets
import time
from datetime import timedelta

from sqlalchemy.orm import Session

from service.database import Database, now
from service.events import repository as events
from service.jobs import repository, validation
from service.jobs.schemas import MergeJob, MergeJobRequest, Page, Status
from service.jobs.tables import JobRow, WorkerRow
from service.kit.errors import ConflictError, InvalidError, NotFoundError

#: the lane of jobs that any worker may take; a `temper run` has a lane of its own
SHARED = "shared"


def digest(request: MergeJobRequest) -> str:
    """SHA-256 of what is asked for, whatever the order of fields and whichever defaults are written out."""
    text = json.dumps(request.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    # the order of the models is part of the request: it is the order of the coefficients
    return hashlib.sha256((text + "|" + "|".join(request.models)).encode()).hexdigest()


def accept(database: Database, request: MergeJobRequest, *, key: str | None = None, lane: str = SHARED) -> MergeJob:
    """Check a job and store it; the check reads files, and no transaction waits for that.

    Args:
        key: of idempotency; the same key with the same request gives the first answer again.

    Raises:
        InvalidError: the job cannot succeed, or the key came with another request before.
    """
    with database.read() as session:
        first = replay(session, request, key)
    if first is not None:
        return first
    validation.check(request)
    with database.write() as session:
        return replay(session, request, key) or submit(session, request, key=key, lane=lane)


def replay(session: Session, request: MergeJobRequest, key: str | None) -> MergeJob | None:
    """The first answer to an idempotency key, if there was one.

    Raises:
        InvalidError: the key came with another request.
    """
    first = repository.first_answer(session, key) if key is not None else None
    if first is None:
        return None
    if first.digest != digest(request):
        raise InvalidError(
            f"Idempotency-Key {key!r} was sent with another body before", mend="send a new key with a new request"
        )
    return MergeJob.model_validate(first.answer)


def submit(session: Session, request: MergeJobRequest, *, key: str | None = None, lane: str = SHARED) -> MergeJob:
    """Store a job that has been checked; workers see it as soon as the transaction is committed."""
    asked = digest(request)
    row = JobRow(
        id=f"job_{time.time_ns() // 1_000_000:011x}{secrets.token_hex(5)}",
        name=request.name,
        status=Status.QUEUED.value,
        request=request.model_dump(mode="json"),
        digest=asked,
        lane=lane if lane == SHARED else f"{lane}-{secrets.token_hex(6)}",
        created_at=now(),
        attempt=1,
    )
    repository.add(session, row)
    events.add(session, row.id, "status", "queued", {"status": Status.QUEUED})
    job = repository.view(session, row)
    if key is not None:
        repository.keep_answer(session, key, asked, job.model_dump(mode="json"))
    return job


def found(session: Session, job_id: str) -> JobRow:
    """Raises: NotFoundError."""
    row = repository.get(session, job_id)
    if row is None:
        raise NotFoundError(f"there is no merge job {job_id!r}", mend="GET /v1/merge_jobs lists them")
    return row


def read(session: Session, job_id: str) -> MergeJob:
    """Raises: NotFoundError."""
    return repository.view(session, found(session, job_id))


def listed(session: Session, *, after: str | None, limit: int) -> Page[MergeJob]:
    """Jobs from the newest on.

    Raises:
        InvalidError: `after` is not a job.
    """
    if after is not None and repository.get(session, after) is None:
        raise InvalidError(f"after={after!r} is not a merge job", mend="give the `last_id` of the page before")
    rows = repository.newest(session, after=after, limit=limit + 1)
    data = repository.views(session, rows[:limit])
    return Page[MergeJob](data=data, has_more=len(rows) > limit, last_id=data[-1].id if data else None)


def cancel(session: Session, job_id: str) -> MergeJob:
    """Cancel a job; one that runs notices within seconds. Cancelling twice changes nothing.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has ended otherwise.
    """
    cancelled = repository.change(
        session,
        job_id,
        JobRow.status.in_(repository.ACTIVE),
        status=Status.CANCELLED.value,
        finished_at=now(),
    )
    if cancelled:
        events.add(session, job_id, "status", "cancelled", {"status": Status.CANCELLED})
    session.expire_all()
    row = found(session, job_id)
    if row.status != Status.CANCELLED:
        raise ConflictError(f"job {job_id} has {row.status} already and cannot be cancelled")
    return repository.view(session, row)


def resume(session: Session, job_id: str, *, silence_seconds: float, lane: str = SHARED) -> MergeJob:
    """Queue a failed or cancelled job again; stages that finished stay finished.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it neither failed nor was cancelled, or its worker is still stopping.
    """
    row = found(session, job_id)
    if row.status not in (Status.FAILED, Status.CANCELLED):
        raise ConflictError(f"job {job_id} is {row.status}; only a failed or cancelled job can be resumed")
    if row.owner is not None:
        worker = session.get(WorkerRow, row.owner)
        if worker is not None and now() - worker.seen_at < timedelta(seconds=silence_seconds):
            raise ConflictError(f"worker {row.owner} is still stopping job {job_id}", mend="try again in a few seconds")
    resumed = repository.change(
        session,
        job_id,
        JobRow.attempt == row.attempt,
        status=Status.QUEUED.value,
        attempt=row.attempt + 1,
        owner=None,
        lane=lane,
        finished_at=None,
        error=None,
    )
    if not resumed:
        raise ConflictError(f"job {job_id} was resumed by someone else just now")
    repository.forgive(session, job_id)
    events.add(session, job_id, "status", "queued again", {"status": Status.QUEUED, "attempt": row.attempt + 1})
    session.expire_all()
    return read(session, job_id)
