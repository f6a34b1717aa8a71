"""Everything the page of one job shows, gathered in one read."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml
from sqlalchemy.orm import Session

from optimizer.search.settings import SelectSettings
from service.dashboard import queries
from service.dashboard.candidates import Candidate, axes_of, candidates
from service.dashboard.formatting import words
from service.dashboard.heatmap import HeatMap, heat_map
from service.dashboard.scoreboard import Scoreboard, scoreboard
from service.dashboard.stepper import elapsed, steps
from service.jobs import repository as jobs
from service.jobs.schemas import MergeJob, Stage
from service.jobs.tables import JobRow
from service.trials import repository as trials

PAGE = 20
EVENTS = 300
WARNINGS = 20


@dataclass(frozen=True)
class Trouble:
    """Why a job failed and what to do about it."""

    message: str
    mend: str


@dataclass(frozen=True)
class Asked:
    """What the address of the page asks for: a page of the trials' table, a trial whose coefficients to show."""

    page: int = 1
    trial: int | None = None


def job_page(session: Session, row: JobRow, asked: Asked, now: datetime) -> dict[str, Any]:
    """Context of `job.html` for `row`, as of `now`."""
    job = jobs.view(session, row)
    started = {stage: entry.started_at for stage, entry in jobs.stages(session, job.id).items()}
    last_event = queries.last_event(session, job.id)
    ranked = candidates(job, queries.trials(session, job.id))
    events = queries.history(session, job.id, EVENTS)
    return {
        "job": job,
        "seconds": elapsed(job, now),
        "steps": steps(job, started, now),
        "last_event": last_event,
        "trouble": trouble(job.error),
        "warnings": queries.warnings(session, job.id, WARNINGS),
        "events": events,
        "rule": rule(job.request.select),
        "request_yaml": request_yaml(job),
        "revision": points_revision(session, job),
        "board": _board(session, job),
        **_table(ranked, asked),
        **_coefficients(session, job, ranked, asked),
    }


def points_revision(session: Session, job: MergeJob) -> str:
    """Changes whenever the plot would."""
    revision = queries.trials_revision(session, job.id)
    return revision if revision == "0" or job.winner is None else f"{revision}-w{job.winner}"


def trouble(error: str | None) -> Trouble | None:
    """The two halves of a TemperError's text, which writes the mend on a line of its own."""
    if not error:
        return None
    message, _, mend = error.partition("\n  mend: ")
    return Trouble(message.strip(), mend.strip())


def rule(select: SelectSettings) -> str:
    """The rule that picks the winner, in words."""
    aim = "mean over the domains" if select.maximize == "domains" else words(select.maximize)
    floors = [
        f"{'domains' if axis == 'domains' else words(axis)} at least {floor.at_least:g}"
        + (f" × {floor.of}’s" if floor.of else "")
        for axis, floor in select.subject_to.items()
    ]
    return f"highest {aim}" + (f" with {' and '.join(floors)}" if floors else "")


def request_yaml(job: MergeJob) -> str:
    """The job as a file that `temper submit` takes."""
    return yaml.safe_dump(job.request.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def _table(ranked: list[Candidate], asked: Asked) -> dict[str, Any]:
    pages = max(1, -(-len(ranked) // PAGE))
    page = min(max(1, asked.page), pages)
    return {
        "total": len(ranked),
        "on_front": sum(c.trial.on_front for c in ranked),
        "invalid": sum(c.trial.state != "complete" for c in ranked),
        "axes": axes_of([c.trial for c in ranked]),
        "trials": ranked[(page - 1) * PAGE : page * PAGE],
        "page": page,
        "pages": pages,
    }


def _coefficients(session: Session, job: MergeJob, ranked: list[Candidate], asked: Asked) -> dict[str, Any]:
    """The heat map of the trial asked for, else of the winner, else of the best so far."""
    number = asked.trial
    if number is None and ranked:
        number = ranked[0].trial.number
    trial = None if number is None else trials.one(session, job.id, number)
    shown: HeatMap | None = heat_map(trial.coefficients) if trial and trial.coefficients else None
    return {"heat": shown, "shown": number, "chosen": asked.trial is not None}


def _board(session: Session, job: MergeJob) -> Scoreboard | None:
    stage = jobs.stage(session, job.id, Stage.REPORT)
    result: Mapping[str, Any] | None = stage.result if stage else None
    return scoreboard(job.request, result) if result else None
