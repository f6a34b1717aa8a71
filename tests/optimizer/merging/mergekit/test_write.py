"""Recipes out: what is written is read back the same, and a searched recipe means the same tensors."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.checkpoint.source import Checkpoint
from optimizer.merging.layout import Layout
from optimizer.merging.mergekit.parse import read_mergekit
from optimizer.merging.mergekit.plan import plan_mergekit
from optimizer.merging.mergekit.schema import (
    Choice,
    InputModel,
    MergekitRecipe,
    Module,
    Slice,
    Source,
    TokenizerBlock,
    TokenOf,
    TokenRule,
    ZeroRow,
)
from optimizer.merging.mergekit.write import PARAMETERS, mergekit_to_yaml, to_mergekit_yaml
from optimizer.merging.methods.registry import METHODS
from optimizer.merging.plan import Plan, make_plan
from optimizer.merging.recipe import EVERYWHERE, Coefficients, Recipe
from tests.optimizer.merging.pools import FAMILIES, make_pool

Pool = tuple[Path, dict[str, Path]]

words = st.text("abc/.-_12", min_size=1, max_size=8).filter(lambda word: not word.isspace())
references = st.builds(
    ModelReference,
    st.one_of(words, st.sampled_from(["a@b", "a+b", "1.5", "true", "~", "null"])),
    st.one_of(st.none(), words),
    st.one_of(st.none(), st.builds(ModelReference, words, st.one_of(st.none(), words))),
)
weights = st.floats(-100, 100, allow_subnormal=False)
values = st.one_of(weights, st.lists(weights, min_size=1, max_size=4).map(tuple))
choices = st.lists(st.builds(Choice, st.one_of(st.none(), st.text(max_size=5)), values), min_size=1, max_size=3)
each = st.fixed_dictionaries({"weight": st.one_of(values, choices.map(tuple))})
inputs = st.lists(references, min_size=1, max_size=3, unique=True).flatmap(
    lambda found: st.tuples(*(st.builds(InputModel, st.just(reference), each) for reference in found))
)


def layers(span: tuple[int, int]) -> st.SearchStrategy[tuple[int, int]]:
    return st.just((span[0], span[0] + span[1]))


pieces = st.tuples(st.integers(0, 5), st.integers(1, 4)).flatmap(
    lambda span: st.builds(
        Slice,
        st.lists(references, min_size=1, max_size=2, unique=True).flatmap(
            lambda found: st.tuples(
                *(st.builds(Source, st.just(r), st.just((span[0], sum(span))), each) for r in found)
            )
        ),
        st.one_of(st.none(), references),
        st.fixed_dictionaries({}, optional={"weight": values}),
    )
)
whole = st.one_of(
    st.builds(Module, inputs), st.builds(Module, slices=st.lists(pieces, min_size=1, max_size=2).map(tuple))
)
tokenizers = st.builds(
    TokenizerBlock,
    st.one_of(st.sampled_from(["base", "union"]), references),
    st.dictionaries(
        st.text("ab<|>~ 1", min_size=1, max_size=4),
        st.builds(
            TokenRule,
            st.one_of(
                st.none(),
                references,
                st.just(ZeroRow()),
                st.builds(TokenOf, references, token=words),
                st.builds(TokenOf, references, token_id=st.integers(0, 9)),
            ),
            st.booleans(),
        ),
        max_size=2,
    ),
    st.one_of(st.none(), st.integers(1, 64)),
)


@settings(max_examples=40, deadline=None)
@given(
    whole,
    st.sampled_from([{}, {"normalize": 1.0}, {"normalize": (Choice("a", 0.0), Choice(None, 1.0))}]),
    st.sampled_from([None, "float16", "float64"]),
    st.one_of(st.none(), tokenizers),
    st.one_of(st.none(), words, st.just("{{ x }}\n'\"")),
    st.booleans(),
)
def test_round_trip(
    part: Module,
    shared: dict[str, float],
    dtype: str | None,
    tokenizer: TokenizerBlock | None,
    text: str | None,
    modular: bool,
) -> None:
    recipe = MergekitRecipe(
        "linear",
        None,
        () if modular else part.models,
        () if modular else part.slices,
        {"default": part} if modular else {},
        shared,
        dtype,
        None,
        None,
        tokenizer,
        text,
        text,
    )
    written = mergekit_to_yaml(recipe)
    assert read_mergekit(written) == (recipe,)
    assert mergekit_to_yaml(*read_mergekit(written)) == written


def test_booleans_are_written_as_booleans() -> None:
    recipe = MergekitRecipe("linear", models=(InputModel(ModelReference("a"), {"weight": 1.0}),))
    text = mergekit_to_yaml(MergekitRecipe(**{**vars(recipe), "parameters": {"normalize": 0.0}}))
    assert "normalize: false" in text


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family_pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("family")
    return make_pool(folder, ("a", "b"), request.param, num_hidden_layers=3)


def cases(plan: Plan) -> dict[str, object]:
    """What is decided about every tensor, but for what the models are called."""
    found = {}
    for step in plan.steps:
        case = None if step.case is None else (step.case.shape, dict(step.case.shared), dict(step.case.each))
        found[step.tensor.name] = (step.tensor, case, step.base is None, len(step.models))
    return found


def spread(layout: Layout, models: tuple[str, ...]) -> Coefficients:
    """Another number for every model and group."""
    rows = [[(i * 37 + j * 11) % 97 / 97 for i in range(len(layout.groups))] for j in range(len(models))]
    return Coefficients(models, layout.groups, tuple(map(tuple, rows)))


def test_a_searched_recipe_means_the_same_in_mergekits_format(family_pool: Pool) -> None:
    base, models = family_pool
    layout = Layout.of(Checkpoint(base).infos)
    recipe = Recipe(base, models, "ties", spread(layout, ("a", "b")), "float32", {"density": {"a": 0.2, "b": 0.6}})
    (read,) = read_mergekit(to_mergekit_yaml(recipe, layout))
    assert cases(plan_mergekit(read)) == cases(make_plan(recipe))


def test_so_does_one_with_a_number_for_both_models(family_pool: Pool) -> None:
    base, models = family_pool
    layout = Layout.of(Checkpoint(base).infos)
    recipe = Recipe(base, {"a": models["a"]}, "slerp", spread(layout, ("a",)), "bfloat16")
    text = to_mergekit_yaml(recipe, layout)
    assert "dtype: float32\nout_dtype: bfloat16" in text
    (read,) = read_mergekit(text)
    assert cases(plan_mergekit(read)) == cases(make_plan(recipe))


def recipe_of(pool: Pool, method: str, dtype: str = "auto", **parameters: float) -> Recipe:
    base, models = pool
    everywhere = Coefficients.constant(tuple(models), (EVERYWHERE,), dict.fromkeys(models, 0.5))
    return Recipe(base, models, method, everywhere, dtype, parameters)


def test_one_number_for_a_model_stays_one(pool: Pool) -> None:
    layout = Layout.of(Checkpoint(pool[0]).infos)
    (read,) = read_mergekit(to_mergekit_yaml(recipe_of(pool, "task_arithmetic"), layout, "float16"))
    assert [entry.parameters for entry in read.models] == [{"weight": 0.5}] * 2
    assert (read.dtype, read.out_dtype) == ("float32", "float16")


@pytest.mark.parametrize("method", sorted(PARAMETERS))
def test_every_method_of_mergekit_has_its_parameters_here(method: str) -> None:
    own = {row.name for row in METHODS[method].parameters}
    assert own - {"rescale_by_probability"} <= PARAMETERS[method]


def test_what_mergekit_does_not_have_is_not_written(pool: Pool) -> None:
    layout = Layout.of(Checkpoint(pool[0]).infos)
    with pytest.raises(RecipeError, match="interpolation found, mergekit has task_arithmetic"):
        to_mergekit_yaml(recipe_of(pool, "interpolation"), layout)
    own = next(row.name for row in METHODS["dare_linear"].parameters if row.name not in PARAMETERS["dare_linear"])
    with pytest.raises(RecipeError, match=f"parameter {own} = 1.0 found"):
        to_mergekit_yaml(recipe_of(pool, "dare_linear", **{own: 1.0}), layout)
    assert own not in to_mergekit_yaml(recipe_of(pool, "dare_linear", **{own: 0.0}), layout)
