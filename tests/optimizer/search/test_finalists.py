"""Finalists are good, different, and led by the rule's own choice."""

from datetime import UTC, datetime

import pytest

from optimizer.errors import SearchError
from optimizer.merging.recipe import Coefficients
from optimizer.search.finalists import finalists
from optimizer.search.settings import Constraint, SelectSettings
from optimizer.search.trials import TrialRecord, TrialState

RULE = SelectSettings(maximize="bio", subject_to={"refusal": Constraint(at_least=0.9)})


def _trial(number: int, refusal: float, compliance: float, bio: float, state: TrialState = "complete") -> TrialRecord:
    return TrialRecord(
        number=number,
        origin="tpe",
        coefficients=Coefficients(("chat",), ("head",), ((float(number),),)),
        scores={"refusal": refusal, "compliance": compliance, "bio": bio},
        prompt_scores={},
        seconds=1.0,
        seed=0,
        state=state,
        worker="local",
        created_at=datetime.now(UTC),
    )


WALL = _trial(0, 1.0, 0.0, 0.0)
EXPERT = _trial(1, 0.0, 1.0, 1.0)
RULED = _trial(2, 0.92, 0.5, 0.55)
BALANCED = _trial(3, 0.8, 0.8, 0.8)
TWIN = _trial(4, 0.8, 0.8, 0.8)
DOMAIN = _trial(5, 0.6, 0.9, 0.95)
DOMINATED = _trial(6, 0.3, 0.3, 0.3)
BROKEN = _trial(7, 1.0, 1.0, 1.0, "invalid")
ALL = [WALL, EXPERT, RULED, BALANCED, TWIN, DOMAIN, DOMINATED, BROKEN]


def test_the_rules_choice_then_the_balanced_one_then_variety() -> None:
    assert [trial.number for trial in finalists(ALL, 3, RULE, {})] == [2, 3, 5]


def test_one_finalist_is_the_rules_choice() -> None:
    assert finalists(ALL, 1, RULE, {}) == [RULED]


def test_neither_twins_nor_gibberish() -> None:
    numbers = [trial.number for trial in finalists(ALL, 64, RULE, {})]
    assert sorted(numbers) == [0, 1, 2, 3, 5, 6]


def test_one_sided_candidates_come_last() -> None:
    numbers = [trial.number for trial in finalists(ALL, 64, RULE, {})]
    assert set(numbers[-3:]) == {0, 1, 6}


def test_the_order_of_records_does_not_matter() -> None:
    assert finalists(ALL[::-1], 4, RULE, {}) == finalists(ALL, 4, RULE, {})


def test_a_search_with_nothing_to_show_is_an_error() -> None:
    with pytest.raises(SearchError, match="no candidate"):
        finalists([BROKEN], 4, RULE, {})
