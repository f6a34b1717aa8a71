"""A job with a history, written through the real repositories: what the browser tests look at."""

import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from optimizer.merging.recipe import Coefficients
from optimizer.search.trials import TrialRecord
from service.database import Database
from service.events import repository as events
from service.jobs import repository as jobs
from service.jobs.schemas import MergeJobRequest, Progress, Stage
from service.jobs.tables import JobRow
from service.trials import repository as trials

MODELS = ("botany", "sailing", "chat")
AXES = ("refusal", "compliance", "botany", "sailing")
GROUPS = (
    "embedding",
    *(f"layers.{layer}.{part}" for layer in range(6) for part in ("attention", "mlp", "norm")),
    "norm",
    "head",
)
BEGUN = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)


def request(name: str = "field-assistant") -> MergeJobRequest:
    return MergeJobRequest.model_validate(
        {
            "name": name,
            "base": "/models/base",
            "models": {
                "botany": {"path": "/models/botany", "role": "domain", "topics": ["plants"]},
                "sailing": {"path": "/models/sailing", "role": "domain", "topics": ["boats"]},
                "chat": {"path": "/models/chat", "role": "aligned"},
            },
        }
    )


def after(seconds: float) -> datetime:
    return BEGUN + timedelta(seconds=seconds)


def progress(stage: Stage, done: int, total: int) -> dict[str, Any]:
    """Progress as a stage reports it, with a minute left."""
    line = Progress(stage=stage, done=done, total=total, unit="trials", eta_seconds=62)
    return line.model_dump(mode="json")


def add_job(database: Database, job_id: str = "job_sample", **values: Any) -> str:
    """A job row; `values` overwrite what a freshly submitted job has."""
    asked = request(values.pop("name", "field-assistant"))
    row = {"status": "queued", "digest": "0" * 64, "created_at": BEGUN, "request": asked.model_dump(mode="json")}
    with database.write() as session:
        jobs.add(session, JobRow(id=job_id, name=asked.name, **{**row, **values}))
    return job_id


def add_stage(
    database: Database, job_id: str, stage: Stage, seconds: float, result: dict[str, Any] | None = None
) -> None:
    with database.write() as session:
        jobs.start_stage(session, job_id, stage).result = result
        jobs.finish_stage(session, job_id, stage, seconds, BEGUN + timedelta(seconds=seconds))


def say(database: Database, job_id: str, kind: str, message: str, **data: object) -> None:
    with database.write() as session:
        events.add(session, job_id, kind, message, data)


def change(database: Database, job_id: str, **values: Any) -> None:
    with database.write() as session:
        assert jobs.change(session, job_id, **values)


def add_trial(
    database: Database,
    job_id: str,
    number: int,
    origin: str,
    scores: Mapping[str, float],
    values: Sequence[Sequence[float]] | None = None,
    state: str = "complete",
) -> None:
    rows = tuple(map(tuple, values or [[0.5] * len(GROUPS)] * len(MODELS)))
    record = TrialRecord(
        number=number,
        origin=origin,
        coefficients=Coefficients(MODELS, GROUPS, rows),
        scores=scores,
        prompt_scores={axis: [value] for axis, value in scores.items()},
        seconds=1.31,
        seed=number,
        state=state,  # type: ignore[arg-type]
        worker="bench",
        created_at=BEGUN + timedelta(seconds=number),
        note="writes gibberish" if state == "invalid" else "",
    )
    with database.write() as session:
        assert trials.record(session, job_id, record)


def add_trials(database: Database, job_id: str, count: int) -> None:
    """Parents, warm starts and `count` further trials whose scores trade refusal against the domains."""
    draw = random.Random(7)
    starts = [
        ("model:botany", (0.04, 0.97, 0.98, 0.35)),
        ("model:sailing", (0.03, 0.96, 0.31, 0.97)),
        ("model:chat", (0.98, 0.97, 0.42, 0.44)),
        ("uniform", (0.37, 0.95, 0.81, 0.79)),
        ("lm_cocktail", (0.52, 0.95, 0.76, 0.78)),
        ("gradient", (0.955, 0.96, 0.95, 0.94)),
    ]
    for number, (origin, scores) in enumerate(starts):
        add_trial(database, job_id, number, origin, dict(zip(AXES, scores, strict=True)), _curve(number, draw))
    for number in range(len(starts), len(starts) + count):
        x = draw.random()
        limit = 0.99 - 0.5 * x**6
        near = 1 - abs(draw.gauss(0, 0.12))
        scores = (x, 0.97 - 0.25 * x**8 * draw.random(), limit * near, limit * (near - 0.06 * draw.random()))
        state = "invalid" if number % 23 == 22 else "complete"
        add_trial(
            database,
            job_id,
            number,
            "tpe",
            dict(zip(AXES, map(_unit, scores), strict=True)),
            _curve(number, draw),
            state,
        )


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


def _curve(number: int, draw: random.Random) -> list[list[float]]:
    """λ that vary smoothly over depth, so that the grid has something to show."""
    return [
        [
            _unit(0.55 + 0.5 * math.sin(0.4 * index + 2 * model + number) + draw.gauss(0, 0.07))
            for index in range(len(GROUPS))
        ]
        for model in range(len(MODELS))
    ]
