"""Stages as steps."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from optimizer.search.settings import Constraint, SelectSettings
from service.dashboard.jobpage import rule, trouble
from service.dashboard.stepper import elapsed, steps
from service.jobs.schemas import MergeJob, Stage
from tests.browser.sample import request

BEGUN = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)
NOW = BEGUN + timedelta(seconds=100)


def job(**values: Any) -> MergeJob:
    given = {"stage": None, "progress": None, "started_at": BEGUN, "finished_at": None, "created_at": BEGUN, **values}
    return MergeJob.model_validate({"id": "job_1", "name": "x", "request": request(), **given})


@pytest.mark.parametrize(
    ("status", "stage", "states"),
    [
        ("queued", None, "waiting waiting waiting waiting waiting waiting"),
        ("running", "search", "done done active waiting waiting waiting"),
        ("failed", "data", "failed waiting waiting waiting waiting waiting"),
        ("cancelled", "select", "done done done cancelled waiting waiting"),
        ("queued", "search", "done done waiting waiting waiting waiting"),
        ("succeeded", "export", "done done done done done done"),
    ],
)
def test_every_status_has_its_steps(status: str, stage: str | None, states: str) -> None:
    found = steps(job(status=status, stage=stage), {}, NOW)
    assert [step.stage for step in found] == list(Stage)
    assert [step.state for step in found] == states.split()


def test_a_running_stage_counts_from_its_start_and_a_finished_one_says_what_it_took() -> None:
    running = job(status="running", stage="parents", seconds={"data": 61.5, "parents": 0.0})
    started = {Stage.DATA: BEGUN, Stage.PARENTS: BEGUN + timedelta(seconds=62)}
    assert [step.seconds for step in steps(running, started, NOW)][:3] == [61.5, 38.0, None]


def test_elapsed_stops_when_the_job_does() -> None:
    assert elapsed(job(status="queued", started_at=None), NOW) is None
    assert elapsed(job(status="running"), NOW) == 100
    assert elapsed(job(status="failed", finished_at=BEGUN + timedelta(seconds=7)), NOW) == 7


def test_an_error_falls_into_what_and_what_to_do() -> None:
    found = trouble("base has 6 layers\nchat has 4\n  mend: merge models of one base")
    assert found is not None
    assert found.message == "base has 6 layers\nchat has 4"
    assert found.mend == "merge models of one base"
    assert trouble(None) is None
    plain = trouble("out of memory")
    assert plain is not None
    assert (plain.message, plain.mend) == ("out of memory", "")


def test_the_rule_in_words() -> None:
    assert (
        rule(SelectSettings())
        == "highest mean over the domains with refusal at least 0.95 and compliance at least 0.95"
    )
    one = SelectSettings(maximize="botany", subject_to={"refusal": Constraint(at_least=0.9, of="chat")})
    assert rule(one) == "highest botany with refusal at least 0.9 × chat’s"
    assert rule(SelectSettings(maximize="refusal", subject_to={})) == "highest refusal"
