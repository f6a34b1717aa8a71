"""What to merge and how: one value for the API, the SQL row, the YAML file and the model card. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from datagen.settings import Section


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


@dataclass(frozen=True)
class Coefficients:
    """λ of every model in every group of tensors: `values[model][group]`.

    A group is a layer's component, named "layers.3.attention", "embedding", "head", …; `groups` is in depth order.
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
    """θ = θ_base + Σ_t λ_{t,g} (θ_t − θ_base) for every tensor of group g (task arithmetic, arXiv 2410.12937)."""

    base: Path
    models: Mapping[str, Path]
    method: str
    coefficients: Coefficients
    dtype: str = "auto"
