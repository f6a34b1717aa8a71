"""A mergekit recipe and its models → what happens to each tensor, from configs and headers alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from optimizer.errors import PoolError, RecipeError
from optimizer.merging.checkpoint.header import FLOATS
from optimizer.merging.checkpoint.models import ModelReference, open_model, resolve
from optimizer.merging.checkpoint.sink import TensorPlan
from optimizer.merging.checkpoint.source import DTYPE_NAMES, Reader, TensorSource
from optimizer.merging.mergekit.anatomy import Anatomy, depth, is_main, owned
from optimizer.merging.mergekit.config import merged_config
from optimizer.merging.mergekit.roles import roles, with_base
from optimizer.merging.mergekit.schema import MergekitRecipe, Module, Settings, Slice, Source, evaluate
from optimizer.merging.mergekit.wide import Wide
from optimizer.merging.mergekit.words import vocabulary_of
from optimizer.merging.methods.base import Case, Method, Parameter
from optimizer.merging.methods.registry import find_method
from optimizer.merging.plan import DTYPE_OF, Operand, Plan, Step, in_writing_order
from optimizer.merging.vocabulary.embeddings import Embeddings
from optimizer.merging.vocabulary.plan import Vocabulary

ALIGN = "add a block `tokenizer: {source: union}`, or {source: base} to drop what the base does not have"


@dataclass(frozen=True)
class PlanOptions:
    """What a recipe does not say: `seed` of the random masks, and folders of models that it calls by another
    document's name."""

    seed: int = 0
    stages: Mapping[str, Path] = field(default_factory=dict)

    def open(self, reference: ModelReference) -> Reader:
        """The model. Raises CheckpointError: it cannot be found or read safely."""
        return open_model(self._located(reference))

    def folder(self, reference: ModelReference) -> Path:
        """Where the model lies. Raises CheckpointError: nowhere."""
        return resolve(self._located(reference))

    def _located(self, reference: ModelReference) -> ModelReference:
        stage = self.stages.get(reference.path)
        own = reference if stage is None else replace(reference, path=str(stage))
        return own if own.lora is None else replace(own, lora=self._located(own.lora))


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
class Work:
    """A recipe with its models opened."""

    recipe: MergekitRecipe
    method: Method
    readers: Mapping[ModelReference, Reader]
    vocabulary: Vocabulary
    seed: int

    @property
    def donor(self) -> ModelReference:
        """Whose config the result takes over: the base, else the first model."""
        return next(iter(self.readers))

    def where(self, line: int) -> str:
        """File and line, as errors begin."""
        return f"{self.recipe.origin}, line {line}"


@dataclass(frozen=True)
class Part:
    """A module of the recipe over the tensors that belong to it."""

    name: str
    anatomies: Mapping[ModelReference, Anatomy]
    slices: tuple[Slice, ...]
    settings: tuple[Settings, ...]
    origins: tuple[tuple[ModelReference, int], ...] = field(default=())

    def of(self, source: Source) -> Anatomy:
        """The anatomy of a source's model."""
        return self.anatomies[source.model]


def plan_mergekit(recipe: MergekitRecipe, options: PlanOptions | None = None) -> Plan:
    """Open the models and decide about every tensor of the result.

    Tensors are known by their names: layers by the number in them, the rest by `Layout`. Layers are renumbered as
    slices say, and per-layer settings of the config with them. Arithmetic is in float32, or float64 if `dtype` says
    so; results are rounded once, to `out_dtype`, else `dtype`, else the dtype of the base (without one: of the first
    model). A tied head counts as a copy of the embedding where another model has a head of its own.

    Raises:
        RecipeError: layers that a model does not have, or a parameter that no filter gives to a tensor.
        PoolError: models that do not have the same tensors, or vocabularies of different size and no tokenizer block.
        CheckpointError: a model that cannot be read safely.
    """
    options = options or PlanOptions()
    readers = {reference: options.open(reference) for reference in recipe.references}
    for reference, reader in readers.items():
        _refuse_quantised(reference, reader)
    vocabulary = vocabulary_of(recipe, readers, options.folder)
    work = Work(recipe, find_method(recipe.merge_method), readers, vocabulary, options.seed)
    parts = tuple(_parts(work))
    steps = tuple(step for part in parts for step in _steps(work, part))
    _check_vocabulary(work, parts, steps)
    main = next((part for part in parts if is_main(part.name)), parts[0])
    config = merged_config(
        readers[work.donor].config,
        [(readers[reference].config, index) for reference, index in main.origins],
        len(main.anatomies[work.donor].layers),
        untied=any(_is_head(main, step.tensor.name) for step in steps),
    )
    return Plan(
        in_writing_order(steps),
        vocabulary.configure(config),
        vocabulary.companions,
        {str(reference): reader.folder for reference, reader in readers.items()},
        vocabulary.notes,
    )


