"""mergekit's recipe files, read and checked as far as that goes without the models."""

from optimizer.merging.mergekit.document import Cursor, read_documents
from optimizer.merging.mergekit.references import read_reference
from optimizer.merging.mergekit.roles import check_part
from optimizer.merging.mergekit.schema import InputModel, MergekitRecipe, Module, Slice, Source
from optimizer.merging.mergekit.settings import read_settings
from optimizer.merging.mergekit.tokenizer import read_source, read_tokenizer
from optimizer.merging.methods.base import Method
from optimizer.merging.methods.registry import METHODS
from optimizer.merging.plan import DTYPE_OF

KEYS = (
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "name",
)  # fmt: skip
INPUTS = ("models", "slices", "modules")


def is_mergekit(text: str, origin: str = "recipe") -> bool:
    """Whether the text is mergekit's format rather than Temper's own (`method`).

    Raises:
        RecipeError: not YAML, or neither of the two.
    """
    first = read_documents(text, origin)[0]
    if not isinstance(first.value, dict) or not {"merge_method", "method"} & first.value.keys():
        raise first.error("no merge_method found", "give `merge_method:` (mergekit's format) or `method:` (Temper's)")
    return "merge_method" in first.value


def read_mergekit(text: str, origin: str = "recipe") -> tuple[MergekitRecipe, ...]:
    """The recipes in a file, one a document; `origin` names the file in errors.

    Raises:
        RecipeError: with file, line, key, what was found and what was expected: not plain YAML, an unknown key, method
            or parameter, a missing or ill-typed value, one outside its range, models that are too few or too many,
            slices of unequal length, several documents of which two have one name or two have none.
    """
    documents = read_documents(text, origin)
    recipes = tuple(_recipe(document) for document in documents)
    names: set[str | None] = set()
    for document, recipe in zip(documents, recipes, strict=True):
        if recipe.name in names:
            found = "no name" if recipe.name is None else f"the name {recipe.name!r}"
            raise document.error(
                f"two documents with {found}",
                "give each document a `name` of its own; only the one that makes the result may go without",
            )
        names.add(recipe.name)
    return recipes


def _recipe(document: Cursor) -> MergekitRecipe:
    fields = _top_level(document)
    method = METHODS[fields["merge_method"].choice(METHODS)]
    base = read_reference(fields["base_model"]) if "base_model" in fields else None
    above = read_settings(fields.get("parameters"), method)
    whole, modules = Module(), {}
    if "modules" in fields:
        modules = {name: _module(entry, method) for name, entry in fields["modules"].entries().items()}
    else:
        whole = _inputs(document, fields, method)
    for name, part in modules.items() or [("", whole)]:
        check_part(method, base, part, above, fields["modules"].entries()[name] if name else document)
    return MergekitRecipe(
        method.name,
        base,
        whole.models,
        whole.slices,
        modules,
        above,
        fields["dtype"].choice(DTYPE_OF) if "dtype" in fields else None,
        fields["out_dtype"].choice(DTYPE_OF) if "out_dtype" in fields else None,
        read_source(fields["tokenizer_source"]) if "tokenizer_source" in fields else None,
        read_tokenizer(fields["tokenizer"]) if "tokenizer" in fields else None,
        fields["chat_template"].word() if "chat_template" in fields else None,
        fields["name"].word() if "name" in fields else None,
        document.line,
        document.origin,
    )


