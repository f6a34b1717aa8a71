"""What to merge and how: one value for the API, the SQL row, the YAML file and the model card. Imports no torch."""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from datagen.settings import Section
from optimizer.errors import RecipeError

if TYPE_CHECKING:
    from optimizer.merging.methods.base import Method, Parameter

#: no pool comes near these; they keep a hostile file from taking the memory
MAX_RECIPE = 16 << 20
MAX_DEPTH = 16


class Granularity(StrEnum):
    """How many coefficients a model gets: one, one a layer, or one a layer and component."""

    MODEL = "model"
    LAYER = "layer"
    LAYER_COMPONENT = "layer_component"


class MergeSettings(Section):
    """The `merge:` section of a job."""

    method: Literal["task_arithmetic"] = "task_arithmetic"
    granularity: Granularity = Granularity.LAYER_COMPONENT
    bounds: tuple[float, float] = Field(default=(0.0, 1.2), description="lowest and highest coefficient")

    @model_validator(mode="after")
    def _ordered(self) -> "MergeSettings":
        low, high = self.bounds
        if not -10 <= low < high <= 10:
            raise ValueError(f"bounds are {low:g} … {high:g}, expected low < high within -10 … 10")
        return self


class ExportSettings(Section):
    """The `export:` section of a job."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="auto", description="auto: the base's")
    shard_size: Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*(KB|MB|GB)$")] = "5GB"


#: as the only group of coefficients: all tensors
EVERYWHERE = "*"


@dataclass(frozen=True)
class Coefficients:
    """λ of every model in every group of tensors: `values[model][group]`.

    A group is a layer's component, named "layers.3.attention", "embedding", "head", …; `groups` is in depth order, or
    EVERYWHERE alone.
    """

    models: tuple[str, ...]
    groups: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]

    @classmethod
    def constant(cls, models: Sequence[str], groups: Sequence[str], by_model: Mapping[str, float]) -> "Coefficients":
        """The same λ for all groups of a model; a model that is not named gets 0."""
        rows = tuple(tuple(by_model.get(model, 0.0) for _ in groups) for model in models)
        return cls(tuple(models), tuple(groups), rows)


@dataclass(frozen=True)
class Recipe:
    """A merge of `models` onto `base` with the merge method `method`.

    `coefficients` are what the method is driven by: the weight λ of every model in every group of tensors (or t, of
    methods that have one). `parameters` are its other parameters ("density"): a number for all models, or one for each
    by name. `seed` decides the random masks of the methods that draw some.
    """

    base: Path
    models: Mapping[str, Path]
    method: str
    coefficients: Coefficients
    dtype: str = "auto"
    parameters: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    seed: int = 0


def check_coefficients(recipe: Recipe, groups: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """λ of every model of the recipe, by group, in the order of `recipe.models`.

    Raises:
        RecipeError: models or groups that do not fit, or a coefficient that is not finite.
    """
    own = recipe.coefficients
    _same_names("models", "coefficients", own.models, "the recipe", tuple(recipe.models))
    if own.groups == (EVERYWHERE,):
        own = Coefficients.constant(
            own.models, groups, {m: row[0] for m, row in zip(own.models, own.values, strict=True)}
        )
    _same_names("groups", "coefficients", own.groups, "the base", groups)
    if len(own.values) != len(own.models) or any(len(row) != len(own.groups) for row in own.values):
        raise RecipeError(f"coefficients: expected {len(own.models)} rows of {len(own.groups)} numbers")
    by_model = {
        model: dict(zip(own.groups, row, strict=True)) for model, row in zip(own.models, own.values, strict=True)
    }
    for model, row in by_model.items():
        for group, value in row.items():
            if not math.isfinite(value):
                raise RecipeError(f"coefficient of {model} in {group} is {value}, expected a finite number")
    return {group: tuple(by_model[model][group] for model in recipe.models) for group in groups}


def check_parameters(recipe: Recipe, method: "Method") -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:
    """All parameters of the method but its coefficient: (shared by all models, each model's), defaults filled in.

    Raises:
        RecipeError: an unknown or missing parameter, or a value outside its range.
    """
    known = {row.name: row for row in method.parameters if row.name != method.coefficient}
    for name in recipe.parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise RecipeError(
                f"parameters: {method.name} has no parameter {name!r}, it has {', '.join(known) or 'none'}",
                mend=f"did you mean {near[0]!r}?" if near else None,
            )
    shared: dict[str, float] = {}
    each: dict[str, tuple[float, ...]] = {}
    for name, row in known.items():
        given = recipe.parameters.get(name)
        if isinstance(given, Mapping):
            if not row.per_model:
                raise RecipeError(f"parameters.{name}: values by model found, {method.name} has one for all models")
            _same_names("models", f"parameters.{name}", tuple(given), "the recipe", tuple(recipe.models))
            each[name] = tuple(check_value(row, given[model], f"{method.name}: {model}") for model in recipe.models)
        elif row.per_model:
            each[name] = (check_value(row, given, method.name),) * len(recipe.models)
        else:
            shared[name] = check_value(row, given, method.name)
    return shared, each


def check_value(row: "Parameter", value: float | None, where: str) -> float:
    """`value`, or the parameter's default where it is None; `where` begins the errors.

    Raises:
        RecipeError: nothing given and no default, or outside the range.
    """
    if value is None:
        if row.default is None:
            raise RecipeError(f"{where}: parameter {row.name} is missing, it has no default")
        return row.default
    if not math.isfinite(value) or not row.low <= value <= row.high:
        raise RecipeError(f"{where}: {row.name} is {value:g}, expected {row.low:g} … {row.high:g}")
    return float(value)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values: the content of recipe.yaml."""
    own = recipe.coefficients
    return {
        "method": recipe.method,
        "base": str(recipe.base),
        "models": {name: str(folder) for name, folder in recipe.models.items()},
        "dtype": recipe.dtype,
        "parameters": {
            name: dict(value) if isinstance(value, Mapping) else value for name, value in recipe.parameters.items()
        },
        "seed": recipe.seed,
        "coefficients": {
            model: row[0] if own.groups == (EVERYWHERE,) else dict(zip(own.groups, row, strict=True))
            for model, row in zip(own.models, own.values, strict=True)
        },
    }


def recipe_from_dict(value: object, origin: str = "recipe") -> Recipe:
    """The recipe that `recipe_to_dict` wrote; `origin` names it in errors.

    Raises:
        RecipeError: a missing, misspelt or ill-typed key.
    """
    fields = _mapping(value, origin)
    known = ("method", "base", "models", "dtype", "parameters", "seed", "coefficients")
    for key in fields:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise RecipeError(f"{origin}: unknown key {key!r}", mend=f"did you mean {near[0]!r}?" if near else None)
    for key in ("method", "base", "models", "coefficients"):
        if key not in fields:
            raise RecipeError(f"{origin}: no key {key!r}, expected {', '.join(known)}")
    models = {
        name: Path(_text(path, f"{origin}: models.{name}"))
        for name, path in _mapping(fields["models"], f"{origin}: models").items()
    }
    table = _mapping(fields["coefficients"], f"{origin}: coefficients")
    rows = {
        model: _mapping(row if isinstance(row, dict) else {EVERYWHERE: row}, f"{origin}: coefficients.{model}")
        for model, row in table.items()
    }
    groups = tuple(next(iter(rows.values()), {}))
    for model, row in rows.items():
        _same_names("groups", f"{origin}: coefficients.{model}", tuple(row), "the first model", groups)
    values = tuple(
        tuple(_number(row[g], f"{origin}: coefficients.{model}.{g}") for g in groups) for model, row in rows.items()
    )
    return Recipe(
        base=Path(_text(fields["base"], f"{origin}: base")),
        models=models,
        method=_text(fields["method"], f"{origin}: method"),
        coefficients=Coefficients(tuple(rows), groups, values),
        dtype=_text(fields.get("dtype", "auto"), f"{origin}: dtype"),
        parameters={
            name: _parameter(value, f"{origin}: parameters.{name}")
            for name, value in _mapping(fields.get("parameters", {}), f"{origin}: parameters").items()
        },
        seed=int(_number(fields.get("seed", 0), f"{origin}: seed")),
    )


def recipe_to_json(recipe: Recipe) -> str:
    """One line of JSON."""
    return json.dumps(recipe_to_dict(recipe))


def recipe_from_json(text: str) -> Recipe:
    """The recipe that `recipe_to_json` wrote.

    Raises:
        RecipeError: not JSON, or not a recipe.
    """
    try:
        return recipe_from_dict(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"recipe: not JSON ({error})") from None


def recipe_to_yaml(recipe: Recipe) -> str:
    """The content of recipe.yaml."""
    return yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False, allow_unicode=True)


