"""What recipes make of checkpoints whose numbers say where they are from: worked out by hand."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimizer.errors import CheckpointError, PoolError, RecipeError
from optimizer.merging.mergekit.parse import read_mergekit
from optimizer.merging.mergekit.plan import PlanOptions, plan_mergekit
from optimizer.merging.plan import Plan
from tests.optimizer.merging.mergekit.marked import make_marked, merged, numbers
from tests.optimizer.merging.pools import add_tokenizer

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def up(layer: int) -> str:
    return f"model.layers.{layer}.mlp.up_proj.weight"


def q(layer: int) -> str:
    return f"model.layers.{layer}.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """z holds 0, a 1, b 10, six 3 in six layers, tied 2 and 20 without heads."""
    folder = tmp_path_factory.mktemp("marked")
    for name, value in {"z": 0.0, "a": 1.0, "b": 10.0}.items():
        make_marked(folder / name, value)
    make_marked(folder / "six", 3.0, 6)
    make_marked(folder / "tied", 2.0, tied=True)
    make_marked(folder / "other_tied", 20.0, tied=True)
    make_marked(folder / "wide", 5.0, words=9)
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def plan(text: str) -> Plan:
    (recipe,) = read_mergekit(text, "r.yml")
    return plan_mergekit(recipe)


def test_gradients_run_over_the_depth_of_a_slice() -> None:
    found = numbers(
        plan("""
merge_method: linear
models: [{model: a, parameters: {weight: [0, 1]}}, {model: b, parameters: {weight: 1}}]
parameters: {normalize: false}
""")
    )
    # t is 0, 1/3, 2/3, 1: a's share of each layer's 1 + 100·i; outside the layers t is 0
    wanted = [10 + 0, 110 + 101 / 3, 210 + 201 * 2 / 3, 310 + 301]
    assert [found[up(i)] for i in range(4)] == pytest.approx(wanted, rel=1e-6)
    assert (found[EMBEDDING], found[NORM], found[HEAD]) == (10, 10, 10.5)


def test_layers_of_slices_are_numbered_anew() -> None:
    """Embeddings go by the first slice, norm and head by the last, all at t = 0; a slice of one layer has t = 1."""
    made = plan("""
merge_method: linear
slices:
- sources:
  - {model: a, layer_range: [0, 2], parameters: {weight: [1, 2]}}
  - {model: b, layer_range: [2, 4], parameters: {weight: 0}}
- sources:
  - {model: a, layer_range: [3, 4], parameters: {weight: [5, 6]}}
  - {model: b, layer_range: [0, 1], parameters: {weight: 1}}
parameters: {normalize: false}
""")
    found = numbers(made)
    assert [found[up(i)] for i in range(3)] == [1, 202, 6 * 301 + 10]
    assert (found[EMBEDDING], found[NORM], found[HEAD]) == (1, 5 * 1 + 10, 5 * 1.5 + 10.5)
    assert up(3) not in found
    assert made.config["num_hidden_layers"] == 3


def test_norm_and_head_take_as_many_sources_as_the_first_slice_has() -> None:
    """As in mergekit, and the plan says so; a base is never left out."""
    text = """
merge_method: linear
parameters: {normalize: false}
slices:
- sources: [{model: a, layer_range: [0, 2], parameters: {weight: 1}}]
- sources:
  - {model: b, layer_range: [2, 4], parameters: {weight: 2}}
  - {model: a, layer_range: [2, 4], parameters: {weight: 3}}
"""
    made = plan(text)
    found = numbers(made)
    assert (found[up(2)], found[NORM], found[HEAD]) == (2 * 210 + 3 * 201, 2 * 10, 2 * 10.5)
    assert any("without a" in warning for warning in made.warnings)
    base = numbers(plan(text.replace("linear", "linear\nbase_model: a")))
    assert base[NORM] == 2 * 10 + 3


def test_stacked_layers_keep_their_bits() -> None:
    made = plan("""
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 3]}]
- sources: [{model: b, layer_range: [1, 4]}]
""")
    found = numbers(made)
    assert [found[up(i)] for i in range(6)] == [1, 101, 201, 110, 210, 310]
    assert (found[EMBEDDING], found[NORM], found[HEAD]) == (1, 10, 10.5)
    assert made.config["num_hidden_layers"] == 6


def test_filters_and_levels() -> None:
    """A source's word comes before its slice's, the module's, the recipe's; where no filter fits, the next decides."""
    found = numbers(
        plan("""
