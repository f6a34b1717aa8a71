"""What is wrong with a document, field by field: pydantic's errors with pointers and the nearest names."""

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a document, where, and what would be right."""

    pointer: str
    detail: str
    mend: str | None = None
    line: int | None = None


def pointer(*parts: str | int) -> str:
    """JSON pointer to a place in a document (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A mend that names the known name most like `name`, or the few there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(sorted(names))}" if 0 < len(names) <= 16 else None


def explain(
    errors: Sequence[ErrorDetails | Mapping[str, Any]], model: type[BaseModel] | None, *, drop: tuple[str, ...] = ()
) -> Iterator[Fault]:
    """Pydantic's errors as faults. `drop` names a first step of the path that is not part of the document."""
    for error in errors:
        location = [part for part in error["loc"] if part != "[key]"]
        if location and location[0] in drop:
            location = location[1:]
        kind, mend = error["type"], None
        detail = str(error["msg"]).removeprefix("Value error, ")
        if kind == "extra_forbidden" and location:
            *above, name = location
            owner = _model_at(model, above)
            detail = f"unknown field `{name}`"
            mend = nearest(str(name), owner.model_fields) if owner else None
        elif kind == "missing":
            detail = f"the field `{location[-1]}` is missing" if location else "the body is missing"
        elif kind == "string_pattern_mismatch" and "[key]" in error["loc"]:
            detail = f"the name `{error['input']}` has characters that are not allowed"
            mend = "lower-case letters, digits, `-` and `_`, 63 at most, a letter or digit first"
        elif isinstance(error.get("input"), str | int | float | bool) and kind != "json_invalid":
            detail = f"{detail}, found {error['input']!r}"[:300]
        yield Fault(pointer(*location), detail, mend)


def _model_at(model: type[BaseModel] | None, path: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that stands at `path` below `model`."""
    current: Any = model
    for part in path:
        current = _bare(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        elif get_args(current):
            current = get_args(current)[-1]  # a mapping's values, a list's items
        else:
            return None
    current = _bare(current)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """The type without Annotated and without `| None`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            annotation = next((arg for arg in get_args(annotation) if arg is not types.NoneType), None)
        else:
            return annotation