def recipe_from_yaml(text: str, origin: str = "recipe") -> Recipe:
    """The recipe in a YAML text; `origin` names it in errors.

    Raises:
        RecipeError: too large or deep, an alias, a key twice, a tag, not YAML, or not a recipe.
    """
    if len(text) > MAX_RECIPE:
        raise RecipeError(f"{origin}: {len(text):,} characters, at most {MAX_RECIPE:,} are read")
    try:
        return recipe_from_dict(yaml.load(text, Loader=_PlainLoader), origin)
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin}: not a plain YAML file: {error}") from None


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (they multiply), duplicate keys or deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias found; write the value out where it stands")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.YAMLError(f"key {key.value!r} twice, the second time in line {key.start_mark.line + 1}")
                seen.add(key.value if isinstance(key.value, str) else "")
        return node


def _same_names(kind: str, ours: str, found: Sequence[str], theirs: str, expected: Sequence[str]) -> None:
    if unknown := [name for name in found if name not in expected]:
        near = difflib.get_close_matches(unknown[0], expected, n=1)
        raise RecipeError(
            f"{ours}: {kind} {', '.join(unknown[:5])} found, {theirs} has no such",
            mend=f"did you mean {near[0]}?" if near else None,
        )
    if missing := [name for name in expected if name not in found]:
        raise RecipeError(f"{ours}: {kind} {', '.join(missing[:5])} missing, {theirs} has them ({len(missing)} in all)")


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise RecipeError(f"{where}: {type(value).__name__} found, expected names with values")
    return value


def _parameter(value: object, where: str) -> float | dict[str, float]:
    if isinstance(value, dict):
        return {model: _number(number, f"{where}.{model}") for model, number in _mapping(value, where).items()}
    return float(value) if isinstance(value, bool) else _number(value, where)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{where}: {value!r} found, expected text")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(f"{where}: {value!r} found, expected a finite number")
    return float(value)
