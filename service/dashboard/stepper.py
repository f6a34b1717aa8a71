"""A job's stages as the steps a reader follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from service.dashboard.formatting import aware
from service.jobs.schemas import MergeJob, Stage, Status

_ABOUT = {
    Stage.DATA: ("Data", "questions and answers, written by the models themselves"),
    Stage.PARENTS: ("Parents", "every model and the uniform merge, scored"),
    Stage.SEARCH: ("Search", "coefficients tried against the data"),
    Stage.SELECT: ("Select", "finalists answer for real and are judged"),
    Stage.REPORT: ("Report", "parents and winner on questions nobody has seen"),
    Stage.EXPORT: ("Export", "the winning checkpoint, written and published"),
}

State = Literal["done", "active", "waiting", "failed", "cancelled"]


@dataclass(frozen=True)
class Step:
    """One stage. `seconds` is the time it took, or has taken so far up to `now` of the page."""

    stage: Stage
    title: str
    about: str
    state: State
    seconds: float | None

    @property
    def spoken(self) -> str:
        """The state for someone who does not see the mark."""
        return {"done": "done", "active": "running", "waiting": "not started"}.get(self.state, self.state)


def steps(job: MergeJob, started: Mapping[Stage, datetime], now: datetime) -> list[Step]:
    """The six stages of `job`, in order, as of `now`; `started` says when each stage began that has begun."""
    return [_step(job, stage, started.get(stage), now) for stage in Stage]


def elapsed(job: MergeJob, now: datetime) -> float | None:
    """Seconds since the job started, up to its end; None before it starts."""
    if job.started_at is None:
        return None
    end = job.finished_at or now
    return max(0.0, (aware(end) - aware(job.started_at)).total_seconds())


def _step(job: MergeJob, stage: Stage, started: datetime | None, now: datetime) -> Step:
    state = _state(job, stage)
    seconds = job.seconds.get(stage) or None
    if state == "active" and started is not None:
        seconds = max(0.0, (aware(now) - aware(started)).total_seconds())
    title, about = _ABOUT[stage]
    return Step(stage, title, about, state, seconds)


def _state(job: MergeJob, stage: Stage) -> State:
    if job.status is Status.SUCCEEDED:
        return "done"
    order = list(Stage)
    if job.stage is None or order.index(stage) > order.index(job.stage):
        return "waiting"
    if stage is not job.stage:
        return "done"
    match job.status:
        case Status.FAILED:
            return "failed"
        case Status.CANCELLED:
            return "cancelled"
        case Status.QUEUED:
            return "waiting"
        case _:
            return "active"
