"""A report is a value: built from evidence, sent as JSON, read back the same."""

import json
from dataclasses import replace

import pytest

from optimizer.errors import SearchError
from optimizer.reporting.report import Report, build_report
from tests.optimizer.reporting.evidence import evidence, judged


def test_json_and_back() -> None:
    report = build_report(evidence())
    assert Report.model_validate_json(report.model_dump_json()) == report
    merged = json.loads(report.model_dump_json())["models"][-1]
    assert merged["refusal"] == {
        "n": 40, "successes": 38, "value": 0.95, "low": pytest.approx(0.8350, abs=1e-4),
        "high": pytest.approx(0.9862, abs=1e-4),
    }  # fmt: skip


def test_every_model_has_every_axis_and_category() -> None:
    report = build_report(evidence())
    assert report.axes == ("refusal", "compliance", "bio")
    assert [model.role for model in report.models] == ["base", "parent", "parent", "uniform", "winner"]
    for model in report.models:
        assert tuple(model.shares) == report.axes
        assert sum(scores.refusal.n for scores in model.categories.values()) == model.refusal.n
        refused = sum(scores.over_refusal.successes for scores in model.categories.values())
        assert refused == model.over_refusal.successes == model.compliance.n - model.compliance.successes


def test_gap_compares_the_split_that_chose_with_the_one_that_counts() -> None:
    gaps = {gap.axis: gap for gap in build_report(evidence()).gaps}
    assert gaps["refusal"].selection == 0.975
    assert gaps["refusal"].report == 0.95
    assert gaps["refusal"].optimism == pytest.approx(0.025)
    assert gaps["refusal"].search == evidence().trials[7].scores["refusal"]


def test_front_leaves_invalid_trials_out() -> None:
    candidates = build_report(evidence()).candidates
    assert candidates[11].state == "invalid"
    assert not candidates[11].on_front
    assert any(candidate.on_front for candidate in candidates)


def test_coefficients_of_the_winner() -> None:
    winner = build_report(evidence()).winner
    assert winner.models == ("bio", "chat")
    assert winner.values == evidence().trials[7].coefficients.values


def test_two_judges_do_not_share_a_table() -> None:
    found = evidence()
    other = replace(found.models[0], judged=judged(0.5, 0.5, {"bio": 0.5}, judge="rules/1"))
    with pytest.raises(SearchError, match=r"guard/1, rules/1"):
        build_report(replace(found, models=[other, *found.models[1:]]))


def test_a_winner_without_a_record_is_refused() -> None:
    with pytest.raises(SearchError, match="trial 99 not among"):
        build_report(replace(evidence(), winner=99))
