"""A trial's coefficients as a grid: models and components down, depth across."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from service.dashboard.formatting import coefficient

SHADES = 12
_LAYER = re.compile(r"layers\.(\d+)(?:\.(.+))?$")
_COMPONENTS = ("attention", "mlp", "norm")


@dataclass(frozen=True)
class Cell:
    """One λ. `shade` is 0 … 12 (its size against the largest |λ| shown), `negative` turns the scale's colour."""

    value: float
    text: str
    shade: int
    negative: bool
    label: str
    span: int = 1


@dataclass(frozen=True)
class Row:
    """One component of one model; `model` is set on the model's first row, which spans `rows` of them."""

    model: str
    rows: int
    component: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class HeatMap:
    """`columns` are headings in depth order. Cells that span all components stand in a model's first row only."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    top: float
    has_negative: bool

    @property
    def dense(self) -> bool:
        """Too deep a model for figures in the cells; they stand in the tooltips alone."""
        return len(self.columns) > 16


def heat_map(coefficients: Mapping[str, Mapping[str, float]]) -> HeatMap:
    """Lay out `model → group → λ`; groups are named as in `optimizer.merging.recipe.Coefficients`."""
    groups = list(dict.fromkeys(group for row in coefficients.values() for group in row))
    columns = list(dict.fromkeys(_place(group)[0] for group in groups))
    found = {part for group in groups if (part := _place(group)[1])}
    components = [c for c in _COMPONENTS if c in found] + sorted(found - set(_COMPONENTS)) or [""]
    values = [value for row in coefficients.values() for value in row.values()]
    top = max((abs(value) for value in values), default=0.0) or 1.0
    rows = [
        Row(
            model if index == 0 else "",
            len(components),
            component,
            tuple(
                _cell(model, column, component, index, coefficients[model], top, len(components)) for column in columns
            ),
        )
        for model in coefficients
        for index, component in enumerate(components)
    ]
    return HeatMap(tuple(columns), tuple(rows), top, any(value < 0 for value in values))


def _place(group: str) -> tuple[str, str]:
    """Column and component of a group: "layers.3.mlp" → ("3", "mlp"); "head" → ("head", "")."""
    match = _LAYER.match(group)
    return (match[1], match[2] or "") if match else (group, "")


def _cell(
    model: str, column: str, component: str, index: int, row: Mapping[str, float], top: float, span: int
) -> Cell | None:
    whole = row.get(column, row.get(f"layers.{column}"))
    if whole is not None:
        if index:
            return None
        return _shaded(whole, f"{model}, {_spoken(column)}", top, span)
    value = row.get(f"layers.{column}.{component}")
    if value is None:
        return Cell(0.0, "", 0, False, f"{model}, {_spoken(column)} has no {component}")
    return _shaded(value, f"{model}, {_spoken(column)} {component}", top, 1)


def _shaded(value: float, place: str, top: float, span: int) -> Cell:
    shade = round(SHADES * min(1.0, abs(value) / top))
    return Cell(value, coefficient(value), shade, value < 0 and shade > 0, f"{place}: λ = {value:.3f}", span)


def _spoken(column: str) -> str:
    return f"layer {column}" if column.isdigit() else column
