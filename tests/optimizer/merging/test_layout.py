"""Layers and components of every promised family, read off names and shapes."""

from pathlib import Path

import pytest

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.header import TensorInfo, read_headers
from optimizer.merging.layout import Layout, Rules, without_tied_head
from tests.optimizer.merging.pools import FAMILIES, make_model

TIED = {"llama tied", "qwen3", "gemma2", "gemma3"}
#: components of each layer, and what follows the layers, of the families that are built otherwise
FULL, SLIM = ("attention", "mlp", "norm"), ("norm", "other")
OTHERS = {
    "gpt2": (FULL, ("norm",)),
    "gpt-j": (FULL, ("norm", "head")),
    "gpt-bigcode": (FULL, ("norm",)),
    "falcon": (FULL, ("norm",)),
    "bloom": (FULL, ("norm",)),
    "opt": (FULL, ("other", "norm")),
    "mpt": (FULL, ("norm",)),
    "phi": (FULL, ("norm", "head")),
    "cohere": (FULL, ("norm",)),
    "starcoder2": (FULL, ("norm",)),
    "gpt-oss": (FULL, ("norm", "head")),
    "mamba": (SLIM, ("norm",)),
    "rwkv": (FULL, ("norm", "head")),
}


def layers(components: tuple[str, ...], stack: str = "layers") -> list[str]:
    return [f"{stack}.{i}.{component}" for i in range(2) for component in components]


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_of_every_family(family: str, tmp_path: Path) -> None:
    layout = Layout.of(read_headers(make_model(tmp_path / "m", 0, family)))
    assert layout.groups == ("embedding", *layers(FULL), "norm", *(() if family in TIED else ("head",)))
    assert layout.layers == 2
    assert layout.constants == ()
    for name, group in layout.group_of.items():
        if ".layers." in name:
            assert group.startswith(f"layers.{name.split('.layers.')[1][0]}."), name


@pytest.mark.parametrize("family", OTHERS)
def test_groups_of_families_that_are_built_otherwise(family: str, tmp_path: Path) -> None:
    layout = Layout.of(read_headers(make_model(tmp_path / "m", 0, family)))
    components, after = OTHERS[family]
    assert layout.groups == ("embedding", *layers(components), *after)


def test_a_model_with_eyes(tmp_path: Path) -> None:
    """The second tower is kept apart, its embeddings and norms included; what joins the two is "other"."""
    infos = read_headers(make_model(tmp_path / "m", 0, "gemma3 with eyes"))
    eyes = "vision_tower"
    expected = (
        "embedding", f"{eyes}.embedding", *layers(FULL, f"{eyes}.encoder.layers"), f"{eyes}.norm", f"{eyes}.head",
        *layers(FULL), "other", "norm",
    )  # fmt: skip
    layout = Layout.of(infos)
    assert layout.groups == expected
    assert layout.members("embedding") == ("language_model.model.embed_tokens.weight",)
    assert all(name.startswith("multi_modal_projector.") for name in layout.members("other"))
    newer = {f"model.{n.replace('language_model.model', 'language_model')}": info for n, info in infos.items()}
    assert Layout.of(newer).groups == tuple(group.replace(eyes, f"model.{eyes}") for group in expected)
    assert without_tied_head(infos, {"tie_word_embeddings": True}) == infos


def test_experts(tmp_path: Path) -> None:
    """Of every kind: one tensor an expert, fused ones, routers, shared experts."""
    found = {name: read_headers(make_model(tmp_path / name, 0, name)) for name in ("mixtral", "qwen3-moe", "gpt-oss")}
    experts = {
        "mixtral": "model.layers.1.block_sparse_moe.experts.2.w1.weight",
        "qwen3-moe": "model.layers.1.mlp.experts.2.gate_proj.weight",
        "gpt-oss": "model.layers.1.mlp.experts.gate_up_proj",  # [experts, in, out]
    }
    for family, name in experts.items():
        assert Layout.of(found[family]).group_of[name] == "layers.1.mlp"
    assert len(found["gpt-oss"][experts["gpt-oss"]].shape) == 3


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
        ("h.3.attn.c_attn.weight", (32, 96), "layers.3.attention"),  # GPT-2 as it was published
        ("transformer.h.1.attn.attention.q_proj.weight", (32, 32), "layers.1.attention"),  # GPT-Neo
        ("transformer.blocks.1.ffn.up_proj.weight", (48, 32), "layers.1.mlp"),  # MPT
        ("word_embeddings_layernorm.weight", (32,), "embedding"),  # BLOOM
        ("shared.weight", (300, 32), "embedding"),  # T5
        ("model.layers.3.mlp.gate.e_score_correction_bias", (8,), "layers.3.mlp"),  # DeepSeek V3
        ("model.layers.3.self_attn.kv_a_layernorm.weight", (8,), "layers.3.attention"),
        ("model.layers.3.linear_attn.A_log", (8,), "layers.3.attention"),  # Qwen3-Next
        ("model.layers.3.mlp.shared_expert_gate.weight", (1, 32), "layers.3.mlp"),
        ("model.layers.3.mlp.experts.gate_up_proj", (4, 32, 96), "layers.3.mlp"),  # fused
        ("backbone.layers.3.mixer.A_log", (8,), "layers.3.other"),  # Mamba
        ("backbone.layers.3.mixer.D", (8,), "layers.3.other"),
        ("backbone.layers.3.mixer.q_proj.weight", (32, 32), "layers.3.attention"),  # Nemotron-H
        ("backbone.layers.3.mixer.up_proj.weight", (48, 32), "layers.3.mlp"),
        ("model.layers.99999999999999999999.mlp.up_proj.weight", (48, 32), "other"),
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


RULES = """
layer: [{other: ^zeta}, {attention: heed}, {mlp: think}]
outer: [{head: speak}, {embedding: hear}]
constants: [^clock]
"""


def test_a_rule_in_data_for_the_odd_one() -> None:
    infos = {name: info(8, 8) for name in ("hear", "x.0.heed.w", "x.0.think.w", "x.0.zeta.heed", "speak", "clock")}
    layout = Layout.of(infos, Rules.parse(RULES))
    assert layout.groups == ("embedding", "layers.0.attention", "layers.0.mlp", "layers.0.other", "head")
    assert layout.constants == ("clock",)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "layer: 3", RULES.replace("mlp", "thought"), RULES.replace("heed", "'('"), "layer: [[a]]",
        RULES.replace("constants", "constant"), "!!python/object/apply:os.getcwd []", "layer: [", "a: &a [*a]",
    ],
)  # fmt: skip
def test_rules_that_are_none(text: str) -> None:
    with pytest.raises(RecipeError, match="layout rules"):
        Rules.parse(text)
