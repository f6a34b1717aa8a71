"""Hazard categories: data, not code. A taxonomy is a YAML file; users bring their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datagen.errors import DataError

_SHIPPED = Path(__file__).parent / "taxonomies"
_FIELDS = {"id", "title", "definition", "locked"}
_SIZE_LIMIT = 1_000_000


@dataclass(frozen=True)
class Category:
    """One hazard category.

    `id` is its short name in every table; `definition` one line for the question writer. For a `locked` category
    nothing is ever generated: a user may bring questions of it, this tool does not write them.
    """

    id: str
    title: str
    definition: str
    locked: bool = False


@dataclass(frozen=True)
class Taxonomy:
    name: str
    categories: tuple[Category, ...]

    @property
    def open(self) -> tuple[Category, ...]:
        """The categories that questions may be written for."""
        return tuple(category for category in self.categories if not category.locked)


def load(name: str) -> Taxonomy:
    """A shipped taxonomy by its name, or one of the user's by the path of its YAML file.

    Raises:
        DataError: there is no such taxonomy, or the file does not say what it must.
    """
    shipped = sorted(file.stem for file in _SHIPPED.glob("*.yaml"))
    file = _SHIPPED / f"{name}.yaml" if name in shipped else Path(name)
    try:
        if file.stat().st_size > _SIZE_LIMIT:
            raise DataError(f"taxonomy {name!r} is larger than {_SIZE_LIMIT} bytes")
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError:
        mend = f"name one of {', '.join(shipped)}, or a YAML file"
        raise DataError(f"there is no taxonomy {name!r}", mend=mend) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"taxonomy {name!r} is no YAML: {error}") from None
    return _parse(name, read)


def _parse(source: str, read: Any) -> Taxonomy:
    if not isinstance(read, dict) or not isinstance(read.get("categories"), list) or not read["categories"]:
        raise DataError(f"taxonomy {source!r} has no list `categories`", mend="give it `name` and `categories`")
    categories = tuple(_category(source, number, entry) for number, entry in enumerate(read["categories"], 1))
    ids = [category.id for category in categories]
    double = sorted({name for name in ids if ids.count(name) > 1})
    if double:
        raise DataError(
            f"taxonomy {source!r} names {', '.join(double)} more than once", mend="give every category its own id"
        )
    taxonomy = Taxonomy(str(read.get("name") or Path(source).stem), categories)
    if not taxonomy.open:
        raise DataError(
            f"every category of taxonomy {source!r} is locked", mend="add one that questions may be written for"
        )
    return taxonomy


def _category(source: str, number: int, entry: Any) -> Category:
    where = f"category {number} of taxonomy {source!r}"
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {type(entry).__name__}, expected id, title and definition")
    unknown = sorted(str(field) for field in entry.keys() - _FIELDS)
    if unknown:
        raise DataError(
            f"{where} has unknown fields: {', '.join(unknown)}", mend=f"known are {', '.join(sorted(_FIELDS))}"
        )
    for field in ("id", "title", "definition"):
        if not isinstance(entry.get(field), str) or not entry[field].strip():
            raise DataError(f"{where} has no text for `{field}`")
    if not isinstance(entry.get("locked", False), bool):
        raise DataError(f"{where} has {entry['locked']!r} for `locked`, expected true or false")
    name, title, definition = (" ".join(entry[field].split()) for field in ("id", "title", "definition"))
    return Category(name, title, definition, locked=entry.get("locked", False))
