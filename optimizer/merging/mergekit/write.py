"""Recipes as mergekit's YAML: mergekit's own, and what Temper found."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.layout import Layout
from optimizer.merging.mergekit.filters import find_filters
from optimizer.merging.mergekit.names import known_as
from optimizer.merging.mergekit.schema import (
    Choice,
    Gradient,
    InputModel,
    MergekitRecipe,
    Module,
    Setting,
    Settings,
    Slice,
    TokenizerBlock,
    TokenOf,
    TokenRule,
    ZeroRow,
)
from optimizer.merging.methods.base import Base, Method
from optimizer.merging.methods.registry import find_method
from optimizer.merging.recipe import Recipe, check_coefficients, check_parameters

#: what mergekit 0.1.5 calls the parameters of its methods
_ARITHMETIC = frozenset({"weight", "density", "normalize", "lambda", "rescale", "int8_mask"})
PARAMETERS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("task_arithmetic", "ties", "dare_linear", "dare_ties"), _ARITHMETIC),
    **dict.fromkeys(("breadcrumbs", "breadcrumbs_ties"), _ARITHMETIC | {"gamma"}),
    **dict.fromkeys(("della", "della_linear"), _ARITHMETIC | {"epsilon"}),
    "linear": frozenset({"weight", "normalize"}),
    "slerp": frozenset({"t"}),
    "nuslerp": frozenset({"weight", "nuslerp_flatten", "nuslerp_row_wise"}),
    "multislerp": frozenset({"weight", "normalize_weights", "eps"}),
    "karcher": frozenset({"max_iter", "tol"}),
    "sce": frozenset({"select_topk", "int8_mask"}),
    "ram": frozenset({"epsilon"}),
    "ramplus_tl": frozenset({"epsilon", "r", "alpha"}),
    "model_stock": frozenset({"filter_wise"}),
    "nearswap": frozenset({"t"}),
    "arcee_fusion": frozenset(),
    "passthrough": frozenset({"scale"}),
}
#: "layers.3.mlp" and, in a second tower, "vision_tower.layers.3.mlp": stack, number, component
_LAYERED = re.compile(r"(.+)\.(\d+)\.([^.]+)$")


def mergekit_to_yaml(recipe: MergekitRecipe) -> str:
    """The recipe as one YAML document, which `read_mergekit` reads back as the same recipe."""
    method = find_method(recipe.merge_method)
    document: dict[str, Any] = {} if recipe.name is None else {"name": recipe.name}
    document["merge_method"] = recipe.merge_method
    if recipe.base_model is not None:
        document["base_model"] = _reference(recipe.base_model)
    if recipe.modules:
        document["modules"] = {name: _module(part, method) for name, part in recipe.modules.items()}
    else:
        document |= _module(recipe.parts[0], method)
    if recipe.parameters:
        document["parameters"] = _settings(recipe.parameters, method)
    for key in ("dtype", "out_dtype", "chat_template"):
        if (value := getattr(recipe, key)) is not None:
            document[key] = value
    if recipe.tokenizer_source is not None:
        document["tokenizer_source"] = _source(recipe.tokenizer_source)
    if recipe.tokenizer is not None:
        document["tokenizer"] = _tokenizer(recipe.tokenizer)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=118)


def to_mergekit_yaml(recipe: Recipe, layout: Layout, own_dtype: str | None = None) -> str:
    """The recipe in mergekit's format: the same tensors there, to its rounding; random masks are drawn anew.

    Coefficients by layer become gradients over the depth with a number for each layer, components are told apart by
    filters. Embedding, final norm and head, which read a gradient at its beginning, get numbers of their own.

    Args:
        own_dtype: what "auto" means, the base's ("bfloat16"). With None mergekit computes in the models' dtype.

    Raises:
        RecipeError: the method or a parameter does not exist in mergekit, or filters cannot tell the groups apart.
    """
    method = find_method(recipe.method)
    if method.name not in PARAMETERS:
        raise RecipeError(
            f"merge method {method.name} found, mergekit has {', '.join(PARAMETERS)}",
            mend="keep the recipe in Temper's own format",
        )
    check_parameters(recipe, method)
    shared, each = _exported(recipe, method)
    driven = method.parameter(method.coefficient)
    if driven is not None:
        columns = check_coefficients(recipe, layout.groups)
        settings = _by_depth(layout, columns, len(recipe.models) if driven.per_model else 1)
        if driven.per_model:
            for model, setting in zip(recipe.models, settings, strict=True):
                each[model][driven.name] = setting
        else:
            shared[driven.name] = settings[0]
    stored = own_dtype if recipe.dtype == "auto" else recipe.dtype
    arithmetic = None if stored is None else "float64" if stored == "float64" else "float32"
    return mergekit_to_yaml(
        MergekitRecipe(
            method.name,
            None if method.base is Base.UNUSED else ModelReference(str(recipe.base)),
            tuple(InputModel(ModelReference(str(path)), each[name]) for name, path in recipe.models.items()),
            parameters=shared,
            dtype=arithmetic,
            out_dtype=None if stored == arithmetic else stored,
        )
    )


def _exported(recipe: Recipe, method: Method) -> tuple[dict[str, Setting], dict[str, dict[str, Setting]]]:
    """The recipe's parameters: (of all models, of each)."""
    shared: dict[str, Setting] = {}
    each: dict[str, dict[str, Setting]] = {name: {} for name in recipe.models}
    for name, value in recipe.parameters.items():
        row = method.parameter(name)
        if name not in PARAMETERS[method.name]:
            if row is not None and value == row.default:
                continue
            raise RecipeError(
                f"parameter {name} = {value} found, mergekit's {method.name} has none of that name",
                mend="leave it at its default, or keep the recipe in Temper's own format",
            )
        if isinstance(value, Mapping):
            for model, number in value.items():
                each[model][name] = float(number)
        else:
            shared[name] = float(value)
    return shared, each


