"""Coefficient gradients, and a descent that survives being killed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datagen.samples import DataSet, Kind, Split
from optimizer.errors import SearchError
from optimizer.merging.checkpoint.header import read_headers
from optimizer.merging.layout import Layout
from optimizer.merging.recipe import Coefficients, Granularity, MergeSettings
from optimizer.merging.resident import ResidentMerge
from optimizer.search.gradient import LOOK_EVERY, PATIENCE, DescentPlan, Loss, axis_rows, descend
from optimizer.search.scoring import Scorer
from optimizer.search.settings import GradientSettings
from optimizer.search.space import Space
from tests.optimizer.search import tiny


class Bench:
    """Two experts of a random base, the merge of them in memory, and rows to score it on."""

    def __init__(self, folder: Path, granularity: Granularity) -> None:
        for seed, name in enumerate(("base", "chat", "math")):
            tiny.model("llama", seed).save_pretrained(folder / name)
        layout = Layout.of(read_headers(folder / "base"))
        model = tiny.model("llama")
        models = {name: folder / name for name in ("chat", "math")}
        self.resident = ResidentMerge(model, folder / "base", models, layout)
        self.scorer = Scorer(model, tiny.tokenizer())
        self.space = Space.of(layout, list(models), MergeSettings(granularity=granularity))
        self.start = Coefficients.constant(list(models), layout.groups, {"chat": 0.4, "math": 0.5})

    def plan(self, **settings: float) -> DescentPlan:
        return DescentPlan(self.space, self.start, GradientSettings(batch=2, **settings), seed=1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Granularity.LAYER)


@pytest.mark.parametrize("granularity", [Granularity.MODEL, Granularity.LAYER_COMPONENT])
def test_gradients_equal_finite_differences(tmp_path: Path, granularity: Granularity) -> None:
    bench = Bench(tmp_path, granularity)
    weights = {"refusal": 2.0, "sums": 0.5}
    loss = Loss(axis_rows(tiny.dataset(), Split.SEARCH, bench.scorer), weights, bench.scorer)
    values = bench.space.values(bench.start)

    def at(dimension: int, step: float) -> float:
        moved = list(values)
        moved[dimension] += step
        bench.resident.apply(bench.space.coefficients(moved))
        return loss.value()[0]

    bench.resident.apply(bench.space.coefficients(values))
    with bench.resident.collect_gradient() as collected:
        returned = loss.backward()
    assert returned == pytest.approx(loss.value()[0], rel=1e-6)
    gradient = bench.space.pull_back(collected.tolist())
    differences = [(at(d, 1e-3) - at(d, -1e-3)) / 2e-3 for d in range(len(values))]
    assert max(map(abs, differences)) > 0.1
    assert gradient == pytest.approx(differences, rel=0.02, abs=0.01)


def test_the_loss_is_the_weighted_sum_of_mean_token_cross_entropies(bench: Bench) -> None:
    rows = axis_rows(tiny.dataset(), Split.SEARCH, bench.scorer)
    assert list(rows) == ["refusal", "compliance", "names", "sums"]
    expected = {}
    for axis, items in rows.items():
        scores = [answers[0].mean for answers in bench.scorer.score(bench.scorer.prepare(items))]
        expected[axis] = -sum(scores) / len(scores)
    total, by_axis = Loss(rows, {"names": 3.0}, bench.scorer).value()
    assert by_axis == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(sum(expected.values()) + 2 * expected["names"], rel=1e-5)


def test_descent_lowers_the_selection_loss_within_bounds(bench: Bench, tmp_path: Path) -> None:
    data = tiny.dataset()
    look = Loss(axis_rows(data, Split.SELECTION, bench.scorer), {}, bench.scorer)
    bench.resident.apply(bench.start)
    before, _ = look.value()
    found = descend(bench.resident, bench.scorer, data, bench.plan(steps=20), tmp_path / "state.json")
    bench.resident.apply(found)
    after, _ = look.value()
    assert after < before - 0.2
    assert all(0 <= value <= 1.2 for row in found.values for value in row)
    assert bench.space.coefficients(bench.space.values(found)) == found


def test_the_start_is_returned_when_nothing_is_better(bench: Bench, tmp_path: Path) -> None:
    found = descend(bench.resident, bench.scorer, tiny.dataset(), bench.plan(steps=0), tmp_path / "state.json")
    assert found == bench.space.coefficients(bench.space.values(bench.start))


def test_of_several_starts_the_best_is_taken(bench: Bench, tmp_path: Path) -> None:
    data = tiny.dataset()
    look = Loss(axis_rows(data, Split.SELECTION, bench.scorer), {}, bench.scorer)
    points = [
        Coefficients.constant(bench.start.models, bench.start.groups, {"chat": a, "math": b})
        for a, b in ((1.0, 0.0), (0.0, 1.0), (0.4, 0.5), (0.0, 0.0))
    ]
    losses = []
    for point in points:
        bench.resident.apply(point)
        losses.append(look.value()[0])
    assert losses[0] > min(losses)
    plan = replace(bench.plan(steps=0), start=points[0], others=tuple(points[1:]))
    found = descend(bench.resident, bench.scorer, data, plan, tmp_path / "state.json")
    assert found == points[losses.index(min(losses))]


def test_a_descent_that_gains_nothing_ends_early(bench: Bench, tmp_path: Path) -> None:
    steps: list[int] = []
    plan = replace(bench.plan(steps=500), settings=GradientSettings(steps=500, learning_rate=1e-7, batch=2))
    descend(bench.resident, bench.scorer, tiny.dataset(), plan, tmp_path / "state.json", lambda n, *_: steps.append(n))
    assert steps[-2:] == [PATIENCE * LOOK_EVERY, 500]


class KilledError(Exception):
    pass


def killed_at(step: int) -> Callable[[int, int, str, str], None]:
    def progress(done: int, total: int, unit: str, note: str) -> None:
        if done == step:
            raise KilledError

    return progress


@pytest.mark.parametrize("step", [0, 5, 7])
def test_a_killed_descent_goes_on_where_it_was(bench: Bench, tmp_path: Path, step: int) -> None:
    data, plan = tiny.dataset(8), bench.plan(steps=9)
    whole = descend(bench.resident, bench.scorer, data, plan, tmp_path / "whole.json")
    with pytest.raises(KilledError):
        descend(bench.resident, bench.scorer, data, plan, tmp_path / "killed.json", killed_at(step))
    with torch.no_grad():  # a fresh process has none of the old weights
        bench.resident.apply(torch.zeros(2, len(bench.space.groups)))
    steps: list[int] = []
    resumed = descend(
        bench.resident, bench.scorer, data, plan, tmp_path / "killed.json", lambda done, *_: steps.append(done)
    )
    assert resumed == whole
    assert steps[0] == step
    assert (tmp_path / "killed.json").read_text() == (tmp_path / "whole.json").read_text()


def test_a_finished_descent_is_not_repeated(bench: Bench, tmp_path: Path) -> None:
    data, plan, steps = tiny.dataset(), bench.plan(steps=3), list[int]()
    first = descend(bench.resident, bench.scorer, data, plan, tmp_path / "state.json")
    again = descend(
        bench.resident, bench.scorer, data, plan, tmp_path / "state.json", lambda done, *_: steps.append(done)
    )
    assert again == first
    assert set(steps) == {3}


def test_the_state_of_another_descent_is_refused(bench: Bench, tmp_path: Path) -> None:
    plan = bench.plan(steps=1)
    descend(bench.resident, bench.scorer, tiny.dataset(), plan, tmp_path / "state.json")
    with pytest.raises(SearchError, match="another descent"):
        descend(bench.resident, bench.scorer, tiny.dataset(), replace(plan, seed=2), tmp_path / "state.json")


def test_what_cannot_be_descended_on_is_refused(bench: Bench, tmp_path: Path) -> None:
    plan = replace(bench.plan(steps=1), weights={"sum": 1.0})
    with pytest.raises(SearchError, match=r"weights of sum[\s\S]*sums"):
        descend(bench.resident, bench.scorer, tiny.dataset(), plan, tmp_path / "state.json")
    benign = DataSet(tuple(s for s in tiny.dataset().samples if s.kind is not Kind.HARMFUL))
    with pytest.raises(SearchError, match="no rows of refusal"):
        descend(bench.resident, bench.scorer, benign, bench.plan(steps=1), tmp_path / "state.json")
