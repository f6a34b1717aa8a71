"""A recipe loaded inside vLLM answers exactly as its checkpoint on disk, and nothing is written for it."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from datagen.engines.base import Sampling
from datagen.engines.vllm import VllmEngine
from datagen.errors import EngineError
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.merge import write_merge
from optimizer.merging.recipe import Coefficients, ExportSettings, Recipe, recipe_to_json
from service.demo.zoo import Zoo
from tests.optimizer.merging.pools import add_tokenizer, make_pool

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


def table_of(recipe: Recipe) -> str:
    """The coefficients as `load_coefficients` takes them."""
    own = recipe.coefficients
    rows = {name: dict(zip(own.groups, row, strict=True)) for name, row in zip(own.models, own.values, strict=True)}
    return json.dumps(rows)


@pytest.fixture
def holding(vllm_engine: VllmEngine, zoo: Zoo) -> VllmEngine:
    """The engine, holding the zoo for task arithmetic."""
    vllm_engine.call("hold", recipe_to_json(recipe_of(zoo, [[0.0] * 64] * 3)))
    return vllm_engine


def test_what_is_held_answers_as_the_stream_from_disk(holding: VllmEngine, zoo: Zoo) -> None:
    first = [[0.1 * ((i + 3 * t) % 11) for i in range(64)] for t in range(3)]
    second = [list(row) for row in first]
    second[1][4] = 1.3  # one group of one model: all others stay as they are
    for rows in (first, second, [[0.0] * 64] * 3):
        recipe = recipe_of(zoo, rows)
        holding.call("load_coefficients", table_of(recipe))
        held = answers(holding)
        holding.call("load_recipe", recipe_to_json(recipe))
        assert answers(holding) == held


def test_in_place_on_in_place_is_the_last_one(holding: VllmEngine, zoo: Zoo) -> None:
    """Nothing of a candidate is left when the next one is written, nor of a checkpoint loaded in between."""
    chat = recipe_of(zoo, [[float(i == 2)] * 64 for i in range(3)])
    holding.call("load_coefficients", table_of(chat))
    of_chat = answers(holding)
    holding.call("load_coefficients", table_of(recipe_of(zoo, [[0.7] * 64] * 3)))
    assert answers(holding) != of_chat
    holding.call("load_coefficients", table_of(chat))
    assert answers(holding) == of_chat
    holding.load(zoo.base)
    assert answers(holding) != of_chat
    holding.call("load_coefficients", table_of(chat))
    assert answers(holding) == of_chat
    holding.load(zoo.aligned)
    assert answers(holding) == of_chat


def test_coefficients_that_do_not_fit_what_is_held(holding: VllmEngine, zoo: Zoo) -> None:
    table = table_of(recipe_of(zoo, [[0.5] * 64] * 3))
    with pytest.raises(EngineError, match="embeding found, the base has no such"):
        holding.call("load_coefficients", table.replace('"embedding"', '"embeding"'))
    with pytest.raises(EngineError, match="no parameter 'densty'"):
        holding.call("load_coefficients", table, json.dumps({"densty": 0.5}))
    with pytest.raises(EngineError, match="not JSON"):
        holding.call("load_coefficients", "{")
    assert len(answers(holding)) == len(PROMPTS)


def test_a_head_tied_to_the_embedding_answers_with_the_new_weights(tmp_path: Path) -> None:
    """An engine of its own: the zoo's heads are not tied. Reloaded or written in place, the answers are those of an
    engine that was started on the merge."""
    base, models = make_pool(
        tmp_path, ("a", "b"), "qwen3", hidden_size=128, head_dim=32, initializer_range=0.2, intermediate_size=64
    )
    groups = check_pool(base, models).groups
    recipe = Recipe(base, models, "ties", Coefficients.constant(("a", "b"), groups, {"a": 0.9, "b": 0.4}))
    write_merge(recipe, tmp_path / "out", ExportSettings(), card="")
    for folder in (base, *models.values(), tmp_path / "out"):
        add_tokenizer(folder)
    found = {}
    with VllmEngine(base, worker_extension="optimizer.merging.vllm_worker.MergeWorker", max_model_len=64) as engine:
        found["base"] = answers(engine)
        engine.load(tmp_path / "out")
        found["loaded"] = answers(engine)
        engine.call("hold", recipe_to_json(recipe))
        engine.call("load_coefficients", table_of(recipe))
        found["held"] = answers(engine)
    wanted = []
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for prompt in PROMPTS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], return_tensors="pt", return_dict=True
        )
        made = model.generate(**inputs, max_new_tokens=GREEDY.max_tokens, do_sample=False)
        wanted.append(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    assert found["loaded"] == found["held"] == wanted
    assert found["base"] != wanted
