"""The `parameters:` of a recipe, checked against the rows of the methods' registry."""

import logging

from optimizer.errors import RecipeError
from optimizer.merging.mergekit.document import Cursor, nearest
from optimizer.merging.mergekit.schema import Choice, Setting, Settings
from optimizer.merging.methods.base import Method, Parameter
from optimizer.merging.methods.registry import METHODS

#: parameters of any method: what is left of the method before when somebody tries another one is no misspelling
COMMON = {row.name: row for method in METHODS.values() for row in method.parameters}
#: how masks are held in memory, in mergekit; taken with every method, never used
QUIET = "int8_mask"

logger = logging.getLogger(__name__)


def read_settings(place: Cursor | None, method: Method, *, of_model: bool = False) -> Settings:
    """The settings under a `parameters:` key, None where there is none; `of_model`: they belong to one model.

    A parameter that only other methods have takes no effect, as in mergekit, and a warning says so.

    Raises:
        RecipeError: a parameter that no method has, or not there, or a value outside its range.
    """
    if place is None:
        return {}
    known = {row.name: row for row in method.parameters}
    found: dict[str, Setting] = {}
    for name, entry in place.entries().items():
        row = known.get(name)
        if row is None and name in COMMON:
            _setting(entry, COMMON[name])
            if name != QUIET:
                logger.warning(
                    "%s, line %d: %s has no %s, it takes no effect", place.origin, entry.line, method.name, name
                )
            continue
        if row is None:
            listed = ", ".join(known) or "none"
            raise entry.error(f"{method.name} has no parameter {name!r}, it has {listed}", nearest(name, known))
        if of_model and not row.per_model:
            raise entry.error(
                f"{method.name} has one {name} for all models, found under one of them",
                "move it to `parameters:` of the slice or of the whole recipe",
            )
        found[name] = _setting(entry, row)
    return found


def _setting(place: Cursor, row: Parameter) -> Setting:
    """One number, a gradient, or a list of choices."""
    if isinstance(place.value, dict):
        raise place.error(
            "one {filter, value} without a list found",
            f"write it as a list: `{row.name}: [{{filter: …, value: …}}, {{value: …}}]`",
        )
    if not isinstance(place.value, list):
        return _number(place, row)
    items = place.items()
    if any(isinstance(item.value, dict) for item in items):
        return tuple(_choice(item, row) for item in items)
    return tuple(_number(item, row) for item in items)


def _choice(place: Cursor, row: Parameter) -> Choice:
    if not isinstance(place.value, dict):
        raise place.error(
            f"{place.found} found beside {{filter, value}}", "give the value for all other tensors as `{value: …}`"
        )
    fields = place.fields(("filter", "value"))
    if "value" not in fields:
        raise place.error("a filter without a value found, expected {filter: …, value: …}")
    value = fields["value"]
    if isinstance(value.value, list):
        chosen: float | tuple[float, ...] = tuple(_number(item, row) for item in value.items())
    else:
        chosen = _number(value, row)
    entry = fields.get("filter")
    return Choice(None if entry is None else entry.text if entry.value == "" else entry.word(), chosen)


def _number(place: Cursor, row: Parameter) -> float:
    if row.boolean:
        return float(place.flag())
    number = place.number()
    if not row.low <= number <= row.high:
        raise place.error(f"{number:g} found, expected {row.low:g} … {row.high:g}")
    return number


def located(place: Cursor, line: int, path: str) -> Cursor:
    """The same file at another line."""
    return Cursor(place.origin, path, line, place.value)


def rewrapped(place: Cursor, error: RecipeError) -> RecipeError:
    """An error that does not know where in the file it belongs, with the place."""
    return place.error(error.message, error.mend)
