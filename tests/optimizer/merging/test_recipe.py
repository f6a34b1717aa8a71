"""Recipes as JSON and YAML: the same value comes back, and a bad file is told what is wrong with it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.errors import RecipeError
from optimizer.merging.methods.registry import find_method
from optimizer.merging.recipe import (
    EVERYWHERE,
    Coefficients,
    Recipe,
    check_coefficients,
    check_parameters,
    recipe_from_json,
    recipe_from_yaml,
    recipe_to_json,
    recipe_to_yaml,
)

GROUPS = ("embedding", "layers.0.attention", "layers.0.mlp", "head")
NUMBERS = st.floats(-10, 10, allow_nan=False)


def recipe(rows: tuple[tuple[float, ...], ...] = ((0.5, 1.0, 0.0, 1e-5), (1 / 3, 2e-7, -1.0, 1.2))) -> Recipe:
    models = {"chat": Path("/models/chat"), "no": Path("/models/Ärzte: 1")}
    return Recipe(
        Path("/models/base"), models, "task_arithmetic", Coefficients(tuple(models), GROUPS, rows), "bfloat16"
    )


@given(st.lists(st.tuples(*[NUMBERS] * len(GROUPS)), min_size=2, max_size=2))
def test_round_trip(rows: list[tuple[float, ...]]) -> None:
    whole = recipe(tuple(rows))
    assert recipe_from_json(recipe_to_json(whole)) == whole
    assert recipe_from_yaml(recipe_to_yaml(whole)) == whole


def test_one_number_for_all_groups_and_parameters_by_model() -> None:
    text = """
method: ties
base: /models/base
models: {a: /models/a, b: /models/b}
coefficients: {a: 0.5, b: 1}
parameters: {density: {a: 0.2, b: 0.3}, normalize: true}
seed: 7
"""
    whole = recipe_from_yaml(text)
    assert check_coefficients(whole, GROUPS) == dict.fromkeys(GROUPS, (0.5, 1.0))
    shared, each = check_parameters(whole, find_method("ties"))
    assert each == {"density": (0.2, 0.3)}
    assert shared["normalize"] == 1
    assert whole.seed == 7
    assert recipe_from_yaml(recipe_to_yaml(whole)) == whole
    assert recipe_from_json(recipe_to_json(whole)) == whole


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"densty": 0.5}, ["densty", "did you mean 'density'"]),
        ({"density": 1.5}, ["density is 1.5", "0 … 1"]),
        ({"density": {"a": 0.5}}, ["parameters.density", "b missing"]),
        ({"density": {"a": 0.5, "b": 0.5, "c": 1}}, ["c found"]),
        ({"lambda": {"a": 0.5, "b": 0.5}}, ["lambda", "one for all models"]),
        ({"lambda": float("nan")}, ["lambda is nan"]),
    ],
)
def test_parameters_that_do_not_fit(parameters: dict[str, float | dict[str, float]], words: list[str]) -> None:
    models = {"a": Path("/models/a"), "b": Path("/models/b")}
    everywhere = Coefficients.constant(("a", "b"), (EVERYWHERE,), {})
    whole = Recipe(Path("/models/base"), models, "ties", everywhere, parameters=parameters)
    with pytest.raises(RecipeError) as caught:
        check_parameters(whole, find_method("ties"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


GOOD = recipe_to_yaml(recipe())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("method:", "methd:"), ["unknown key 'methd'", "did you mean 'method'?"]),
        (GOOD.replace("dtype: bfloat16", "dtype: [1]"), ["dtype", "[1]"]),
        (GOOD.replace("coefficients:", "more:"), ["unknown key 'more'"]),
        (GOOD.split("coefficients:")[0], ["no key 'coefficients'"]),
        (GOOD.replace("embedding: 0.5", "embedding: much"), ["coefficients.chat.embedding", "'much'"]),
        (GOOD.replace("embedding: 0.5", "embedding: .nan"), ["nan", "finite"]),
        (GOOD.replace("embedding: 0.5", "embedding: true"), ["True", "number"]),
        (GOOD.replace("embedding: 0.5", "embeding: 0.5"), ["embedding", "did you mean embeding?"]),
        (GOOD.replace("embedding: 0.5", "head: 0.5"), ["'head' twice"]),
        ("a: &a [1]\nb: *a\n", ["alias"]),
        ("a: !!python/object/apply:os.system [true]\n", ["python/object"]),
        ("[" * 50 + "]" * 50, ["deeper"]),
        ("- 1\n", ["list found"]),
        ("a: [\n", ["not a plain YAML"]),
        ("x" * (17 << 20), ["characters"]),
    ],
)
def test_a_bad_file(text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from_yaml(text, "my.yaml")
    for word in ("my.yaml", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"method": "task_arithmetic"}', "[" * 100_000])
def test_bad_json(text: str) -> None:
    with pytest.raises(RecipeError):
        recipe_from_json(text)


def test_coefficients_that_fit() -> None:
    columns = check_coefficients(recipe(), GROUPS[::-1])
    assert list(columns) == list(GROUPS[::-1])
    assert columns["layers.0.attention"] == (1.0, 2e-7)


@pytest.mark.parametrize(
    ("groups", "rows", "words"),
    [
        (GROUPS[:-1], None, "head found, the base has no such"),
        ((*GROUPS, "norm"), None, "norm missing, the base has them"),
        (GROUPS, ((0.0, float("nan"), 0.0, 0.0), (0.0,) * 4), "chat in layers.0.attention is nan"),
        (GROUPS, ((0.0, float("inf"), 0.0, 0.0), (0.0,) * 4), "inf"),
        (GROUPS, ((0.0,), (0.0,)), "2 rows of 4"),
    ],
)
def test_coefficients_that_do_not_fit(
    groups: tuple[str, ...], rows: tuple[tuple[float, ...], ...] | None, words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        check_coefficients(recipe(rows) if rows else recipe(), groups)
