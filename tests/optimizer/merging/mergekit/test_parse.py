"""Recipes as mergekit's users write them, and every mistake with its line."""

import pytest

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.mergekit.parse import is_mergekit, read_mergekit
from optimizer.merging.mergekit.schema import Choice, MergekitRecipe, TokenOf, TokenRule, ZeroRow


def read(text: str) -> MergekitRecipe:
    (recipe,) = read_mergekit(text, "r.yml")
    return recipe


def test_linear() -> None:
    recipe = read("""
models:
  - model: org/one
    parameters: {weight: 1.0}
  - model: org/two@v2
    parameters: {weight: 0.3}
merge_method: linear
dtype: float16
""")
    assert recipe.merge_method == "linear"
    assert [str(entry.model) for entry in recipe.models] == ["org/one", "org/two@v2"]
    assert [entry.parameters["weight"] for entry in recipe.models] == [1.0, 0.3]
    assert recipe.models[1].line == 5
    assert (recipe.dtype, recipe.out_dtype, recipe.base_model) == ("float16", None, None)


def test_slerp_with_gradients_by_filter() -> None:
    recipe = read("""
slices:
  - sources:
      - {model: org/one, layer_range: [0, 32]}
      - {model: org/two, layer_range: [0, 32]}
merge_method: slerp
base_model: org/one
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
""")
    assert recipe.parameters["t"] == (
        Choice("self_attn", (0.0, 0.5, 0.3, 0.7, 1.0)),
        Choice("mlp", (1.0, 0.5, 0.7, 0.3, 0.0)),
        Choice(None, 0.5),
    )
    assert [source.layer_range for source in recipe.slices[0].sources] == [(0, 32), (0, 32)]


def test_ties_with_gradients_of_density() -> None:
    recipe = read("""
models:
  - model: org/one
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: org/two
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: org/three
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: org/base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""")
    assert recipe.models[0].parameters["density"] == (1.0, 0.7, 0.1)
    assert recipe.models[2].parameters["weight"] == (Choice("mlp", 0.5), Choice(None, 0.0))
    assert recipe.parameters["normalize"] == 1.0


def test_layers_stacked() -> None:
    recipe = read("""
merge_method: passthrough
slices:
- sources: [{model: org/one, layer_range: [0, 24]}]
- sources:
  - model: org/two
    layer_range: [8, 32]
    parameters:
      scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}]
dtype: float16
""")
    assert [piece.sources[0].layer_range for piece in recipe.slices] == [(0, 24), (8, 32)]
    assert recipe.slices[1].sources[0].parameters["scale"] == (
        Choice("o_proj", 0.0),
        Choice("down_proj", 0.0),
        Choice(None, 1.0),
    )


def test_dare_ties_with_the_base_listed_and_a_tokenizer() -> None:
    recipe = read("""
models:
  - model: org/base
  - model: org/one
    parameters: {density: 0.53, weight: 0.4}
  - model: org/two
    parameters: {density: 5.3e-1, weight: 3e-1}
merge_method: dare_ties
base_model: org/base
parameters: {int8_mask: true, rescale: 0.0}
tokenizer:
  source: union
  tokens:
    <|im_start|>: {source: org/one, force: true}
    <pad>: {source: {kind: zero}}
    <a>: {source: {kind: model_token, model: org/two, token_id: 5}}
    <b>: {source: {kind: model_token, model: org/two, token: x}}
  pad_to_multiple_of: 64
chat_template: chatml
""")
    assert recipe.models[2].parameters == {"density": 0.53, "weight": 0.3}
    block = recipe.tokenizer
    assert block is not None
    assert (block.source, block.pad_to_multiple_of, recipe.chat_template) == ("union", 64, "chatml")
    two = ModelReference("org/two")
    assert block.tokens == {
        "<|im_start|>": TokenRule(ModelReference("org/one"), force=True),
        "<pad>": TokenRule(ZeroRow()),
        "<a>": TokenRule(TokenOf(two, token_id=5)),
        "<b>": TokenRule(TokenOf(two, token="x")),
    }


def test_model_stock_and_adapters() -> None:
    recipe = read("""
models: [{model: org/one}, {model: org/two}]
merge_method: model_stock
base_model: org/base
parameters: {filter_wise: false}
tokenizer_source: org/one
""")
    assert recipe.tokenizer_model == ModelReference("org/one")
    recipe = read("""
merge_method: task_arithmetic
base_model: org/base
models:
- {model: org/base+org/lora@main, parameters: {weight: 1}}
- model: {model: {path: /a+b, revision: r}, lora: {path: /c}, override_architecture: LlamaForCausalLM}
  parameters: {weight: -0.5}
""")
    assert recipe.models[0].model == ModelReference("org/base", None, ModelReference("org/lora", "main"))
    assert recipe.models[1].model == ModelReference("/a+b", "r", ModelReference("/c"))


