"""Which tensors of a model lie in which layer, before the layers and after them: by name. No torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.header import TensorInfo
from optimizer.merging.layout import Layout

_LAYER = re.compile(r"(.*?)\.(\d+)\.(.+)$")
#: groups of tensors outside the layers that follow them
_AFTER = ("other", "norm", "head")
#: what recipes call the part that is the language model itself
_MAIN = ("default", "text_decoder", "language_model", "text_model", "decoder")


@dataclass(frozen=True)
class Anatomy:
    """The depth of a model, or of a part of it.

    `main` is the path of the main stack ("model.layers"), `layers[i]` its layer i: full name by what follows the
    number. `before` leads from each tensor before them to its depth: 0, or the depth within a tower of its own; `after`
    are the tensors behind the layers. `group_of` is the layout's; constants are not in it.
    """

    main: str
    layers: tuple[Mapping[str, str], ...]
    before: Mapping[str, float]
    after: tuple[str, ...]
    group_of: Mapping[str, str]

    @classmethod
    def of(cls, infos: Mapping[str, TensorInfo]) -> "Anatomy":
        """The anatomy that headers show."""
        layout = Layout.of(infos)
        places = {name: found for name in infos if (found := _LAYER.match(name))}
        main = next((places[name][1] for name, group in layout.group_of.items() if group.startswith("layers.")), "")
        stacks: dict[str, dict[int, dict[str, str]]] = {}
        for name, place in places.items():
            stacks.setdefault(place[1], {}).setdefault(int(place[2]), {})[place[3]] = name
        own = stacks.pop(main, {})
        before = {n: 0.0 for n in infos if n not in places and layout.group_of.get(n) not in _AFTER}
        for stack in stacks.values():
            for index, layer in stack.items():
                before |= dict.fromkeys(layer.values(), depth(sorted(stack).index(index), len(stack)))
        after = tuple(name for name in infos if name not in places and name not in before)
        layers = tuple(own.get(index, {}) for index in range(max(own, default=-1) + 1))
        return cls(main, layers, before, after, layout.group_of)

    @property
    def heads(self) -> tuple[str, ...]:
        """The output projection's tensors; none where it is tied to the embedding."""
        return tuple(name for name in self.after if self.group_of.get(name) == "head")

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The embedding tensors."""
        return tuple(name for name in self.before if self.group_of.get(name) == "embedding")


def depth(index: int, count: int) -> float:
    """Where layer `index` of `count` reads a gradient: 0 … 1; one layer alone reads its end."""
    return index / (count - 1) if count > 1 else 1.0


def owned(
    names: Mapping[str, TensorInfo], modules: Mapping[str, object], where: str
) -> dict[str, dict[str, TensorInfo]]:
    """Which module of a recipe each tensor belongs to: the one that its path names, else the language model.

    Raises:
        RecipeError: a module without tensors, or a tensor without module.
    """
    rest = next((name for name in modules if name in _MAIN), None)
    found: dict[str, dict[str, TensorInfo]] = {module: {} for module in modules}
    for name, info in names.items():
        segments = name.split(".")
        module = next((module for module in modules if module in segments), rest)
        if module is None:
            raise RecipeError(
                f"{where}: tensor {name} belongs to none of the modules {', '.join(modules)}",
                mend="add a module `default:` for everything else",
            )
        found[module][name] = info
    if empty := [module for module, own in found.items() if not own]:
        outer = sorted({name.split(".")[0] for name in names})
        raise RecipeError(
            f"{where}: no tensor belongs to module {empty[0]!r}, the model has {', '.join(outer[:8])}",
            mend="call a module like a part of the tensors' names, or `default`",
        )
    return found


def is_main(module: str) -> bool:
    """Whether a module of that name is the language model."""
    return module == "" or module in _MAIN