merge_method: linear
modules:
  default:
    slices:
    - sources: [{model: a, layer_range: [0, 4], parameters: {weight: [{filter: norm, value: 5}]}}]
      parameters: {weight: [{filter: mlp, value: 3}]}
    parameters: {weight: [{filter: attn, value: 4}]}
parameters: {normalize: false, weight: 2}
""")
    )
    assert (found[NORM], found["model.layers.1.input_layernorm.weight"]) == (5, 505)
    assert (found[up(1)], found[q(1)], found[EMBEDDING], found[HEAD]) == (303, 404, 2, 3)


def test_filters_see_a_models_own_layers_and_the_results_for_shared_parameters() -> None:
    own = numbers(
        plan("""
merge_method: linear
parameters: {normalize: false}
slices:
- sources:
  - model: a
    layer_range: [2, 4]
    parameters: {weight: [{filter: layers.0., value: 7}, {filter: layers.2., value: 9}, {value: 1}]}
""")
    )
    assert [own[up(0)], own[up(1)]] == [9 * 201, 301]
    shared = numbers(
        plan("""
merge_method: slerp
base_model: a
slices: [{sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [0, 2]}]}]
parameters: {t: [{filter: layers.0., value: 0}, {filter: layers.2., value: 1}, {value: 1}]}
""")
    )
    assert [shared[up(0)], shared[up(1)]] == [201, 110]


def test_the_base_comes_in_by_itself_and_is_not_merged() -> None:
    text = "merge_method: task_arithmetic\nbase_model: z\nparameters: {weight: 1}\nmodels:\n"
    for listed in ("", "- {model: z}\n"):
        made = plan(f"{text}{listed}- {{model: a}}\n- {{model: b}}")
        assert numbers(made)[up(1)] == 101 + 110 - 100
        assert made.steps[0].case is not None
        assert made.steps[0].case.models == ("a", "b")
        assert list(made.models) == ["z", "a", "b"]


def test_methods_without_a_base_average_it_like_any_other() -> None:
    text = "merge_method: linear\nbase_model: z\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]"
    assert numbers(plan(text))[EMBEDDING] == pytest.approx(11 / 3)


def test_a_slice_can_have_a_base_of_its_own() -> None:
    found = numbers(
        plan("""
merge_method: task_arithmetic
base_model: z
slices:
- base_model: b
  sources: [{model: b, layer_range: [0, 4]}, {model: a, layer_range: [0, 4], parameters: {weight: 2}}]
""")
    )
    assert found[up(1)] == 110 + 2 * (101 - 110)


def test_the_same_model_at_two_depths() -> None:
    made = plan("""
merge_method: linear
slices:
- sources:
  - {model: a, layer_range: [0, 2], parameters: {weight: 1}}
  - {model: a, layer_range: [2, 4], parameters: {weight: 3}}
""")
    assert numbers(made)[up(1)] == (101 + 3 * 301) / 4
    assert made.steps[0].case is not None
    assert made.steps[0].case.models == ("a", "a#2")


def test_models_of_different_depth_meet_in_slices() -> None:
    text = """
