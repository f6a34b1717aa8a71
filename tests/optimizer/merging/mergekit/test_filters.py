"""Substrings that tell tensors apart."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import RecipeError
from optimizer.merging.mergekit.filters import find_filters

NAMES = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.gate.weight",
    "model.layers.0.input_layernorm.weight",
    "model.norm.weight",
    "lm_head.weight",
)


def first(found: list[tuple[str | None, int]], name: str) -> int:
    return next(kind for word, kind in found if word is None or word in name)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=len(NAMES), max_size=len(NAMES)))
def test_any_grouping_is_told_apart_in_every_layer(kinds: list[int]) -> None:
    wanted = dict(zip(NAMES, kinds, strict=True))
    wanted |= {name.replace("layers.0", "layers.17"): kind for name, kind in wanted.items()}
    found = find_filters(wanted)
    assert {name: first(found, name) for name in wanted} == wanted
    assert [word for word, _ in found].count(None) == 1


def test_one_kind_needs_no_filter() -> None:
    assert find_filters(dict.fromkeys(NAMES, 5)) == [(None, 5)]


def test_components_are_told_apart_as_a_person_would() -> None:
    wanted = {name: ("attention" if "self_attn" in name else "mlp" if "mlp" in name else "rest") for name in NAMES}
    assert find_filters(wanted) in (
        [("self_attn", "attention"), ("mlp", "mlp"), (None, "rest")],
        [("mlp", "mlp"), ("self_attn", "attention"), (None, "rest")],
    )


def test_what_differs_by_layer_alone_is_refused() -> None:
    with pytest.raises(RecipeError, match="no filter tells it"):
        find_filters({"layers.0.a": 1, "layers.1.a": 2, "b": 1})
