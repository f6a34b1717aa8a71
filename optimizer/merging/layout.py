"""Which layer and component a tensor belongs to, read off names and shapes: no code an architecture. No torch."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.header import FLOATS, TensorInfo

COMPONENTS = ("attention", "mlp", "norm", "other")
ENDS = ("other", "norm", "head")

Rows = tuple[tuple[re.Pattern[str], str], ...]


@dataclass(frozen=True)
class Rules:
    """Which component a name means: (pattern, component) for tensors inside and outside the layers, and `constants`.

    The rules of `layouts.yaml` hold where no others are given.
    """

    layer: Rows
    outer: Rows
    constants: tuple[re.Pattern[str], ...]

    @classmethod
    def parse(cls, text: str) -> "Rules":
        """The rules in a YAML text of the form of layouts.yaml.

        Raises:
            RecipeError: another form, an unknown component, or a pattern that is none.
        """
        try:
            found = yaml.safe_load(text)
            layer = _rows(found["layer"], COMPONENTS)
            outer = _rows(found["outer"], ("embedding", *ENDS))
            return cls(layer, outer, tuple(re.compile(pattern) for pattern in found["constants"]))
        except (yaml.YAMLError, re.error, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecipeError(
                f"layout rules: {error}", mend="write them like optimizer/merging/layouts.yaml: component: pattern"
            ) from None

    def is_constant(self, name: str) -> bool:
        """The tensor is computed, not learnt."""
        return any(pattern.search(name) for pattern in self.constants)

    def component(self, rest: str, shape: tuple[int, ...]) -> str:
        """The component of a layer's tensor: by the layer's direct child, by the whole name, then by shape."""
        return _first(self.layer, (rest.split(".")[0], rest), shape)

    def end(self, name: str, shape: tuple[int, ...]) -> str:
        """The component of a tensor outside the layers."""
        return _first(self.outer, (name,), shape)


@cache
def shipped_rules() -> Rules:
    """The rules of layouts.yaml."""
    return Rules.parse(files("optimizer.merging").joinpath("layouts.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Layout:
    """Groups of tensors that share a coefficient.

    `groups` is in depth order: "embedding", "layers.0.attention", "layers.0.mlp", "layers.0.norm", …, "norm", "head".
    A part that a checkpoint lacks has no group: the head of a model with tied embeddings is in "embedding". A second
    tower keeps its path ("vision_tower.layers.0.mlp", "vision_tower.norm"), before the main stack. `group_of` leads
    from a tensor's name to its group; `constants` are tensors that are not merged but taken from the base (integers,
    rotary tables).
    """

    groups: tuple[str, ...]
    group_of: Mapping[str, str]
    constants: tuple[str, ...] = ()

    @classmethod
    def of(cls, infos: Mapping[str, TensorInfo], rules: Rules | None = None) -> "Layout":
        """The layout of a checkpoint from its headers; `rules`: others than the shipped ones."""
        rules = rules or shipped_rules()
        constants = tuple(n for n, info in infos.items() if info.dtype not in FLOATS or rules.is_constant(n))
        apart = set(constants)
        shapes = {name: info.shape for name, info in infos.items() if name not in apart}
        return cls.of_shapes(shapes, constants, rules)

    @classmethod
    def of_shapes(
        cls, shapes: Mapping[str, tuple[int, ...]], constants: Iterable[str] = (), rules: Rules | None = None
    ) -> "Layout":
        """The layout of named tensors of these shapes, all of them to be merged."""
        rules = rules or shipped_rules()
        places = {name: _place(name) for name in shapes}
        sizes: dict[str, int] = {}
        for name, place in places.items():
            if place.stack:
                sizes[place.stack] = sizes.get(place.stack, 0) + math.prod(shapes[name])
        main = max(sizes, key=lambda stack: sizes[stack], default="")
        towers = sorted({_tower(stack, main) for stack in sizes if stack != main})
        group_of: dict[str, str] = {}
        ranks: dict[str, tuple[int, str, int, int]] = {}
        for name, (stack, layer, rest) in places.items():
            tower = next((tower for tower in towers if name.startswith(f"{tower}.")), "")
            if stack:
                component = rules.component(rest, shapes[name])
                group = f"{'layers' if stack == main else stack}.{layer}.{component}"
                ranks[group] = (3 if stack == main else 1, stack, layer, COMPONENTS.index(component))
            else:
                component = rules.end(name.removeprefix(f"{tower}."), shapes[name])
                group = f"{tower}.{component}" if tower else component
                last = ENDS.index(component) if component in ENDS else -1
                ranks[group] = (1 if tower else 4, f"{tower}~", 0, last) if last >= 0 else (0, tower, 0, 0)
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
    layout = Layout.of(infos)
    embeddings = {infos[name].shape for name in layout.members("embedding")}
    return {n: info for n, info in infos.items() if layout.group_of.get(n) != "head" or info.shape not in embeddings}


class _Place(NamedTuple):
    """Of "model.layers.3.mlp.up.weight": the stack "model.layers", the layer 3, the rest "mlp.up.weight"."""

    stack: str
    layer: int
    rest: str


def _place(name: str) -> _Place:
    """Where a tensor stands; `stack` is empty outside numbered layers."""
    found = re.match(r"(.*?)\.(\d{1,6})\.(.+)$", name)
    return _Place(found[1], int(found[2]), found[3]) if found else _Place("", 0, "")


def _tower(stack: str, main: str) -> str:
    """The part of a second stack's path in which it leaves the main one's: "model.vision_tower"."""
    own, other = stack.split("."), main.split(".")
    shared = next((i for i, pair in enumerate(zip(own, other, strict=False)) if pair[0] != pair[1]), len(own) - 1)
    return ".".join(own[: shared + 1])


def _rows(found: Any, components: Iterable[str]) -> Rows:
    pairs = [(component, pattern) for row in found for component, pattern in row.items()]
    if odd := [component for component, _ in pairs if component not in components]:
        raise ValueError(f"component {odd[0]!r} found, expected one of {', '.join(components)}")
    return tuple((re.compile(pattern, re.IGNORECASE), component) for component, pattern in pairs)


def _first(rows: Rows, texts: Iterable[str], shape: tuple[int, ...]) -> str:
    for text in texts:
        for pattern, component in rows:
            if pattern.search(text):
                return component
    # vectors that nothing else claims scale or shift activations, which is what norms do
    return "norm" if len(shape) == 1 else "other"