merge_method: linear
slices: [{sources: [{model: a, layer_range: [0, 4]}, {model: six, layer_range: [2, 6]}]}]
parameters: {weight: 1}
"""
    assert numbers(plan(text))[up(0)] == (1 + 203) / 2
    with pytest.raises(PoolError, match="4 in a, 6 in six"):
        plan("merge_method: linear\nmodels: [{model: a}, {model: six}]\nparameters: {weight: 1}")


def test_a_tied_head_is_the_embedding_where_others_have_heads() -> None:
    made = plan("merge_method: linear\nmodels: [{model: tied}, {model: a}]\nparameters: {weight: 1}")
    assert (numbers(made)[EMBEDDING], numbers(made)[HEAD]) == (1.5, 1.75)
    assert made.config["tie_word_embeddings"] is False
    both = plan("merge_method: linear\nmodels: [{model: tied}, {model: other_tied}]\nparameters: {weight: 1}")
    assert HEAD not in numbers(both)
    assert both.config["tie_word_embeddings"] is True


def test_a_stack_that_ends_in_a_tied_model_gets_its_head() -> None:
    made = plan("""
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 1]}]
- sources: [{model: tied, layer_range: [1, 2]}]
""")
    assert (numbers(made)[EMBEDDING], numbers(made)[HEAD]) == (1, 2)
    assert made.config["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("dtypes", "stored"),
    [
        ("", "F32"),
        ("dtype: bfloat16", "BF16"),
        ("dtype: float32\nout_dtype: float16", "F16"),
        ("dtype: float64", "F64"),
    ],
)
def test_dtypes(dtypes: str, stored: str) -> None:
    made = plan(f"merge_method: linear\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {{weight: 0.1}}\n{dtypes}")
    assert {step.tensor.dtype for step in made.steps} == {stored}
    wide = [operand.tensor.dtype == torch.float64 for operand in made.steps[0].operands]
    assert wide == [stored == "F64"] * 2
    if stored == "F64":
        assert merged(made)[EMBEDDING][0, 0].item() == pytest.approx(5.5, rel=1e-15)


def test_without_a_dtype_each_tensor_keeps_the_bases(tmp_path: Path) -> None:
    half = make_marked(tmp_path / "half", 2.0, dtype=torch.bfloat16)
    made = plan(f"merge_method: task_arithmetic\nbase_model: {half}\nmodels: [{{model: a}}]\nparameters: {{weight: 1}}")
    assert {step.tensor.dtype for step in made.steps} == {"BF16"}


def test_random_masks_take_their_seed_and_the_models_names() -> None:
    text = "merge_method: dare_linear\nbase_model: z\nmodels: [{model: a}]\nparameters: {weight: 1, density: 0.5}"
    (recipe,) = read_mergekit(text)
    case = plan_mergekit(recipe, PlanOptions(seed=7)).steps[0].case
    assert case is not None
    assert (case.seed, case.models) == (7, ("a",))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (
            "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 5]}]",
            RecipeError,
            ["r.yml, line 3", "[0, 5] of a", "it has 4"],
        ),
        (
            "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: [{filter: mlp, value: 1}]}}",
            RecipeError,
            ["r.yml, line 3", "no weight for tensor model.embed_tokens.weight", "`{value: …}`"],
        ),
        (
            "merge_method: linear\nparameters: {weight: 1}\nmodels:\n- {model: a}\n- {model: wide}",
            PoolError,
            ["vocabularies differ", "[8, 4] in a, [9, 4] in wide", "tokenizer: {source: union}"],
        ),
        (
            "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 1]}]\n"
            "- sources: [{model: wide, layer_range: [0, 1]}]",
            PoolError,
            ["vocabularies differ", "lm_head.weight has 9 rows", "a's with 8", "tokenizer: {source: union}"],
        ),
        (
            "merge_method: linear\nparameters: {weight: 1}\nmodules: {nowhere: {models: [{model: a}]}}",
            RecipeError,
            ["belongs to none of the modules nowhere", "`default:`"],
        ),
        (
            "merge_method: linear\nparameters: {weight: 1}\n"
            "modules: {default: {models: [{model: a}]}, vision_tower: {models: [{model: a}]}}",
            RecipeError,
            ["no tensor belongs to module 'vision_tower'", "lm_head, model"],
        ),
    ],
)
def test_what_does_not_fit_the_models(text: str, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        plan(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_tensors_that_only_some_have(tmp_path: Path) -> None:
    short = make_marked(tmp_path / "short", 1.0)
    tensors = load_file(short / "model.safetensors")
    del tensors[up(1)]
    save_file(tensors, short / "model.safetensors")
    with pytest.raises(PoolError, match=rf"tensor {up(1)} is in a, not in {short}"):
        plan(f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: a}}, {{model: {short}}}]")


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    odd = make_marked(tmp_path / "odd", 1.0, more={"quantization_config": {"bits": 4}})
    with pytest.raises(CheckpointError, match="quantised"):
        plan(f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {odd}}}]")


def test_a_token_that_one_model_added(tmp_path: Path) -> None:
    """Its row is that model's in all of them; the others' rows are merged as ever."""
    plainly, added = make_marked(tmp_path / "p", 1.0, words=260), make_marked(tmp_path / "q", 3.0, words=261)
    add_tokenizer(plainly)
    add_tokenizer(added, extra=("<|new|>",))
    made = plan(f"""
merge_method: linear
models: [{{model: {plainly}}}, {{model: {added}}}]
parameters: {{weight: 1}}
tokenizer: {{source: union}}
""")
    rows = merged(made)[EMBEDDING]
    assert rows.shape == (261, 4)
    assert rows[:260].unique().tolist() == [2.0]
    assert rows[260].tolist() == [3.0] * 4
    assert made.config["vocab_size"] == 261
    assert "tokenizer.json" in made.companions
