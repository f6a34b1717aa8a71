"""Laws of fronts, volumes and the rule that chooses."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import SearchError
from optimizer.search.front import choose, dominates, fronts, hypervolume, knee, pareto_front, scalarise
from optimizer.search.settings import Constraint, SelectSettings

COUNTS = st.integers(0, 6)


def clouds(low: int = 1, high: int = 4) -> st.SearchStrategy[list[tuple[int, ...]]]:
    """Up to 8 points on a small grid, so that ties are common."""
    return st.integers(low, high).flatmap(
        lambda axes: st.lists(st.tuples(*[COUNTS] * axes), min_size=1, max_size=8).map(list)
    )


@given(clouds())
def test_no_point_of_the_front_is_dominated_and_every_other_point_is(points: list[tuple[int, ...]]) -> None:
    front = set(pareto_front(points))
    for i, point in enumerate(points):
        assert (i in front) == (not any(dominates(other, point) for other in points))


@given(clouds().flatmap(lambda points: st.tuples(st.just(points), st.permutations(points))))
def test_the_order_of_points_changes_nothing(both: tuple[list[tuple[int, ...]], list[tuple[int, ...]]]) -> None:
    points, shuffled = both
    assert {points[i] for i in pareto_front(points)} == {shuffled[i] for i in pareto_front(shuffled)}


@given(clouds())
def test_fronts_are_a_partition_in_layers(points: list[tuple[int, ...]]) -> None:
    layers = fronts(points)
    assert sorted(itertools.chain(*layers)) == list(range(len(points)))
    for better, worse in itertools.pairwise(layers):
        assert all(any(dominates(points[j], points[i]) for j in better) for i in worse)


def test_a_point_that_is_not_finite_is_on_no_front() -> None:
    assert pareto_front([(math.nan, 9.0), (1.0, 1.0), (math.inf, 0.0)]) == [1]


@given(clouds())
@settings(deadline=None)
def test_hypervolume_counts_the_unit_cells_under_the_points(points: list[tuple[int, ...]]) -> None:
    """On a grid the volume is the number of cells that some point covers."""
    axes = len(points[0])
    cells = {cell for point in points for cell in itertools.product(*(range(x) for x in point))}
    assert hypervolume(points, (0,) * axes) == len(cells)


@given(clouds(2, 3))
@settings(deadline=None)
def test_only_the_front_adds_volume(points: list[tuple[int, ...]]) -> None:
    origin = (0,) * len(points[0])
    front = [points[i] for i in pareto_front(points)]
    assert hypervolume(front, origin) == hypervolume(points, origin)


def test_points_below_the_reference_add_nothing() -> None:
    assert hypervolume([(0.5, 0.2), (0.4, 0.9)], (0.0, 0.5)) == pytest.approx(0.4 * 0.4)
    assert hypervolume([], (0.0, 0.0)) == 0.0


def test_knee_is_the_balanced_point() -> None:
    points = [(1.0, 0.0), (0.9, 0.9), (0.0, 1.0), (0.2, 0.2)]
    assert knee(points) == 1
    assert knee([(0.3, 0.3)]) == 0
    with pytest.raises(SearchError, match="no point has finite scores"):
        knee([(math.nan, 1.0)])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_scalarise_stays_in_the_unit_range_and_grows_with_every_axis(values: list[float]) -> None:
    number = scalarise(values)
    assert 0 <= number <= 1
    assert scalarise([min(1.0, value + 0.1) for value in values]) >= number


# -- the rule ---------------------------------------------------------------------------------------------------------

PARENTS = {"chat": {"refusal": 0.9, "compliance": 0.98, "bio": 0.2}}


def _rule(**floors: Constraint) -> SelectSettings:
    return SelectSettings(maximize="bio", subject_to=floors)


def test_the_best_that_meets_every_floor_wins() -> None:
    points = [
        {"refusal": 0.99, "compliance": 0.99, "bio": 0.5},
        {"refusal": 0.96, "compliance": 0.96, "bio": 0.8},
        {"refusal": 0.50, "compliance": 1.00, "bio": 0.9},
    ]
    rule = _rule(refusal=Constraint(at_least=0.95), compliance=Constraint(at_least=0.95))
    choice = choose(points, rule, {})
    assert (choice.index, choice.feasible, choice.shortfalls) == (1, True, {})
    assert "2 of 3" in choice.reason


def test_a_floor_relative_to_a_parent() -> None:
    points = [{"refusal": 0.85, "compliance": 1.0, "bio": 0.9}, {"refusal": 0.87, "compliance": 1.0, "bio": 0.5}]
    choice = choose(points, _rule(refusal=Constraint(at_least=0.95, of="chat")), PARENTS)
    assert choice.index == 1
    assert choice.floors[0].value == pytest.approx(0.855)
    assert "chat" in choice.floors[0].source


def test_nobody_meets_the_floor_so_the_nearest_is_taken_and_said() -> None:
    points = [{"refusal": 0.5, "compliance": 1.0, "bio": 1.0}, {"refusal": 0.8, "compliance": 1.0, "bio": 0.1}]
    choice = choose(points, _rule(refusal=Constraint(at_least=0.9)), {})
    assert choice.index == 1
    assert not choice.feasible
    assert choice.shortfalls == {"refusal": pytest.approx(0.1)}
    assert "none of 2 candidates" in choice.reason


def test_domains_is_the_mean_over_domains_and_ties_go_to_the_better_rest() -> None:
    points = [
        {"refusal": 0.5, "compliance": 0.5, "bio": 0.9, "law": 0.1},
        {"refusal": 0.9, "compliance": 0.5, "bio": 0.5, "law": 0.5},
    ]
    assert choose(points, SelectSettings(subject_to={}), {}).index == 1


def test_gibberish_is_never_chosen() -> None:
    points = [{"refusal": math.nan, "compliance": 1.0, "bio": 1.0}, {"refusal": 0.1, "compliance": 0.1, "bio": 0.1}]
    assert choose(points, _rule(), {}).index == 1
    with pytest.raises(SearchError, match="no candidate"):
        choose(points[:1], _rule(), {})


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SelectSettings(maximize="biology", subject_to={}), "axis 'biology'"),
        (_rule(safety=Constraint(at_least=0.5)), "axis 'safety'"),
        (_rule(refusal=Constraint(at_least=0.5, of="chta")), "with 'chta'"),
    ],
)
def test_unknown_names_are_errors(rule: SelectSettings, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        choose([{"refusal": 1.0, "compliance": 1.0, "bio": 1.0}], rule, PARENTS)


POINTS = st.lists(
    st.fixed_dictionaries({axis: st.floats(0, 1) for axis in ("refusal", "compliance", "bio")}), min_size=1
)


@given(POINTS, st.floats(0, 1))
def test_the_choice_meets_the_floor_whenever_a_point_does(points: list[dict[str, float]], floor: float) -> None:
    choice = choose(points, _rule(refusal=Constraint(at_least=floor)), {})
    meeting = [point for point in points if point["refusal"] >= floor - 1e-9]
    assert choice.feasible == bool(meeting)
    if meeting:
        assert points[choice.index]["bio"] == max(point["bio"] for point in meeting)
    else:
        assert points[choice.index]["refusal"] == max(point["refusal"] for point in points)
