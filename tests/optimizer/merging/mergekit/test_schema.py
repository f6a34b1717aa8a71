"""What a setting is worth for a tensor at a depth."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.mergekit.schema import Choice, InputModel, MergekitRecipe, evaluate, with_base

UP = "model.layers.3.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("gradient", "t", "value"),
    [
        ((0.0, 1.0), 0.25, 0.25),
        ((0.0, 0.5, 1.0), 0.5, 0.5),
        ((1.0, 0.0, 2.0), 0.75, 1.0),
        ((5.0, 6.0), 1.0, 6.0),
        ((5.0, 6.0), 0.0, 5.0),
        ((7.0,), 0.3, 7.0),
    ],
)
def test_gradients(gradient: tuple[float, ...], t: float, value: float) -> None:
    assert evaluate(gradient, UP, t) == value


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=200))
def test_a_gradient_with_a_number_for_each_layer_gives_exactly_these(gradient: list[float]) -> None:
    last = len(gradient) - 1
    assert [evaluate(tuple(gradient), UP, i / last) for i in range(len(gradient))] == gradient


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9), st.floats(0, 1))
def test_a_gradient_stays_between_its_numbers(gradient: list[float], t: float) -> None:
    value = evaluate(tuple(gradient), UP, t)
    assert value is not None
    assert min(gradient) - 1e-12 <= value <= max(gradient) + 1e-12


def test_booleans_have_no_values_between() -> None:
    assert [evaluate((0.0, 1.0), UP, t, steps=True) for t in (0, 0.5, 0.99, 1)] == [0, 0, 0, 1]


def test_the_first_filter_that_fits_decides() -> None:
    setting = (Choice("self_attn", 1.0), Choice("up", (2.0, 4.0)), Choice("mlp", 3.0))
    assert evaluate(setting, UP, 0.5) == 3.0  # the gradient of "up", halfway
    assert evaluate(setting, "model.layers.3.mlp.down_proj.weight", 0.5) == 3.0
    assert evaluate(setting, "lm_head.weight", 0.0) is None
    assert evaluate((*setting, Choice("*", 9.0)), "lm_head.weight", 0.0) == 9.0
    assert evaluate((Choice("", 8.0),), UP, 0.0) == 8.0


def test_filters_see_experts_by_both_names() -> None:
    expert = "model.layers.0.block_sparse_moe.experts.1.w3.weight"
    for word in ("mlp", "block_sparse_moe", "gate_up_proj", "experts.1.w3"):
        assert evaluate((Choice(word, 1.0),), expert, 0.0) == 1.0
    assert evaluate((Choice("down_proj", 1.0),), expert, 0.0) is None


def test_a_base_that_is_not_listed_comes_last() -> None:
    a, b = InputModel(ModelReference("a")), InputModel(ModelReference("b"))
    assert with_base((a, b), ModelReference("b")) == (a, b)
    assert with_base((a, b), None) == (a, b)
    assert [entry.model.path for entry in with_base((a, b), ModelReference("c"))] == ["a", "b", "c"]


def test_models_are_named_once_the_base_first() -> None:
    models = tuple(InputModel(ModelReference(path)) for path in ("a", "b"))
    recipe = MergekitRecipe("linear", ModelReference("b"), models)
    assert [reference.path for reference in recipe.references] == ["b", "a"]
