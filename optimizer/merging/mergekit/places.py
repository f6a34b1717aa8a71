"""Which tensors a merge has, and which tensor of which model goes into each: by name, no weight is read. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from optimizer.errors import PoolError, RecipeError
from optimizer.merging.checkpoint.header import TensorInfo
from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.mergekit.anatomy import Anatomy, depth, is_main, owned
from optimizer.merging.mergekit.schema import MergekitRecipe, Module, Settings, Slice, Source, with_base


class Place(NamedTuple):
    """One tensor of the result: its name, its depth in the slice, and the name of the input in every source of the
    slice (None: the source has none). `outer`: it is in no layer."""

    name: str
    t: float
    inputs: tuple[str | None, ...]
    outer: bool = False

    def seen(self, source: int) -> str:
        """The name by which filters know the input: a layer's number is the model's own."""
        return self.name if self.outer else self.inputs[source] or self.name


@dataclass(frozen=True)
class Part:
    """A module of the recipe over the tensors that belong to it.

    `tail` is what makes the tensors behind the layers. `settings` are the module's own and the recipe's, `donor` is the
    model whose names and config the result takes over.
    """

    name: str
    anatomies: Mapping[ModelReference, Anatomy]
    slices: tuple[Slice, ...]
    tail: Slice
    settings: tuple[Settings, ...]
    donor: ModelReference

    @property
    def origins(self) -> tuple[tuple[ModelReference, int], ...]:
        """Model and layer that each layer of the result comes from; of several, the first source's."""
        sources = [piece.sources[0] for piece in self.slices]
        return tuple((source.model, index) for source in sources for index in range(*source.layer_range))

    @property
    def note(self) -> str | None:
        """What the recipe's author may not expect of the tail."""
        left = self.slices[-1].sources[len(self.tail.sources) :]
        if not left:
            return None
        names = ", ".join(str(source.model) for source in left)
        return (
            f"final norm and head are merged without {names}: as in mergekit, they take as many sources of the last "
            f"slice as the first one has ({len(self.tail.sources)})"
        )

    def has_head(self, name: str) -> bool:
        """Whether it is the name of an output projection in some model."""
        return any(name in anatomy.heads for anatomy in self.anatomies.values())

    def of(self, source: Source) -> Anatomy:
        """The anatomy of a source's model."""
        return self.anatomies[source.model]


def parts_of(
    recipe: MergekitRecipe, infos: Mapping[ModelReference, Mapping[str, TensorInfo]], donor: ModelReference
) -> Iterator[Part]:
    """The modules with their slices; a recipe without modules is one.

    Raises:
        RecipeError: layers that a model does not have, or modules that do not fit the models.
        PoolError: models of different depth under `models:`.
    """
    modules: Mapping[str, Module] = recipe.modules or {"": recipe.parts[0]}
    by_model = {
        reference: owned(own, modules, str(reference)) if recipe.modules else {"": own}
        for reference, own in infos.items()
    }
    for name, module in modules.items():
        anatomies = {reference: Anatomy.of(own[name]) for reference, own in by_model.items()}
        slices = module.slices or (_whole(recipe, module, anatomies),)
        for piece in slices:
            _check_layers(recipe, piece, anatomies)
        part = Part(name, anatomies, slices, _tail(recipe, slices), (module.parameters, recipe.parameters), donor)
        if not is_main(name) and len(part.origins) != len(anatomies[donor].layers):
            raise RecipeError(
                f"{recipe.at(module.line)}: {len(part.origins)} layers of module {name!r} found, "
                f"{donor} has {len(anatomies[donor].layers)}",
                mend="only the language model's number of layers can change",
            )
        yield part


def _tail(recipe: MergekitRecipe, slices: Sequence[Slice]) -> Slice:
    """The last slice, but with no more sources than the first has: mergekit 0.1.5 leaves the others out of the final
    norm and the head. Where that would leave out the base, on which mergekit stops, all of them stay."""
    last, count = slices[-1], len(slices[0].sources)
    base = last.base_model or recipe.base_model
    if any(source.model == base for source in last.sources[count:]):
        return last
    return replace(last, sources=last.sources[:count])


def _whole(recipe: MergekitRecipe, module: Module, anatomies: Mapping[ModelReference, Anatomy]) -> Slice:
    """The one slice that a `models:` list stands for."""
    inputs = with_base(module.models, recipe.base_model)
    counts = {entry.model: len(anatomies[entry.model].layers) for entry in inputs}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} in {reference}" for reference, count in counts.items())
        raise PoolError(
            f"{recipe.at(module.line)}: the models differ in their number of layers: {shown}",
            mend="say which layers to merge with which: write `slices:` instead of `models:`",
        )
    sources = tuple(Source(e.model, (0, counts[e.model]), e.parameters, e.line) for e in inputs)
    return Slice(sources, line=module.models[0].line)


def _check_layers(recipe: MergekitRecipe, piece: Slice, anatomies: Mapping[ModelReference, Anatomy]) -> None:
    for source in piece.sources:
        count = len(anatomies[source.model].layers)
        if source.layer_range[1] > count:
            raise RecipeError(
                f"{recipe.at(source.line)}: layers {list(source.layer_range)} of {source.model} found, "
                f"it has {count}: 0 … {count - 1}",
                mend=f"end at {count} or before",
            )


def places_of(part: Part) -> Iterator[tuple[Slice, Place]]:
    """All tensors of a part in the order of depth, each with the slice that it belongs to.

    Those before the layers belong to the first slice, those behind them to the tail.
    """
    for place in _outer(part, part.slices[0], before=True):
        yield part.slices[0], place
    done, main = 0, part.anatomies[part.donor].main
    for piece in part.slices:
        begin, end = piece.sources[0].layer_range
        for index in range(end - begin):
            layers = [part.of(source).layers[source.layer_range[0] + index] for source in piece.sources]
            for rest in _ordered(layers):
                inputs = tuple(layer.get(rest) for layer in layers)
                yield piece, Place(f"{main}.{done + index}.{rest}", depth(index, end - begin), inputs)
        done += end - begin
    for place in _outer(part, part.tail, before=False):
        yield part.tail, place


def _outer(part: Part, piece: Slice, *, before: bool) -> Iterator[Place]:
    """The tensors outside the layers. A head that only some models have is the others' embedding."""
    anatomies = [part.of(source) for source in piece.sources]
    sides: list[Sequence[str]] = [tuple(one.before) if before else one.after for one in anatomies]
    if not before:
        ends = {source.model for end in (part.slices[0], part.tail) for source in end.sources}
        sides += [part.anatomies[reference].heads for reference in part.anatomies if reference in ends]
    for name in _ordered(sides):
        inputs = tuple(
            name if name in side else _stand_in(part, name, one) if not before else None
            for side, one in zip(sides, anatomies, strict=False)
        )
        t = max((one.before.get(name, 0.0) for one in anatomies), default=0.0) if before else 0.0
        yield Place(name, t, inputs, outer=True)


def _stand_in(part: Part, name: str, anatomy: Anatomy) -> str | None:
    """The embedding, for a model that ties its head to it and has none in its files."""
    tied = not anatomy.heads and len(anatomy.embeddings) > 0 and part.has_head(name) and name.endswith("weight")
    return anatomy.embeddings[0] if tied else None


def _ordered(names: Sequence[Sequence[str] | Mapping[str, str]]) -> tuple[str, ...]:
    """All names, once each, in order of first appearance."""
    return tuple(dict.fromkeys(name for some in names for name in some))
