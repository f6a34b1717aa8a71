"""Everything the list of jobs shows, gathered in one read."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from service.dashboard import queries
from service.dashboard.candidates import BEHAVIOUR, mean_domain
from service.dashboard.jobpage import trouble
from service.dashboard.stepper import elapsed
from service.jobs import service as jobs
from service.jobs.schemas import MergeJob

PAGE = 25


@dataclass(frozen=True)
class ListRow:
    """One job of the list; `scores` of its winner by "refusal", "compliance" and "domains", where known."""

    job: MergeJob
    scores: dict[str, float]
    seconds: float | None
    trouble: str


def job_list(session: Session, after: str | None, now: datetime) -> dict[str, Any]:
    """Context of `jobs.html`: the jobs older than `after`, the newest first.

    Raises:
        InvalidError: `after` is not a job.
    """
    page = jobs.listed(session, after=after, limit=PAGE)
    scores = queries.winners(session, page.data)
    rows = [_row(job, scores.get(job.id, {}), now) for job in page.data]
    return {"rows": rows, "older": page.last_id if page.has_more else None, "newer": after is not None}


def _row(job: MergeJob, scores: dict[str, float], now: datetime) -> ListRow:
    shown = {axis: scores[axis] for axis in BEHAVIOUR if axis in scores}
    if (domains := mean_domain(scores)) is not None:
        shown["domains"] = domains
    failed = trouble(job.error)
    return ListRow(job, shown, elapsed(job, now), failed.message if failed else "")
