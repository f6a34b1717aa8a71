"""Hazard categories: data, not code. A taxonomy is a YAML file; users bring their own."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from datagen.errors import DataError

_SHIPPED = Path(__file__).parent / "taxonomies"


@dataclass(frozen=True)
class Category:
    """One hazard category.

    `id` is its short name in every table; `definition` one line for the question writer.
    """

    id: str
    title: str
    definition: str


@dataclass(frozen=True)
class Taxonomy:
    name: str
    categories: tuple[Category, ...]