def _refuse_quantised(reference: ModelReference, reader: Reader) -> None:
    odd = next((n for n, info in reader.infos.items() if info.dtype.startswith("F8")), None)
    if odd or reader.config.get("quantization_config"):
        found = f"tensor {odd} is in {reader.infos[odd].dtype}" if odd else "quantised weights"
        raise PoolError(f"{reference}: {found}; such weights cannot be merged", mend="give the unquantised checkpoint")


def _parts(work: Work) -> Iterator[Part]:
    """The modules with their slices; each has to fit the layers of its models."""
    recipe = work.recipe
    modules: Mapping[str, Module] = recipe.modules or {"": recipe.parts[0]}
    infos = {reference: reader.infos for reference, reader in work.readers.items()}
    by_model = {
        reference: owned(own, modules, str(reference)) if recipe.modules else {"": own}
        for reference, own in infos.items()
    }
    for name, module in modules.items():
        anatomies = {reference: Anatomy.of(own[name]) for reference, own in by_model.items()}
        slices = module.slices or (_whole(work, module, anatomies),)
        for piece in slices:
            _check_layers(work, piece, anatomies)
        origins = tuple(
            (piece.sources[0].model, index) for piece in slices for index in range(*piece.sources[0].layer_range)
        )
        if not is_main(name) and len(origins) != len(anatomies[work.donor].layers):
            raise RecipeError(
                f"{work.where(module.line)}: {len(origins)} layers of module {name!r} found, "
                f"{work.donor} has {len(anatomies[work.donor].layers)}",
                mend="only the language model's number of layers can change",
            )
        yield Part(name, anatomies, slices, (module.parameters, recipe.parameters), origins)


def _whole(work: Work, module: Module, anatomies: Mapping[ModelReference, Anatomy]) -> Slice:
    """The one slice that a `models:` list stands for."""
    inputs = with_base(module.models, work.recipe.base_model)
    counts = {entry.model: len(anatomies[entry.model].layers) for entry in inputs}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} in {reference}" for reference, count in counts.items())
        raise PoolError(
            f"{work.where(module.line)}: the models differ in their number of layers: {shown}",
            mend="say which layers to merge with which: write `slices:` instead of `models:`",
        )
    sources = tuple(Source(e.model, (0, counts[e.model]), e.parameters, e.line) for e in inputs)
    return Slice(sources, line=module.models[0].line)


def _check_layers(work: Work, piece: Slice, anatomies: Mapping[ModelReference, Anatomy]) -> None:
    for source in piece.sources:
        count = len(anatomies[source.model].layers)
        if source.layer_range[1] > count:
            raise RecipeError(
                f"{work.where(source.line)}: layers {list(source.layer_range)} of {source.model} found, "
                f"it has {count}: 0 … {count - 1}",
                mend=f"end at {count} or before",
            )


def _is_head(part: Part, name: str) -> bool:
    return any(name in anatomy.heads for anatomy in part.anatomies.values())


def _steps(work: Work, part: Part) -> Iterator[Step]:
    """All tensors of a part, in the order of depth."""
    first, last = part.slices[0], part.slices[-1]
    for place in _outer(part, first, before=True):
        yield _step(work, part, first, place)
    done = 0
    main = part.anatomies[work.donor].main
    for piece in part.slices:
        count = piece.sources[0].layer_range[1] - piece.sources[0].layer_range[0]
        for index in range(count):
            layers = [part.of(source).layers[source.layer_range[0] + index] for source in piece.sources]
            for rest in _ordered(layers):
                inputs = tuple(layer.get(rest) for layer in layers)
                place = Place(f"{main}.{done + index}.{rest}", depth(index, count), inputs)
                yield _step(work, part, piece, place)
        done += count
    for place in _outer(part, last, before=False):
        yield _step(work, part, last, place)


def _outer(part: Part, piece: Slice, *, before: bool) -> Iterator[Place]:
    """The tensors outside the layers. A head that only some models have is the others' embedding."""
    anatomies = [part.of(source) for source in piece.sources]
    sides: list[Sequence[str]] = [tuple(one.before) if before else one.after for one in anatomies]
    if not before:
        ends = {source.model for end in (part.slices[0], part.slices[-1]) for source in end.sources}
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
    tied = not anatomy.heads and len(anatomy.embeddings) > 0 and _is_head(part, name) and name.endswith("weight")
    return anatomy.embeddings[0] if tied else None


def _ordered(names: Sequence[Sequence[str] | Mapping[str, str]]) -> tuple[str, ...]:
    """All names, once each, in order of first appearance."""
    return tuple(dict.fromkeys(name for some in names for name in some))


