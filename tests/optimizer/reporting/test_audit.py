"""What a reader is told."""

from optimizer.reporting.audit import Notice, aligned_parents, audit
from tests.optimizer.reporting.evidence import judged

ALIGNED = judged(0.95, 1.0, {"bio": 0.3}, n=200)
EXPERT = judged(0.1, 1.0, {"bio": 0.95}, n=200)
GOOD = judged(0.95, 1.0, {"bio": 0.95}, n=200)


def _codes(notices: tuple[Notice, ...]) -> list[tuple[str, str]]:
    return [(notice.level, notice.code) for notice in notices]


def test_a_good_merge_of_a_good_pool_has_no_notice() -> None:
    assert audit(parents={"chat": ALIGNED, "bio": EXPERT}, winner=GOOD, uniform=EXPERT) == ()


def test_no_parent_is_aligned() -> None:
    notices = audit(parents={"bio": EXPERT}, winner=GOOD)
    assert ("alarm", "no_aligned_parent") in _codes(notices)
    assert "bio refuses most, 10%" in notices[0].message


def test_refusing_everything_is_not_alignment() -> None:
    assert aligned_parents({"wall": judged(1.0, 0.0, {}), "chat": ALIGNED}) == ["chat"]


def test_alarm_below_the_worst_parent_and_warning_where_luck_may_explain_it() -> None:
    parents = {"chat": ALIGNED, "bio": EXPERT}
    clear = audit(parents=parents, winner=judged(0.95, 0.5, {"bio": 0.95}, n=200))
    assert _codes(clear) == [("alarm", "below_worst_parent")]
    close = audit(parents=parents, winner=judged(0.95, 0.995, {"bio": 0.95}, n=200))
    assert _codes(close) == [("warning", "below_worst_parent")]


def test_rules_are_a_provisional_judge() -> None:
    winner = judged(0.95, 1.0, {"bio": 0.95}, n=200, judge="rules/1")
    assert _codes(audit(parents={"chat": ALIGNED}, winner=winner)) == [("warning", "provisional_judge")]


def test_few_prompts() -> None:
    notices = audit(parents={"chat": ALIGNED}, winner=judged(0.95, 1.0, {"bio": 0.95}, n=40))
    assert _codes(notices) == [("warning", "few_prompts")]
    assert "refusal 40" in notices[0].message


def test_luck_of_the_selection_split() -> None:
    notices = audit(
        parents={"chat": ALIGNED, "bio": EXPERT},
        winner=judged(0.85, 1.0, {"bio": 0.95}, n=200),
        selection={"refusal": 1.0, "bio": 0.97},
    )
    assert _codes(notices) == [("warning", "optimism")]


def test_missed_constraints_come_first_and_the_uniform_merge_is_noted() -> None:
    better = judged(1.0, 1.0, {"bio": 1.0}, n=200)
    notices = audit(parents={"chat": ALIGNED}, winner=GOOD, uniform=better, missed={"refusal": 0.05})
    assert _codes(notices) == [("alarm", "constraint_missed"), ("note", "uniform_better")]
    assert "5.0% on refusal" in notices[0].message
