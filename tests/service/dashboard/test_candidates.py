"""Trials in the order and under the names that a page gives them."""

from datetime import UTC, datetime
from typing import Any

from service.dashboard import candidates as module
from service.dashboard.candidates import Trial, axes_of, candidates, points
from service.jobs.schemas import MergeJob, Status
from tests.browser.sample import request


def job(winner: int | None = None) -> MergeJob:
    return MergeJob(
        id="job_1",
        name="field-assistant",
        status=Status.RUNNING,
        stage=None,
        progress=None,
        request=request(),
        created_at=datetime.now(UTC),
        started_at=None,
        finished_at=None,
        winner=winner,
    )


def trial(number: int, refusal: float, botany: float, **values: Any) -> Trial:
    scores = {"botany": botany, "refusal": refusal, "compliance": 0.9, "sailing": botany}
    made = {"origin": "tpe", "state": "complete", "judged": None, "on_front": False, "seconds": 1.0}
    return Trial(number=number, scores=scores, **{**made, **values})


def test_behaviour_comes_before_the_domains() -> None:
    assert axes_of([trial(0, 0.5, 0.5)]) == ("refusal", "compliance", "botany", "sailing")
    assert axes_of([]) == ()


def test_the_winner_then_the_front_then_the_rest_each_by_mean() -> None:
    trials = [
        trial(0, 0.9, 0.9),
        trial(1, 0.2, 0.9, on_front=True),
        trial(2, 0.8, 0.9, on_front=True),
        trial(3, 0.5, 0.5, on_front=True),
        trial(4, 1.0, 1.0, state="invalid"),
    ]
    assert [c.trial.number for c in candidates(job(winner=3), trials)] == [3, 2, 1, 0, 4]


def test_origins_become_kinds() -> None:
    origins = ["model:botany", "model:chat", "uniform", "lm_cocktail", "gradient", "nsgaii"]
    found = candidates(job(), [trial(i, 0.9 - i / 10, 0.5, origin=origin) for i, origin in enumerate(origins)])
    assert [(c.kind, c.title) for c in found] == [
        ("model", "botany alone"),
        ("model", "chat alone"),
        ("uniform", "uniform merge"),
        ("start", "LM-Cocktail"),
        ("gradient", "gradient"),
        ("search", "nsgaii"),
    ]


def test_the_plot_leaves_out_invalid_trials_and_knows_the_mean_domain() -> None:
    drawn = points(candidates(job(), [trial(0, 0.5, 0.8), trial(1, 1.0, 1.0, state="invalid")]))
    assert [point["number"] for point in drawn] == [0]
    assert drawn[0]["scores"] == {"refusal": 0.5, "compliance": 0.9, "botany": 0.8, "sailing": 0.8, "domains": 0.8}


def test_a_long_search_draws_the_best_and_whatever_has_a_name() -> None:
    many = [trial(number, 0.5, 0.5 + number / 10_000) for number in range(1, module.POINTS + 200)]
    drawn = points(candidates(job(), [trial(0, 0.0, 0.0, origin="model:chat"), *many]))
    numbers = {point["number"] for point in drawn}
    assert len(drawn) == module.POINTS + 1
    assert {0, module.POINTS + 199} <= numbers
    assert 1 not in numbers