def _step(work: Work, part: Part, piece: Slice, place: Place) -> Step:
    """How one tensor comes about."""
    recipe, method = work.recipe, work.method
    keys = _keys(piece.sources)
    lacking = [key for key, own in zip(keys, place.inputs, strict=True) if own is None]
    if lacking:
        having = next((key for key, own in zip(keys, place.inputs, strict=True) if own is not None), "another model")
        raise PoolError(
            f"{work.where(piece.line)}: tensor {place.name} is in {having}, not in {', '.join(lacking)}",
            mend="merge models of one architecture, and layers of one kind",
        )
    names = [own for own in place.inputs if own is not None]
    operands = [
        Operand(key, _read(work, source.model, own, place.name))
        for key, source, own in zip(keys, piece.sources, names, strict=True)
    ]
    base = piece.base_model or recipe.base_model
    root, merged = roles(method, base, piece.sources)
    lead = operands[root or 0]
    shape = lead.tensor.shape
    # of the file: rows that the vocabulary made up may come in a wider one
    own_dtype = work.readers[piece.sources[root or 0].model].infos[names[root or 0]].dtype
    if names[0] not in part.of(piece.sources[0]).group_of:
        return Step(TensorPlan(place.name, own_dtype, shape), lead)
    _check_shapes(work, piece, place, operands)
    wanted = recipe.out_dtype or recipe.dtype
    if recipe.dtype == "float64":
        operands = [Operand(own.owner, Wide(own.tensor)) for own in operands]
    return Step(
        TensorPlan(place.name, DTYPE_OF[wanted] if wanted else own_dtype, shape),
        None if root is None else operands[root],
        tuple(operands[i] for i in merged),
        method,
        _case(work, part, piece, place, merged, keys, shape),
    )


def _keys(sources: Sequence[Source]) -> tuple[str, ...]:
    """What each source is called: its reference, with a number from the second time on."""
    names = [str(source.model) for source in sources]
    return tuple(name if (n := names[: i + 1].count(name)) == 1 else f"{name}#{n}" for i, name in enumerate(names))


def _read(work: Work, model: ModelReference, name: str, wanted: str) -> TensorSource:
    """The model's tensor `name` for the result's `wanted`: rows that a tied head lacks come from the others' heads."""
    return work.vocabulary.operand(str(model), wanted, work.readers[model].tensor(name))


def _check_shapes(work: Work, piece: Slice, place: Place, operands: Sequence[Operand]) -> None:
    """Raises PoolError where the tensors cannot be combined number by number."""
    odd = next((own for own in operands if DTYPE_NAMES[own.tensor.dtype] not in FLOATS), None)
    if odd is not None:
        raise PoolError(f"tensor {place.name}: {DTYPE_NAMES[odd.tensor.dtype]} in {odd.owner}, expected floats")
    first = operands[0].tensor.shape
    if all(own.tensor.shape == first for own in operands):
        return
    shown = ", ".join(f"{list(own.tensor.shape)} in {own.owner}" for own in operands)
    names = {name for source in piece.sources for name in Embeddings.of(work.readers[source.model]).names}
    if place.name in names:
        raise PoolError(f"{work.where(piece.line)}: the vocabularies differ, {place.name} is {shown}", mend=ALIGN)
    raise PoolError(
        f"{work.where(piece.line)}: tensor {place.name} is {shown}", mend="merge models of one architecture and size"
    )


def _check_vocabulary(work: Work, parts: Sequence[Part], steps: Sequence[Step]) -> None:
    """Embedding and head of a stack of slices may come from models of different vocabularies: raises PoolError."""
    names = {name for reader in work.readers.values() for name in Embeddings.of(reader).names}
    rows = {step.tensor.name: step.tensor.shape[0] for step in steps if step.tensor.name in names}
    wanted = work.vocabulary.size
    if odd := [name for name, count in rows.items() if count != wanted]:
        raise PoolError(
            f"{work.recipe.origin}: the vocabularies differ, {odd[0]} has {rows[odd[0]]:,} rows, the config is "
            f"{work.donor}'s with {wanted:,}",
            mend=ALIGN,
        )


def _case(
    work: Work,
    part: Part,
    piece: Slice,
    place: Place,
    merged: Sequence[int],
    keys: Sequence[str],
    shape: tuple[int, ...],
) -> Case:
    """All parameters of one tensor. Filters see the result's name where a parameter is shared by the models, and each
    model's own where it is not."""
    above = (piece.parameters, *part.settings)
    shared: dict[str, float] = {}
    each: dict[str, tuple[float, ...]] = {}
    for row in work.method.parameters:
        if not row.per_model:
            shared[row.name] = _value(work, row, above, place.name, place.t, piece.line, "")
            continue
        each[row.name] = tuple(
            _value(
                work,
                row,
                (piece.sources[i].parameters, *above),
                place.seen(i),
                place.t,
                piece.sources[i].line,
                f" of {keys[i]}",
            )
            for i in merged
        )
    return Case(place.name, tuple(shape), tuple(keys[i] for i in merged), shared, each, work.seed)


def _value(
    work: Work, row: Parameter, levels: Sequence[Settings], tensor: str, t: float, line: int, whose: str
) -> float:
    """The first level that says something decides."""
    for level in levels:
        setting = level.get(row.name)
        value = None if setting is None else evaluate(setting, tensor, t, steps=row.boolean)
        if value is not None:
            return value
    if row.default is None:
        raise RecipeError(
            f"{work.where(line)}: no {row.name}{whose} for tensor {tensor}: no filter covers it",
            mend="end the list with `{value: …}`, for all other tensors",
        )
    return row.default
