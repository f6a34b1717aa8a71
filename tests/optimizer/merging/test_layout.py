"""Layers and components of every promised family, read off names and shapes."""

from pathlib import Path

import pytest

from optimizer.merging.checkpoint.header import TensorInfo, read_headers
from optimizer.merging.layout import Layout, without_tied_head
from tests.optimizer.merging.pools import FAMILIES, make_model

TIED = {"llama tied", "qwen3", "gemma2"}


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_of_every_family(family: str, tmp_path: Path) -> None:
    layout = Layout.of(read_headers(make_model(tmp_path / "m", 0, family)))
    layers = [f"layers.{i}.{part}" for i in range(2) for part in ("attention", "mlp", "norm")]
    assert layout.groups == ("embedding", *layers, "norm", *(() if family in TIED else ("head",)))
    assert layout.layers == 2
    assert layout.constants == ()
    for name, group in layout.group_of.items():
        if ".layers." in name:
            assert group.startswith(f"layers.{name.split('.layers.')[1][0]}."), name


@pytest.mark.parametrize(
    ("name", "shape", "group"),
    [
        ("embed_out.weight", (300, 32), "head"),  # GPT-NeoX
        ("gpt_neox.embed_in.weight", (300, 32), "embedding"),
        ("gpt_neox.final_layer_norm.bias", (32,), "norm"),
        ("transformer.wte.weight", (300, 32), "embedding"),  # GPT-2
        ("transformer.ln_f.weight", (32,), "norm"),
        ("output.weight", (300, 32), "head"),  # Meta's own names
        ("tok_embeddings.weight", (300, 32), "embedding"),
        ("model.layers.11.self_attn.q_norm.weight", (8,), "layers.11.attention"),  # Qwen3, OLMo 2
        ("model.layers.2.post_attention_layernorm.weight", (32,), "layers.2.norm"),
        ("model.layers.2.mlp.experts.7.gate_proj.weight", (48, 32), "layers.2.mlp"),  # Qwen3 MoE
        ("model.layers.2.block_sparse_moe.gate.weight", (3, 32), "layers.2.mlp"),  # Mixtral
        ("transformer.h.4.ln_attn.weight", (32,), "layers.4.norm"),  # Falcon
        ("transformer.h.4.attn.c_attn.weight", (32, 96), "layers.4.attention"),
        ("model.decoder.layers.1.fc1.weight", (48, 32), "layers.1.mlp"),  # OPT
        ("layers.1.attention.wq.weight", (32, 32), "layers.1.attention"),
        ("layers.1.feed_forward.w1.weight", (48, 32), "layers.1.mlp"),
        ("model.layers.1.zeta.scale", (32,), "layers.1.norm"),  # unknown: a vector is taken for a norm
        ("model.layers.1.zeta.table", (32, 32), "layers.1.other"),
    ],
)
def test_names(name: str, shape: tuple[int, ...], group: str) -> None:
    assert Layout.of_shapes({name: shape}).group_of[name] == group


def test_depth_order_is_numeric_and_a_second_tower_keeps_its_path() -> None:
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (64, 32) for i in (10, 2, 0)}
    shapes |= {
        "lm_head.weight": (300, 32),
        "vision.layers.0.attn.weight": (8, 8),
        "model.embed_tokens.weight": (300, 32),
    }
    assert Layout.of_shapes(shapes).groups == (
        "embedding", "vision.layers.0.attention", "layers.0.mlp", "layers.2.mlp", "layers.10.mlp", "head",
    )  # fmt: skip


def info(*shape: int, dtype: str = "F32") -> TensorInfo:
    return TensorInfo(dtype, shape, Path("m"), 0, 0)


def test_what_is_computed_is_not_merged() -> None:
    layout = Layout.of(
        {
            "h.0.attention.masked_bias": info(),
            "h.0.attention.rotary_emb.inv_freq": info(4),
            "h.0.attention.bias": info(1, 1, 8, 8, dtype="BOOL"),
            "h.0.attention.dense.bias": info(32),
        }
    )
    assert layout.groups == ("layers.0.attention",)
    assert len(layout.constants) == 3


def test_a_tied_head_written_out_is_left_out() -> None:
    infos = {"model.embed_tokens.weight": info(300, 32), "lm_head.weight": info(300, 32)}
    assert list(without_tied_head(infos, {"tie_word_embeddings": True})) == ["model.embed_tokens.weight"]
    assert list(without_tied_head(infos, {"tie_word_embeddings": False})) == list(infos)
    assert list(without_tied_head(infos, {})) == list(infos)
