"""Which layer and component a tensor belongs to, read off names and shapes: no code an architecture. No torch."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optimizer.merging.checkpoint.header import FLOATS, TensorInfo

#: (pattern, component): the first row that is found in the name of a layer's child decides. Norms come first, since
#: they are called after their neighbours (post_attention_layernorm, ln_attn).
LAYER_RULES: tuple[tuple[str, str], ...] = (
    (r"norm|(^|_)ln(_|\d|$)", "norm"),
    (r"attn|attention|(^|_)(q|k|v|o|qkv)_proj|^wqkv|^rotary", "attention"),
    (
        r"mlp|ffn|feed_?forward|moe|expert|router|^fc_?\d|^w\d|(gate|up|down)(_up)?_proj|dense|intermediate|^output",
        "mlp",
    ),
)
#: the same for tensors outside the layers; GPT-NeoX calls its head "embed_out"
OUTER_RULES: tuple[tuple[str, str], ...] = (
    (r"lm_head|embed_out|output_projection|(^|\.)(output|score|classifier|head)\.", "head"),
    (r"embed|(^|\.)wte|(^|\.)wpe", "embedding"),
    (r"norm|(^|[._])ln(_|\d|\.|$)", "norm"),
)
#: written into checkpoints by old versions of transformers; computed, not learnt
CONSTANTS = re.compile(r"rotary_emb\.|inv_freq$|\.masked_bias$|\.attn\.bias$|position_ids$")

_COMPONENTS = ("attention", "mlp", "norm", "other")
_ENDS = ("other", "norm", "head")


@dataclass(frozen=True)
class Layout:
    """Groups of tensors that share a coefficient.

    `groups` is in depth order: "embedding", "layers.0.attention", "layers.0.mlp", "layers.0.norm", …, "norm", "head".
    A part that a checkpoint lacks has no group: the head of a model with tied embeddings is in "embedding". A second
    tower keeps its path ("vision_tower.layers.0.mlp"), before the main stack. `group_of` leads from a tensor's name
    to its group; `constants` are tensors that are not merged but taken from the base (integers, rotary tables).
    """

    groups: tuple[str, ...]
    group_of: Mapping[str, str]
    constants: tuple[str, ...] = ()

    @classmethod
    def of(cls, infos: Mapping[str, TensorInfo]) -> "Layout":
        """The layout of a checkpoint from its headers."""
        constants = tuple(n for n, info in infos.items() if info.dtype not in FLOATS or CONSTANTS.search(n))
        apart = set(constants)
        shapes = {name: info.shape for name, info in infos.items() if name not in apart}
        return cls.of_shapes(shapes, constants)

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]], constants: Iterable[str] = ()) -> "Layout":
        """The layout of named tensors of these shapes, all of them to be merged."""
        places = {name: _place(name) for name in shapes}
        sizes: dict[str, int] = {}
        for name, (stack, _, _) in places.items():
            if stack:
                sizes[stack] = sizes.get(stack, 0) + math.prod(shapes[name])
        main = max(sizes, key=lambda stack: sizes[stack], default="")
        group_of: dict[str, str] = {}
        ranks: dict[str, tuple[int, str, int, int]] = {}
        for name, (stack, index, rest) in places.items():
            if stack:
                component = _component(rest, shapes[name], LAYER_RULES)
                group = f"{'layers' if stack == main else stack}.{index}.{component}"
                ranks[group] = (2 if stack == main else 1, stack, index, _COMPONENTS.index(component))
            else:
                group = _component(name, shapes[name], OUTER_RULES)
                ranks[group] = (3, "", 0, _ENDS.index(group)) if group in _ENDS else (0, "", 0, 0)
            group_of[name] = group
        return cls(tuple(sorted(ranks, key=lambda group: ranks[group])), group_of, tuple(constants))

    @property
    def layers(self) -> int:
        """Number of layers in the main stack."""
        return len({group.split(".")[1] for group in self.groups if group.startswith("layers.")})

    def members(self, group: str) -> tuple[str, ...]:
        """Names of the tensors of `group`."""
        return tuple(name for name, own in self.group_of.items() if own == group)


def without_tied_head(infos: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """The tensors less a head that is only written out a second time: the config ties it to the embedding.

    Loaders ignore such a head; some fine-tuning tools write it, others do not.
    """
    if config.get("tie_word_embeddings") is not True:
        return dict(infos)
    outer = {name: _component(name, info.shape, OUTER_RULES) for name, info in infos.items() if not _place(name)[0]}
    embeddings = {infos[name].shape for name, component in outer.items() if component == "embedding"}
    return {n: info for n, info in infos.items() if outer.get(n) != "head" or info.shape not in embeddings}


def _place(name: str) -> tuple[str, int, str]:
    """("model.layers", 3, "mlp.experts.0.w1.weight") from the full name; ("", 0, "") outside numbered layers."""
    if found := re.match(r"(.*?)\.(\d+)\.(.+)$", name):
        return found[1], int(found[2]), found[3]
    return "", 0, ""


def _component(name: str, shape: tuple[int, ...], rules: tuple[tuple[str, str], ...]) -> str:
    """The component that the rules give: by the layer's direct child, by the whole name, then by shape."""
    child = name.split(".")[0] if rules is LAYER_RULES else name
    for text in (child, name):
        for pattern, component in rules:
            if re.search(pattern, text, re.IGNORECASE):
                return component
    # vectors that nothing else claims scale or shift activations, which is what norms do
    return "norm" if len(shape) == 1 else "other"