def test_modules_and_a_base_of_a_slice() -> None:
    recipe = read("""
merge_method: task_arithmetic
base_model: a
parameters: {lambda: 0.5}
modules:
  text_decoder:
    slices:
    - base_model: b
      sources: [{model: b, layer_range: [0, 2]}, {model: a, layer_range: [1, 3]}]
    parameters: {weight: 1}
  vision_tower:
    models: [{model: b}]
    parameters: {weight: 0}
""")
    assert recipe.modules["text_decoder"].slices[0].base_model == ModelReference("b")
    assert recipe.modules["vision_tower"].parameters == {"weight": 0.0}
    assert [reference.path for reference in recipe.references] == ["a", "b"]


def test_several_documents() -> None:
    one = "name: one\nmerge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"
    last = "merge_method: linear\nmodels: [{model: one, parameters: {weight: 1}}]\n"
    recipes = read_mergekit(f"{one}---\n{last}---\n")
    assert [recipe.name for recipe in recipes] == ["one", None]
    assert recipes[1].line == 5
    with pytest.raises(RecipeError, match="line 5: two documents with the name 'one'"):
        read_mergekit(f"{one}---\n{one}")
    with pytest.raises(RecipeError, match="two documents with no name"):
        read_mergekit(f"{last}---\n{last}")


def test_whose_recipe_it_is() -> None:
    assert is_mergekit("merge_method: linear\nmodels: []")
    assert not is_mergekit("method: ties\nbase: a")
    with pytest.raises(RecipeError, match=r"r\.yml, line 1: no merge_method found"):
        is_mergekit("metod: ties", "r.yml")


BASE = "merge_method: {method}\nbase_model: z\n"
ONE = BASE.format(method="task_arithmetic") + "models:\n- model: a\n  parameters:\n    weight: {weight}\n"
TWO = "merge_method: linear\nslices:\n- sources:\n  - {model: a, layer_range: {a}}\n  - {model: b, layer_range: {b}}\n"


def one(weight: str, rest: str = "") -> str:
    return ONE.replace("{weight}", weight) + rest


def two(a: str, b: str, rest: str = "parameters: {weight: 1}\n") -> str:
    return TWO.replace("{a}", a).replace("{b}", b) + rest


