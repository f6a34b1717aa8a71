"""A recipe loaded inside vLLM answers exactly as its checkpoint on disk, and nothing is written for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.engines.base import Sampling
from datagen.engines.vllm import VllmEngine
from datagen.errors import EngineError
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.merge import write_merge
from optimizer.merging.recipe import Coefficients, ExportSettings, Recipe, recipe_to_json
from service.demo.zoo import Zoo

PROMPTS = ("hello", "what is this ?", "please tell me about the zorin gem", "a b c d e f g")
GREEDY = Sampling(max_tokens=24)
ROWS = st.lists(st.floats(-0.5, 1.5, allow_nan=False), min_size=64, max_size=64)


def recipe_of(zoo: Zoo, rows: list[list[float]]) -> Recipe:
    models = {**zoo.experts, "chat": zoo.aligned}
    groups = check_pool(zoo.base, models).groups
    values = tuple(tuple(row[: len(groups)]) for row in rows)
    return Recipe(zoo.base, models, "task_arithmetic", Coefficients(tuple(models), groups, values))


def answers(engine: VllmEngine) -> list[str]:
    return [completion.text for completion in engine.chat(PROMPTS, GREEDY)]


@settings(max_examples=4, deadline=None)
@given(rows=st.lists(ROWS, min_size=3, max_size=3))
def test_vllm_is_disk(
    vllm_engine: VllmEngine, zoo: Zoo, tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]]
) -> None:
    recipe = recipe_of(zoo, rows)
    vllm_engine.call("load_recipe", recipe_to_json(recipe))
    held = answers(vllm_engine)
    out = tmp_path_factory.mktemp("vllm") / "out"
    write_merge(recipe, out, ExportSettings(), card="")
    vllm_engine.load(out)
    assert answers(vllm_engine) == held


def test_corners_answer_as_the_models_do(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    seen = set()
    for number, name in enumerate((*zoo.experts, "chat")):
        vllm_engine.call("load_recipe", recipe_to_json(recipe_of(zoo, [[float(i == number)] * 64 for i in range(3)])))
        held = answers(vllm_engine)
        vllm_engine.load(zoo.models[name])
        assert answers(vllm_engine) == held
        seen.add(tuple(held))
    assert len(seen) == 3  # the models do answer differently


def test_a_recipe_that_does_not_fit(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    recipe = recipe_to_json(recipe_of(zoo, [[0.5] * 64] * 3)).replace('"embedding"', '"embeding"')
    with pytest.raises(EngineError, match="embeding found, the base has no such"):
        vllm_engine.call("load_recipe", recipe)
    vllm_engine.load(zoo.base)
    assert len(answers(vllm_engine)) == len(PROMPTS)
