"""A base with a LoRA adapter reads like the checkpoint that peft makes of the two."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.lora import TILE
from optimizer.merging.checkpoint.models import open_model
from optimizer.merging.checkpoint.source import Checkpoint, Reader
from optimizer.merging.methods.base import matrix
from tests.optimizer.merging.adapters import make_adapter
from tests.optimizer.merging.conftest import Pool
from tests.optimizer.merging.pools import FAMILIES, add_tokenizer, edit_json, make_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PLAIN = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
Edit = Callable[[dict[str, Any]], object]


def whole(reader: Reader, name: str) -> Tensor:
    source = reader.tensor(name)
    return source.rows(0, matrix(source.shape)[0]).view(source.shape)


def compare(reader: Reader, merged: Path) -> None:
    """Every tensor and what the config says about the vocabulary are those of the merged checkpoint."""
    truth = Checkpoint(merged)
    ours, theirs = ({n: (i.dtype, i.shape) for n, i in infos.items()} for infos in (reader.infos, truth.infos))
    assert ours == theirs
    assert reader.config["vocab_size"] == truth.config["vocab_size"]
    for name in truth.infos:
        torch.testing.assert_close(whole(reader, name), truth.read(name), atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {**PLAIN, "rank_pattern": {"v_proj": 2, r"layers\.1\.mlp\.down_proj": 3}, "alpha_pattern": {"q_proj": 20}},
        {**PLAIN, "alpha_pattern": {r"^model\.layers\.1\..*q_proj": 3, "self_attn.q_proj": 9}},
        {**PLAIN, "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["embed_tokens", "q_proj", "lm_head"]},
        {**PLAIN, "bias": "all"},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
        {"target_modules": ["q_proj"], "lora_bias": True},
        {**PLAIN, "use_dora": True},
        {**PLAIN, "init_lora_weights": "gaussian", "lora_dropout": 0.5},
        {"target_modules": ["o_proj"], "layers_to_transform": [1]},
        {**PLAIN, "words": 304},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "words": 304},
    ],
    ids=lambda settings: "-".join(map(str, settings)) or "all",
)
def test_equals_peft(pool: Pool, tmp_path: Path, settings: dict[str, Any]) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", **settings)
    reader = open_model(f"{pool[0]}+{adapter}")
    compare(reader, adapter / "merged")
    base = Checkpoint(pool[0])
    assert any(not torch.equal(whole(reader, name), base.read(name)) for name in base.infos), "it does nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", 0, family)
    experts = "experts" in " ".join(Checkpoint(base).infos)  # peft has no plain adapter for fused ones
    adapter = make_adapter(base, tmp_path / "lora", **({"target_modules": ["q_proj", "o_proj"]} if experts else {}))
    compare(open_model(f"{base}+{adapter}"), adapter / "merged")


@pytest.mark.parametrize("modules", [["c_attn", "c_fc", "c_proj", "wte"], ["c_proj"]])
def test_layers_stored_the_other_way_round(tmp_path: Path, modules: list[str]) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=300, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    adapter = make_adapter(tmp_path / "base", tmp_path / "lora", target_modules=modules)
    compare(open_model(f"{tmp_path / 'base'}+{adapter}"), adapter / "merged")


def test_a_tied_model_that_learnt_new_words(tmp_path: Path) -> None:
    """peft writes the tied embedding twice; the second is not a head of its own."""
    base = make_model(tmp_path / "base", 0, "llama tied")
    adapter = make_adapter(base, tmp_path / "lora", words=304, target_modules=["q_proj"])
    assert any("lm_head" in name for name in load_file(adapter / "adapter_model.safetensors"))
    compare(open_model(f"{base}+{adapter}"), adapter / "merged")


def test_rounds_once(half_pool: Pool, tmp_path: Path) -> None:
    base = half_pool[0]
    adapter = make_adapter(base, tmp_path / "lora")
    reader, own = open_model(f"{base}+{adapter}"), Checkpoint(base)
    parts = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    low, high = (parts[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
    truth = own.read(f"{name}.weight").double() + 6 / 4 * high @ low
    assert torch.equal(whole(reader, f"{name}.weight"), truth.to(torch.bfloat16))


def test_rows_are_the_same_however_they_are_asked_for(pool: Pool, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", 0, intermediate_size=3 * TILE // 32 + 7)
    adapter = make_adapter(base, tmp_path / "lora", target_modules=["gate_proj", "down_proj"], use_dora=True)
    reader = open_model(f"{base}+{adapter}")
    for name in ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.down_proj.weight"):
        source, truth = reader.tensor(name), whole(reader, name)
        rows = truth.shape[0]
        for step in (1, 13, TILE // 32, TILE // 32 + 1):
            spans = [(at, min(at + step, rows)) for at in range(0, min(rows, 40 * step), step)]
            assert all(torch.equal(source.rows(*span), truth[slice(*span)]) for span in spans)


def test_an_adapter_that_does_nothing_leaves_the_base(pool: Pool, tmp_path: Path) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", words=None, **PLAIN)
    parts = load_file(adapter / "adapter_model.safetensors")
    save_file({n: t * 0 if "lora_B" in n else t for n, t in parts.items()}, adapter / "adapter_model.safetensors")
    reader, own = open_model(f"{pool[0]}+{adapter}"), Checkpoint(pool[0])
    assert all(torch.equal(whole(reader, name), own.read(name)) for name in own.infos)


def test_alone_it_stands_on_the_base_it_names(pool: Pool, tmp_path: Path) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", **PLAIN)
    compare(open_model(adapter), adapter / "merged")
    edit_json(adapter / "adapter_config.json", lambda c: c.update(base_model_name_or_path="somebody/gone"))
    with pytest.raises(CheckpointError, match="somebody/gone") as caught:
        open_model(adapter)
    assert "BASE+" in str(caught.value.mend)
    edit_json(adapter / "adapter_config.json", lambda c: c.update(base_model_name_or_path=None))
    with pytest.raises(CheckpointError, match="names no base"):
        open_model(adapter)


def test_its_own_tokenizer_comes_along(pool: Pool, tmp_path: Path) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", **PLAIN)
    assert open_model(f"{pool[0]}+{adapter}").folder == pool[0]
    add_tokenizer(adapter)
    assert open_model(f"{pool[0]}+{adapter}").folder == adapter


def test_names_of_another_version_of_transformers(pool: Pool, tmp_path: Path) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", **PLAIN)
    file = adapter / "adapter_model.safetensors"
    renamed = {n.replace("base_model.model.model.", "base_model.model.model.language_model."): t
               for n, t in load_file(file).items()}  # fmt: skip
    assert any(".language_model.layers." in name for name in renamed)
    save_file(renamed, file)
    compare(open_model(f"{pool[0]}+{adapter}"), adapter / "merged")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.update(peft_type="IA3"), "peft_type is 'IA3'"),
        (lambda c: c.update(target_parameters=["mlp.experts.gate_up_proj"]), "target_parameters"),
        (lambda c: c.update(layer_replication=[[0, 2]]), "layer_replication"),
        (lambda c: c.update(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
        (lambda c: c.update(use_qalora=True), "use_qalora"),
        (lambda c: c.update(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
        (lambda c: c.update(something_new={"a": 1}), "something_new"),
        (lambda c: c.update(r=8), r"expected \[8, in\]"),
        (lambda c: c.update(r=0), "r is 0"),
        (lambda c: c.pop("lora_alpha"), "lora_alpha None"),
        (lambda c: c.update(lora_alpha=float("nan")), "lora_alpha nan"),
        (lambda c: c.update(use_dora=True), "use_dora"),
        (lambda c: c.update(alpha_pattern={"(a+)+$": 3}), "too involved"),
        (lambda c: c.update(alpha_pattern={"a{1,99}b*c*d*e*": 3}), "too involved"),
        (lambda c: c.update(alpha_pattern={"(": 3}), "pattern"),
        (lambda c: c.update(alpha_pattern={"q_proj": "much"}), "alpha_pattern"),
        (lambda c: c.update(rank_pattern=[1]), "rank_pattern"),
        (lambda c: c.update(auto_map={"AutoModel": "x.Y"}), "code"),
    ],
)
def test_settings_that_cannot_be_applied(pool: Pool, tmp_path: Path, edit: Edit, words: str) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", **PLAIN)
    edit_json(adapter / "adapter_config.json", edit)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_model(f"{pool[0]}+{adapter}")
    assert str(adapter) in str(caught.value)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 31)}), "do not fit tensor model.layers.0.self_attn"),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(3, 32)}), r"A \[3, 32\]"),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4)}), r"A \[4\]"),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "has lora_A, expected lora_A and lora_B"),
        (lambda t: t.update({f"{Q}.lora_embedding_A": torch.ones(4, 32)}), "lora_embedding_A"),
        (lambda t: t.update({f"{Q}.hada_w1": torch.ones(4, 32)}), "hada_w1 belongs to no tensor"),
        (lambda t: t.update({"base_model.model.zeta.lora_A.weight": torch.ones(4, 32)}), "zeta.weight belongs to no"),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 32, dtype=torch.int8)}), "I8"),
        (lambda t: t.update({f"{Q}.weight": torch.ones(32, 31)}), r"shape \[32, 31\]"),
        (lambda t: t.update({f"{Q}.bias": torch.ones(3)}), r"shape \[3\]"),
        (lambda t: t.update({f"{Q}.lora_B.bias": torch.ones(3)}), "bias"),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(304, 32)}), "lm_head.weight has shape"),
        (lambda t: t.clear(), "no tensors"),
    ],
)
def test_tensors_that_do_not_fit(
    pool: Pool, tmp_path: Path, edit: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", **PLAIN)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_model(f"{pool[0]}+{adapter}")
    assert str(adapter) in str(caught.value)


def test_a_head_of_its_own_on_a_tied_base(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", 0, "llama tied")
    for number, settings in enumerate([{"modules_to_save": ["lm_head"], **PLAIN}, {"target_modules": ["lm_head"]}]):
        adapter = make_adapter(base, tmp_path / f"lora{number}", **settings)
        with pytest.raises(CheckpointError, match="a head of its own"):
            open_model(f"{base}+{adapter}")


def test_dora_of_an_embedding_is_refused(pool: Pool, tmp_path: Path) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", target_modules=["embed_tokens"], use_dora=True)
    with pytest.raises(CheckpointError, match="DoRA"):
        open_model(f"{pool[0]}+{adapter}")


def test_pickles_are_refused(pool: Pool, tmp_path: Path) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", **PLAIN)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin found"):
        open_model(f"{pool[0]}+{adapter}")


def test_an_adapter_of_another_model(pool: Pool, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", 0, hidden_size=64)
    adapter = make_adapter(pool[0], tmp_path / "lora", **PLAIN)
    with pytest.raises(CheckpointError, match="do not fit"):
        open_model(f"{other}+{adapter}")