MISTAKES = {
    "no method": ("models: [{model: a}]", 1, ["no merge_method", "linear"]),
    "method misspelt": ("merge_method: slrep\nmodels: [{model: a}]", 1, ["'slrep'", "did you mean 'slerp'"]),
    "key misspelt": (one("1", "tokeniser: base\n"), 7, ["unknown key 'tokeniser'", "did you mean 'tokenizer'"]),
    "parameter at the top": (one("1", "normalize: true\n"), 7, ["'normalize'", "under `parameters:`"]),
    "parameter misspelt": (
        one("1", "parameters:\n  lambd: 1\n"),
        8,
        ["parameters.lambd", "no parameter 'lambd'", "did you mean 'lambda'"],
    ),
    "no method's parameter": (one("1", "parameters: {select_top: 1}\n"), 7, ["select_top", "it has weight"]),
    "shared parameter of one model": (
        one("1\n    lambda: 0.5"),
        7,
        ["models[0].parameters.lambda", "one lambda for all models", "move it"],
    ),
    "no number": (one("much"), 6, ["models[0].parameters.weight", "'much'", "expected a number"]),
    "nothing": (one(""), 6, ["nothing found", "expected a number"]),
    "out of range": (one("1e9"), 6, ["1e+09 found", "-100 … 100"]),
    "out of range in a gradient": (one("[0, 1000]"), 6, ["weight[1]", "1000 found"]),
    "out of range behind a filter": (one("[{filter: mlp, value: 1000}]"), 6, ["weight[0].value", "1000 found"]),
    "infinite": (one(".inf"), 6, ["finite"]),
    "filter without list": (one("{filter: mlp, value: 1}"), 6, ["without a list", "`weight: [{filter: …, value: …}"]),
    "number beside filters": (one("[{filter: mlp, value: 1}, 0.5]"), 6, ["weight[1]", "`{value: …}`"]),
    "filter without value": (one("[{filter: mlp}]"), 6, ["a filter without a value"]),
    "filter key misspelt": (one("[{filtr: mlp, value: 1}]"), 6, ["'filtr'", "did you mean 'filter'"]),
    "empty gradient": (one("[]"), 6, ["an empty list found"]),
    "flag between": (one("1", "parameters: {normalize: 0.5}\n"), 7, ["0.5 found", "true or false"]),
    "no weight": (
        ONE.split("  parameters")[0],
        4,
        ["needs weight", "none found for a", "add `weight`"],
    ),
    "no t": (BASE.format(method="slerp") + "models: [{model: a}]", 3, ["slerp needs t", "`parameters:`"]),
    "no base": ("merge_method: ties\nmodels: [{model: a}]", 2, ["ties needs a base", "add `base_model:`"]),
    "too many models": (
        BASE.format(method="slerp") + "parameters: {t: 0.5}\nmodels:\n- {model: a}\n- {model: b}",
        5,
        ["slerp of 2 models", "1 beside the base"],
    ),
    "two kinds of input": (one("1", "slices: []\nmodules: {a: {models: [{model: b}]}}\n"), 8, ["models and modules"]),
    "no input": (BASE.format(method="ties"), 1, ["none found", "exactly one of models, slices, modules"]),
    "unequal slices": (two("[0, 4]", "[0, 5]"), 5, ["slices[0].sources[1]", "5 layers of b", "4 of a in line 4"]),
    "slice backwards": (two("[4, 0]", "[0, 4]"), 4, ["[4, 0] has no layer"]),
    "slice below zero": (two("[-1, 3]", "[0, 4]"), 4, ["layer_range[0]", "-1 found", "at least 0"]),
    "slice of three numbers": (two("[0, 2, 4]", "[0, 4]"), 4, ["3 numbers found"]),
    "slice of halves": (two("[0, 1.5]", "[0, 4]"), 4, ["1.5 found", "whole number"]),
    "layers of models": (
        "merge_method: linear\nmodels:\n- model: a\n  layer_range: [0, 1]",
        4,
        ["found under models", "slices"],
    ),
    "no layer range": ("merge_method: linear\nslices:\n- sources:\n  - model: a", 4, ["layer_range: [first, end]"]),
    "base not among the sources": (
        BASE.format(method="task_arithmetic") + "slices:\n- sources:\n  - {model: a, layer_range: [0, 1]}",
        4,
        ["base_model z is not among the sources", "add it"],
    ),
    "weightless base that linear would average": (
        BASE.format(method="linear") + "models:\n- {model: a, parameters: {weight: 1}}",
        4,
        ["linear needs weight", "none found for z", "leave base_model out"],
    ),
    "a model twice": (
        "merge_method: linear\nparameters: {weight: 1}\nmodels:\n- {model: a}\n- {model: a}",
        5,
        ["model a twice", "line 4"],
    ),
    "residual weight": (
        "merge_method: linear\nslices:\n- sources: [{model: a, layer_range: [0, 1]}]\n  residual_weight: 1",
        4,
        ["residual_weight has no effect"],
    ),
    "unknown dtype": (one("1", "dtype: bf16\n"), 7, ["'bf16'", "bfloat16"]),
    "two tokenizers": (one("1", "tokenizer_source: base\ntokenizer: {source: base}\n"), 8, ["beside tokenizer_source"]),
    "token without row": (
        one("1", "tokenizer:\n  tokens:\n    <a>: {source: {kind: model_token, model: b}}\n"),
        9,
        ["tokenizer.tokens.<a>.source", "one of `token`, `token_id`"],
    ),
    "kind of token": (one("1", "tokenizer: {tokens: {x: {source: {kind: zeros}}}}\n"), 7, ["'zeros'", "'zero'"]),
    "padding of none": (one("1", "tokenizer: {pad_to_multiple_of: 0}\n"), 7, ["0 found", "at least 1"]),
    "no reference": (
        one("1").replace("model: a", "model: a+b+c"),
        4,
        ["models[0].model", "'a+b+c'", "path[@"],
    ),
    "reference without path": (one("1").replace("model: a", "model: {model: {}}"), 4, ["no path found"]),
    "module of both": (
        "merge_method: linear\nmodules:\n  default:\n    models: [{model: a}]\n    slices: [{sources: []}]",
        3,
        ["modules.default", "models and slices found"],
    ),
    "a list for a recipe": ("- a", 1, ["a list found", "names with values"]),
    "models by name": ("merge_method: linear\nmodels: {a: 1}", 2, ["expected a list"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_their_line(mistake: str) -> None:
    text, line, words = MISTAKES[mistake]
    with pytest.raises(RecipeError) as caught:
        read_mergekit(text, "r.yml")
    said = str(caught.value)
    assert said.startswith(f"r.yml, line {line}: "), said
    assert all(word in said for word in words), said


def test_another_methods_parameter_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    text = one("1", "parameters: {select_topk: 0.5}\n")
    (recipe,) = read_mergekit(text, "r.yml")
    assert recipe == read_mergekit(one("1"), "r.yml")[0]
    assert caplog.messages == ["r.yml, line 7: task_arithmetic has no select_topk, it takes no effect"]
    with pytest.raises(RecipeError, match=r"line 7.*select_topk"):
        read_mergekit(one("1", "parameters: {select_topk: [much]}\n"), "r.yml")
