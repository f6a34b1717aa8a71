"""An incompatible pool is refused with everything that differs, and no weight is read for it."""

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from optimizer.errors import CheckpointError, PoolError, RecipeError
from optimizer.merging.checkpoint.compatibility import ALLOWABLE, check_pool, template_folder
from optimizer.merging.checkpoint.header import read_headers
from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.checkpoint.source import Checkpoint
from tests.optimizer.merging.adapters import make_adapter
from tests.optimizer.merging.conftest import Pool
from tests.optimizer.merging.pools import FAMILIES, TEMPLATE, add_tokenizer, edit_json, make_model, make_pool


@pytest.fixture
def copy(pool: Pool, tmp_path: Path) -> Pool:
    """A pool of one's own to spoil."""
    base, models = pool
    shutil.copytree(base, tmp_path / "base")
    return tmp_path / "base", {n: Path(shutil.copytree(folder, tmp_path / n)) for n, folder in models.items()}


def refusal(base: Path, models: Mapping[str, Path | ModelReference], *allow: str) -> str:
    with pytest.raises(PoolError) as caught:
        check_pool(base, models, allow)
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_fits_itself(family: str, tmp_path: Path) -> None:
    base, models = make_pool(tmp_path, ("a",), family)
    assert "layers.1.mlp" in check_pool(base, models).groups