def _by_depth(layout: Layout, columns: Mapping[str, Sequence[float]], count: int) -> list[Setting]:
    """The coefficients as settings, one of each of `count` models. `columns`: by group, a number a model."""
    families: dict[str, dict[int, Sequence[float]]] = {}
    depths: dict[str, int] = {}
    family_of: dict[str, str] = {}
    for group, column in columns.items():
        layered = _LAYERED.match(group)
        stack, number, component = layered.groups() if layered else (group, "-1", "")
        family_of[group] = f"{stack}/{component}"
        families.setdefault(family_of[group], {})[int(number)] = column
        depths[stack] = max(depths.get(stack, 0), int(number) + 1)
    kinds = {
        family: tuple(_values(rows, depths[family.split("/")[0]], model) for model in range(count))
        for family, rows in families.items()
    }
    found = find_filters(
        {name: kinds[family_of[group]] for own, group in layout.group_of.items() for name in known_as(own)}
    )
    settings: list[Setting] = []
    for model in range(count):
        choices = [Choice(word, kind[model]) for word, kind in found]
        plain = {choice.value for choice in choices}
        alone = choices[0].value
        settings.append(alone if len(plain) == 1 and isinstance(alone, float) else tuple(choices))
    return settings


def _values(rows: Mapping[int, Sequence[float]], depth: int, model: int) -> float | Gradient:
    """A number where all layers have the same, else one for every layer. Layers without the component get that of the
    layer before: no tensor reads it."""
    known = [rows[number][model] for number in sorted(rows)]
    if len(set(known)) == 1:
        return float(known[0])
    values, last = [], known[0]
    for number in range(depth):
        last = rows[number][model] if number in rows else last
        values.append(float(last))
    return tuple(values)


def _module(part: Module, method: Method) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if part.models:
        found["models"] = [
            {"model": _reference(entry.model), **_parameters(entry.parameters, method)} for entry in part.models
        ]
    else:
        found["slices"] = [_slice(piece, method) for piece in part.slices]
    return {**found, **_parameters(part.parameters, method)}


def _slice(piece: Slice, method: Method) -> dict[str, Any]:
    sources = [
        {
            "model": _reference(source.model),
            "layer_range": list(source.layer_range),
            **_parameters(source.parameters, method),
        }
        for source in piece.sources
    ]
    base = {} if piece.base_model is None else {"base_model": _reference(piece.base_model)}
    return {"sources": sources, **base, **_parameters(piece.parameters, method)}


def _parameters(settings: Settings, method: Method) -> dict[str, Any]:
    return {"parameters": _settings(settings, method)} if settings else {}


def _settings(settings: Settings, method: Method) -> dict[str, Any]:
    booleans = {row.name for row in method.parameters if row.boolean}
    return {name: _setting(setting, name in booleans) for name, setting in settings.items()}


def _setting(setting: Setting, boolean: bool) -> Any:
    if isinstance(setting, float):
        return bool(setting) if boolean else setting
    return [_choice(entry, boolean) if isinstance(entry, Choice) else _setting(entry, boolean) for entry in setting]


def _choice(choice: Choice, boolean: bool) -> dict[str, Any]:
    value = {"value": _setting(choice.value, boolean)}
    return value if choice.filter is None else {"filter": choice.filter, **value}


def _reference(model: ModelReference) -> Any:
    """As text, or written out where the path could be taken for something else."""
    if ModelReference.parse(str(model)) == model if _plain(model) else False:
        return str(model)
    written: dict[str, Any] = {"model": _path(model)}
    return written if model.lora is None else {**written, "lora": _path(model.lora)}


def _plain(model: ModelReference) -> bool:
    parts = [model.path, model.revision or "", *(() if model.lora is None else (model.lora.path,))]
    return not any(sign in part for part in parts for sign in "@+") and model.path == model.path.strip()


def _path(model: ModelReference) -> dict[str, str]:
    return {"path": model.path} if model.revision is None else {"path": model.path, "revision": model.revision}


def _source(source: str | ModelReference) -> Any:
    return source if isinstance(source, str) else _reference(source)


def _tokenizer(block: TokenizerBlock) -> dict[str, Any]:
    found: dict[str, Any] = {"source": _source(block.source)}
    if block.tokens:
        found["tokens"] = {token: _rule(rule) for token, rule in block.tokens.items()}
    if block.pad_to_multiple_of is not None:
        found["pad_to_multiple_of"] = block.pad_to_multiple_of
    return found


def _rule(rule: TokenRule) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(rule.source, ZeroRow):
        found["source"] = {"kind": "zero"}
    elif isinstance(rule.source, TokenOf):
        row = {"token_id": rule.source.token_id} if rule.source.token is None else {"token": rule.source.token}
        found["source"] = {"kind": "model_token", "model": _reference(rule.source.model), **row}
    elif rule.source is not None:
        found["source"] = _reference(rule.source)
    return {**found, "force": True} if rule.force else found