def _top_level(document: Cursor) -> dict[str, Cursor]:
    """The document's entries, those that are empty left out; what must and must not stand together is checked."""
    entries = document.entries()
    for key in entries.keys() - set(KEYS):
        if any(method.parameter(key) for method in METHODS.values()):
            raise entries[key].error(f"unknown key {key!r}", f"{key} is a parameter: write it under `parameters:`")
    # an empty block asks for a tokenizer all the same, by its defaults
    fields = {k: entry for k, entry in document.fields(KEYS).items() if k == "tokenizer" or entry.value not in ([], {})}
    if "merge_method" not in fields:
        raise document.error("no merge_method found", f"add `merge_method:`, one of {', '.join(METHODS)}")
    given = [key for key in INPUTS if key in fields]
    if len(given) != 1:
        place = fields[given[1]] if given else document
        raise place.error(f"{' and '.join(given) or 'none'} found, expected exactly one of {', '.join(INPUTS)}")
    if "tokenizer" in fields and "tokenizer_source" in fields:
        raise fields["tokenizer"].error(
            "found beside tokenizer_source, expected one of them", "write the source as `tokenizer: {source: …}`"
        )
    return fields


def _module(place: Cursor, method: Method) -> Module:
    fields = place.fields(("models", "slices", "parameters"))
    if ("models" in fields) == ("slices" in fields):
        found = "models and slices" if "models" in fields else "none"
        raise place.error(f"{found} found, expected exactly one of models, slices")
    return _inputs(place, fields, method)


def _inputs(place: Cursor, fields: dict[str, Cursor], method: Method) -> Module:
    """The models or slices. A module has parameters of its own, in a document they are the recipe's."""
    own = read_settings(fields.get("parameters"), method) if place.path else {}
    if "models" in fields:
        return Module(tuple(_model(item, method) for item in fields["models"].items()), (), own, place.line)
    return Module((), tuple(_slice(item, method) for item in fields["slices"].items()), own, place.line)


def _model(place: Cursor, method: Method) -> InputModel:
    entries = place.entries()
    if "layer_range" in entries and entries["layer_range"].value is not None:
        raise entries["layer_range"].error("found under models", "write the layers as `slices: [{sources: […]}]`")
    fields = place.fields(("model", "parameters", "layer_range"))
    if "model" not in fields:
        raise place.error("no model found, expected {model: …, parameters: …}")
    settings = read_settings(fields.get("parameters"), method, of_model=True)
    return InputModel(read_reference(fields["model"]), settings, place.line)


def _slice(place: Cursor, method: Method) -> Slice:
    fields = place.fields(("sources", "base_model", "parameters", "residual_weight"))
    if "residual_weight" in fields:
        raise fields["residual_weight"].error(
            "residual_weight has no effect in mergekit",
            "leave it out; to weaken a block, set `scale` of its o_proj and down_proj with passthrough",
        )
    if "sources" not in fields:
        raise place.error("no sources found, expected a list of {model: …, layer_range: [first, end]}")
    sources = tuple(_source(item, method) for item in fields["sources"].items())
    lengths = [source.layer_range[1] - source.layer_range[0] for source in sources]
    for source, item, length in zip(sources, fields["sources"].items(), lengths, strict=True):
        if length != lengths[0]:
            raise item.error(
                f"{length} layers of {source.model} found, {lengths[0]} of {sources[0].model} in line "
                f"{sources[0].line}: all sources of a slice are equally long",
                "cut the slice where the ranges differ",
            )
    base = read_reference(fields["base_model"]) if "base_model" in fields else None
    return Slice(sources, base, read_settings(fields.get("parameters"), method), place.line)


def _source(place: Cursor, method: Method) -> Source:
    fields = place.fields(("model", "layer_range", "parameters"))
    if "model" not in fields or "layer_range" not in fields:
        raise place.error("expected {model: …, layer_range: [first, end]}")
    model, ends = read_reference(fields["model"]), fields["layer_range"].items()
    if len(ends) != 2:
        raise fields["layer_range"].error(f"{len(ends)} numbers found, expected [first, end]")
    begin, end = (number.whole(0) for number in ends)
    if begin >= end:
        raise fields["layer_range"].error(
            f"[{begin}, {end}] has no layer", f"the end is not included: [{begin}, {begin + 1}] is layer {begin}"
        )
    return Source(model, (begin, end), read_settings(fields.get("parameters"), method, of_model=True), place.line)