def test_every_difference_is_listed(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", 0)
    models = {
        "wide": make_model(tmp_path / "wide", 1, intermediate_size=64),
        "deep": make_model(tmp_path / "deep", 2, num_hidden_layers=3),
        "words": make_model(tmp_path / "words", 3, vocab_size=310),
        "other": make_model(tmp_path / "other", 4, "mistral"),
        "fine": make_model(tmp_path / "fine", 5),
    }
    text = refusal(base, models)
    assert "wide" in text
    assert "config intermediate_size: 48 in the base, 64 here" in text
    assert "model.layers.0.mlp.gate_proj.weight: [48, 32] in the base, [64, 32] here" in text
    assert "config num_hidden_layers: 2 in the base, 3 here" in text
    assert "+ tensor model.layers.2.input_layernorm.weight not in the base" in text
    assert "config vocab_size: 300 in the base, 310 here" in text
    assert 'config model_type: "qwen2" in the base, "mistral" here'.replace('"', "") in text
    assert "- tensor model.layers.0.self_attn.k_proj.bias missing here" in text
    assert "fine (" not in text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        # equal shapes, another function
        ({"num_attention_heads": 8, "num_key_value_heads": 4}, "config num_attention_heads: 4 in the base, 8 here"),
        ({"hidden_act": "gelu"}, "config hidden_act: silu in the base, gelu here"),
        ({"rms_norm_eps": 0.1}, "config rms_norm_eps: 1e-06 in the base, 0.1 here"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
            "config rope_theta: 10000.0 in the base, 77.0",
        ),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}, "config rope_scaling"),
    ],
)
def test_settings_that_no_shape_shows(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    base = make_model(tmp_path / "base", 0)
    other = make_model(tmp_path / "other", 1)
    edit_json(other / "config.json", lambda config: config.update(changes))
    assert line in refusal(base, {"other": other})


def test_what_a_recipe_allows_may_differ(copy: Pool) -> None:
    base, models = copy
    edit_json(models["a"] / "config.json", lambda c: c["rope_parameters"].update(rope_theta=77.0))
    edit_json(models["b"] / "config.json", lambda c: c.update(rms_norm_eps=0.1))
    with pytest.raises(PoolError) as caught:
        check_pool(base, models)
    assert "allow these to differ: rms_norm_eps, rope_theta" in str(caught.value.mend)
    assert "rms_norm_eps" in refusal(base, models, "rope_theta")
    assert check_pool(base, models, ("rope_theta", "rms_norm_eps")).layers == 2
    with pytest.raises(RecipeError, match="rope_teta") as misspelt:
        check_pool(base, models, ("rope_teta",))
    assert "'rope_theta'" in str(misspelt.value.mend)


def test_tokenizers_and_templates_that_may_differ(copy: Pool) -> None:
    base, models = copy
    add_tokenizer(models["a"], template="USER", extra=("zorp",))
    assert "zorp" in refusal(base, models, "chat_template")
    assert "USER" in refusal(base, models, "tokenizer")
    assert check_pool(base, models, ("tokenizer", "chat_template")).layers == 2


def test_no_permission_mends_a_shape(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", 0)
    wide = make_model(tmp_path / "wide", 1, intermediate_size=64)
    with pytest.raises(PoolError) as caught:
        check_pool(base, {"wide": wide}, ALLOWABLE)
    assert "gate_proj.weight: [48, 32] in the base, [64, 32] here" in str(caught.value)
    assert "allow" not in str(caught.value.mend)


def test_an_adapter_is_a_model_of_the_pool(pool: Pool, tmp_path: Path) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", target_modules=["q_proj"])
    grown = make_adapter(pool[0], tmp_path / "grown", words=304, target_modules=["q_proj"])
    models = {"plain": pool[1]["a"], "lora": ModelReference.parse(f"{pool[0]}+{adapter}"), "alone": adapter}
    assert check_pool(pool[0], models).layers == 2
    text = refusal(pool[0], {"grown": ModelReference.parse(f"{pool[0]}+{grown}")})
    assert "model.embed_tokens.weight: [300, 32] in the base, [304, 32] here" in text
    assert "config vocab_size: 300 in the base, 304 here" in text


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_eight_bit_floats_are_refused_wherever_they_are_opened(copy: Pool, dtype: str) -> None:
    file = copy[1]["a"] / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    header["odd"] = {"dtype": dtype, "shape": [4], "data_offsets": [end, end + 4]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :] + bytes(4))
    for read in (lambda: check_pool(*copy), lambda: Checkpoint(copy[1]["a"])):
        with pytest.raises(CheckpointError, match=f"tensor odd is in {dtype}"):
            read()


def test_old_and_new_notation_of_rope_are_one(copy: Pool) -> None:
    def old(config: dict[str, Any]) -> None:
        config.update(rope_theta=config.pop("rope_parameters")["rope_theta"], rope_scaling=None)

    edit_json(copy[1]["a"] / "config.json", old)
    check_pool(*copy)


def test_settings_of_training_do_not_matter(copy: Pool) -> None:
    changes = {"use_cache": False, "torch_dtype": "bfloat16", "_name_or_path": "x", "attention_dropout": 0.1}
    edit_json(copy[1]["a"] / "config.json", lambda config: config.update(changes))
    check_pool(*copy)


def test_tokenizers(copy: Pool) -> None:
    base, models = copy
    add_tokenizer(models["a"])
    check_pool(base, models)  # the same; and b has none, so it uses its base's
    add_tokenizer(models["a"], extra=("zorp", "blick"))
    assert "+ tokenizer vocabulary: 'zorp' not in the base" in refusal(base, models)

    def swap(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    add_tokenizer(models["a"])
    edit_json(models["a"] / "tokenizer.json", swap)
    text = refusal(base, models)
    ours = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    assert f"tokenizer vocabulary: 'a' is {ours['a']} in the base, {ours['b']} here" in text
    assert f"'b' is {ours['b']} in the base, {ours['a']} here" in text


def test_added_tokens_and_splitter(copy: Pool) -> None:
    base, models = copy
    add_tokenizer(models["a"])
    edit_json(models["a"] / "tokenizer.json", lambda t: t["added_tokens"].pop())
    edit_json(models["a"] / "tokenizer.json", lambda t: t["pre_tokenizer"].update(add_prefix_space=True))
    text = refusal(base, models)
    assert "- tokenizer added tokens: '<|assistant|>' missing here" in text
    assert "tokenizer pre_tokenizer differs" in text


def test_traces_of_training_in_a_tokenizer_do_not_matter(copy: Pool) -> None:
    base, models = copy
    add_tokenizer(models["a"])
    edit_json(models["a"] / "tokenizer.json", lambda t: t.update(padding={"strategy": "BatchLongest"}, truncation=None))
    check_pool(base, models)


def test_chat_templates(copy: Pool) -> None:
    base, models = copy
    add_tokenizer(models["a"], template=TEMPLATE + "\n")  # the last line end makes no difference
    check_pool(base, models)
    add_tokenizer(models["a"], template="first line\nUSER: {{ messages[0]['content'] }}")
    text = refusal(base, models)
    assert "chat templates" in text
    assert "+USER: {{ messages[0]['content'] }}" in text


def test_whose_template_a_merge_carries(copy: Pool) -> None:
    base, models = copy
    assert template_folder(base, models.values()) == base
    add_tokenizer(base, template=None)
    (base / "chat_template.jinja").unlink()
    add_tokenizer(models["b"])
    assert template_folder(base, models.values()) == models["b"]
    check_pool(base, models)


def test_named_templates_in_the_old_place(copy: Pool) -> None:
    base, models = copy
    (models["a"] / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "x"}]})
    )
    assert "+x" in refusal(base, models)


