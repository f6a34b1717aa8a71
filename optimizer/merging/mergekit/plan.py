"""A mergekit recipe and its models → what happens to each tensor, from configs and headers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from optimizer.errors import PoolError, RecipeError
from optimizer.merging.checkpoint.header import FLOATS
from optimizer.merging.checkpoint.models import ModelReference, open_model, resolve
from optimizer.merging.checkpoint.sink import TensorPlan
from optimizer.merging.checkpoint.source import DTYPE_NAMES, Reader, TensorSource
from optimizer.merging.mergekit.anatomy import is_main
from optimizer.merging.mergekit.config import merged_config
from optimizer.merging.mergekit.places import Part, Place, parts_of, places_of
from optimizer.merging.mergekit.roles import roles
from optimizer.merging.mergekit.schema import MergekitRecipe, Settings, Slice, Source, evaluate
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


@dataclass(frozen=True)
class Work:
    """A recipe with its models opened."""

    recipe: MergekitRecipe
    method: Method
    readers: Mapping[ModelReference, Reader]
    vocabulary: Vocabulary
    seed: int


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
    vocabulary = vocabulary_of(recipe, readers, options.folder)
    work = Work(recipe, find_method(recipe.merge_method), readers, vocabulary, options.seed)
    donor = next(iter(readers))
    parts = tuple(parts_of(recipe, {reference: reader.infos for reference, reader in readers.items()}, donor))
    steps = tuple(_step(work, part, piece, place) for part in parts for piece, place in places_of(part))
    _check_vocabulary(work, donor, steps)
    main = next((part for part in parts if is_main(part.name)), parts[0])
    config = merged_config(
        readers[donor].config,
        [(readers[reference].config, index) for reference, index in main.origins],
        len(main.anatomies[donor].layers),
        untied=any(main.has_head(step.tensor.name) for step in steps),
    )
    return Plan(
        in_writing_order(steps),
        vocabulary.configure(config),
        vocabulary.companions,
        {str(reference): reader.folder for reference, reader in readers.items()},
        (*vocabulary.notes, *(part.note for part in parts if part.note)),
    )


def _step(work: Work, part: Part, piece: Slice, place: Place) -> Step:
    """How one tensor comes about."""
    recipe, method = work.recipe, work.method
    keys = _keys(piece.sources)
    lacking = [key for key, own in zip(keys, place.inputs, strict=True) if own is None]
    if lacking:
        having = next((key for key, own in zip(keys, place.inputs, strict=True) if own is not None), "another model")
        raise PoolError(
            f"{work.recipe.at(piece.line)}: tensor {place.name} is in {having}, not in {', '.join(lacking)}",
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
        _case(work, part, piece, place, merged, shape),
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
        raise PoolError(f"{work.recipe.at(piece.line)}: the vocabularies differ, {place.name} is {shown}", mend=ALIGN)
    raise PoolError(
        f"{work.recipe.at(piece.line)}: tensor {place.name} is {shown}",
        mend="merge models of one architecture and size",
    )


def _check_vocabulary(work: Work, donor: ModelReference, steps: Sequence[Step]) -> None:
    """Embedding and head of a stack of slices may come from models of different vocabularies: raises PoolError."""
    names = {name for reader in work.readers.values() for name in Embeddings.of(reader).names}
    rows = {step.tensor.name: step.tensor.shape[0] for step in steps if step.tensor.name in names}
    wanted = work.vocabulary.size
    if odd := [name for name, count in rows.items() if count != wanted]:
        raise PoolError(
            f"{work.recipe.origin}: the vocabularies differ, {odd[0]} has {rows[odd[0]]:,} rows, the config is "
            f"{donor}'s with {wanted:,}",
            mend=ALIGN,
        )


def _case(work: Work, part: Part, piece: Slice, place: Place, merged: Sequence[int], shape: tuple[int, ...]) -> Case:
    """All parameters of one tensor. Filters see the result's name where a parameter is shared by the models, and each
    model's own where it is not."""
    keys = _keys(piece.sources)
    above = (piece.parameters, *part.settings)

    def value(row: Parameter, levels: Sequence[Settings], tensor: str, line: int) -> float:
        found = _value(row, levels, tensor, place.t)
        if found is None:
            raise RecipeError(
                f"{work.recipe.at(line)}: no {row.name} for tensor {tensor}: no filter covers it",
                mend="end the list with `{value: …}`, for all other tensors",
            )
        return found

    shared: dict[str, float] = {}
    each: dict[str, tuple[float, ...]] = {}
    for row in work.method.parameters:
        if row.per_model:
            sources = [(i, piece.sources[i]) for i in merged]
            each[row.name] = tuple(
                value(row, (source.parameters, *above), place.seen(i), source.line) for i, source in sources
            )
        else:
            shared[row.name] = value(row, above, place.name, piece.line)
    return Case(place.name, tuple(shape), tuple(keys[i] for i in merged), shared, each, work.seed)


def _value(row: Parameter, levels: Sequence[Settings], tensor: str, t: float) -> float | None:
    """What the first level says that says something, else the default."""
    for level in levels:
        setting = level.get(row.name)
        if setting is not None and (found := evaluate(setting, tensor, t, steps=row.boolean)) is not None:
            return found
    return row.default
