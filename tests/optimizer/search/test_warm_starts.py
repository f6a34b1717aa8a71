"""The first trials are what people would try by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.errors import SearchError
from optimizer.merging.layout import Layout
from optimizer.merging.recipe import MergeSettings
from optimizer.search.objectives.base import AxisScores, Scores
from optimizer.search.space import Space
from optimizer.search.warm_starts import cocktail, parent_loss, warm_starts

LAYOUT = Layout(("embedding", "layers.0.mlp", "head"), {})


def space(*models: str, bounds: tuple[float, float] = (0.0, 1.2)) -> Space:
    return Space.of(LAYOUT, models, MergeSettings(bounds=bounds))


def first_column(own: Space, losses: dict[str, float] | None = None) -> dict[str, list[float]]:
    starts = warm_starts(own, losses)
    assert all(len(set(row)) == 1 for _, coefficients in starts for row in coefficients.values)
    return {origin: [row[0] for row in coefficients.values] for origin, coefficients in starts}


def test_each_model_uniform_cocktail_and_sum() -> None:
    starts = first_column(space("math", "law", "chat"), {"math": 1.0, "law": 1.0, "chat": 0.0})
    assert list(starts) == ["model:math", "model:law", "model:chat", "uniform", "lm_cocktail", "sum"]
    assert starts["model:law"] == [0, 1, 0]
    assert starts["uniform"] == pytest.approx([1 / 3] * 3)
    assert starts["lm_cocktail"] == pytest.approx([0.21194, 0.21194, 0.57612], abs=1e-5)
    assert starts["sum"] == [1, 1, 1]


def test_no_point_twice() -> None:
    assert list(first_column(space("chat"))) == ["model:chat"]
    equal = first_column(space("math", "chat"), {"math": 2.0, "chat": 2.0})
    assert list(equal) == ["model:math", "model:chat", "uniform", "sum"]


def test_points_lie_within_bounds() -> None:
    starts = first_column(space("math", "chat", bounds=(0.1, 0.8)))
    assert starts["model:math"] == [0.8, 0.1]


@given(st.lists(st.floats(0, 50), min_size=1, max_size=6), st.floats(0.1, 10))
def test_a_cocktail_is_a_mixture_that_prefers_small_losses(losses: list[float], temperature: float) -> None:
    shares = cocktail({str(k): loss for k, loss in enumerate(losses)}, temperature)
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0
    assert shares[str(losses.index(min(losses)))] == max(shares.values())


def test_losses_must_be_there_and_finite() -> None:
    with pytest.raises(SearchError, match="finite"):
        warm_starts(space("math", "chat"), {"math": 1.0})


def test_the_loss_of_a_model_is_the_cross_entropy_of_its_values() -> None:
    scores = Scores({"refusal": AxisScores(1.0, (), "nats"), "math": AxisScores(0.5, (), "nats/token")})
    assert parent_loss(scores) == pytest.approx(0.34657, abs=1e-5)
    assert parent_loss(Scores({"refusal": AxisScores(0.0, (), "nats")})) == pytest.approx(20)