def test_no_weight_is_read(copy: Pool) -> None:
    """The data region is cut out of the files: sparse, all zeros where the weights were, 4 TB for one of them."""
    base, models = copy
    before = check_pool(base, models)
    for folder in (base, *models.values()):
        file = folder / "model.safetensors"
        size = file.stat().st_size
        with file.open("r+b") as stream:
            stream.truncate(8 + int.from_bytes(stream.read(8), "little"))
            stream.truncate(size)
    assert check_pool(base, models) == before

    giant = models["a"] / "model.safetensors"
    header = json.loads(giant.read_bytes()[8:].split(b"\0")[0])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    rows = 1 << 40
    header["extra"] = {"dtype": "F32", "shape": [rows], "data_offsets": [end, end + 4 * rows]}
    raw = json.dumps(header).encode()
    giant.write_bytes(len(raw).to_bytes(8, "little") + raw)
    os.truncate(giant, 8 + len(raw) + end + 4 * rows)
    assert "+ tensor extra not in the base" in refusal(base, models)


@pytest.mark.parametrize(
    ("file", "edit", "words"),
    [
        ("config.json", lambda c: c.update(num_hidden_layers=40), "num_hidden_layers 40, the weights have 2"),
        ("config.json", lambda c: c.update(hidden_size=4096), "hidden_size 4,096"),
        ("config.json", lambda c: c.update(vocab_size=301), "vocab_size 301, the embedding has 300 rows"),
        ("config.json", lambda c: c.update(text_config={"hidden_size": 64}), "hidden_size 64"),
        ("config.json", lambda c: c.update(quantization_config={"quant_method": "gptq"}), "quantised"),
        ("tokenizer_config.json", lambda c: c.update(auto_map={"AutoTokenizer": ["x.Y", None]}), "code"),
        ("tokenizer.json", lambda t: t.update(model=[1, 2]), "not a tokenizer"),
        ("tokenizer.json", lambda t: t.update(added_tokens=[7]), "not a tokenizer"),
    ],
)
def test_a_folder_that_contradicts_itself(
    copy: Pool, file: str, edit: Callable[[dict[str, Any]], None], words: str
) -> None:
    base, models = copy
    add_tokenizer(models["a"])
    edit_json(models["a"] / file, edit)
    with pytest.raises(CheckpointError, match=words) as caught:
        check_pool(base, models)
    assert str(models["a"]) in str(caught.value)


def test_a_tied_head_that_one_tool_writes_out(tmp_path: Path) -> None:
    base, models = make_pool(tmp_path, ("a",), "qwen3")
    infos = read_headers(models["a"])
    file = models["a"] / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    embedding = infos["model.embed_tokens.weight"]
    size = embedding.end - embedding.begin
    header["lm_head.weight"] = {
        "dtype": "F32", "shape": list(embedding.shape), "data_offsets": [len(data), len(data) + size]
    }  # fmt: skip
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data + bytes(size))
    assert "head" not in check_pool(base, models).groups


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"]
)
def test_random_damage_is_either_harmless_or_refused(tmp_path: Path, file: str) -> None:
    base = make_model(tmp_path / "base", 0)
    model = make_model(tmp_path / "a", 1)
    for folder in (base, model):
        add_tokenizer(folder)
        names = dict.fromkeys(read_headers(folder), "model.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    good = (model / file).read_bytes()
    rng = random.Random(file)
    refused = 0
    for _ in range(150):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at, junk = (
                rng.randrange(len(good)),
                rng.choice([b"\xff", b"[", b"{}", b'"', b"null", b"9", b"-", b",", b"\0", b""]),
            )
            damaged[at : at + rng.randint(0, 4)] = junk
        (model / file).write_bytes(damaged)
        try:
            check_pool(base, {"a": model})
        except CheckpointError as error:
            refused += str(model) in str(error)
    assert refused > 50
