"""YAML with line numbers, read with suspicion: a recipe may come from anyone. Imports no torch.

Anchors and merge keys are expanded, up to a number of nodes in all; tags and keys that stand twice are refused.
"""

import difflib
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from optimizer.errors import RecipeError

#: a recipe with a hundred layers written out one by one for ten models has about 20,000 nodes
MAX_NODES = 100_000
MAX_CHARACTERS = 4 << 20
MAX_DEPTH = 24
MAX_DOCUMENTS = 100

_YAML = "tag:yaml.org,2002:"
_MERGE = f"{_YAML}merge"
_PLAIN = frozenset(f"{_YAML}{kind}" for kind in ("null", "bool", "int", "float", "str", "timestamp", "value"))


@dataclass(frozen=True)
class Cursor:
    """A place in a document: its value, and what errors call it.

    `value` is None, a bool, int, float or text, a list of cursors, or a dict from key to cursor; `text` is what stands
    in the file, of a single value.
    """

    origin: str
    path: str
    line: int
    value: Any
    text: str = ""

    def error(self, message: str, mend: str | None = None) -> RecipeError:
        """A RecipeError that names file, line and key."""
        place = f"{self.path}: " if self.path else ""
        return RecipeError(f"{self.origin}, line {self.line}: {place}{message}", mend=mend)

    @property
    def found(self) -> str:
        """The value as errors show it."""
        if isinstance(self.value, dict):
            return "names with values"
        if isinstance(self.value, list):
            return "a list"
        if self.value is None:
            return "nothing"
        return repr(self.value) if len(repr(self.value)) < 60 else repr(self.value)[:60] + "…"

    def fields(self, known: Collection[str]) -> "dict[str, Cursor]":
        """The entries of a mapping that may have these keys only; entries without a value are left out.

        Raises:
            RecipeError: not a mapping, or an unknown key.
        """
        for key, entry in self.entries().items():
            if key not in known:
                raise entry.error(f"unknown key {key!r}, expected one of {', '.join(known)}", nearest(key, known))
        return {key: entry for key, entry in self.entries().items() if entry.value is not None}

    def entries(self) -> "dict[str, Cursor]":
        """The entries of a mapping. Raises RecipeError for anything else."""
        if not isinstance(self.value, dict):
            raise self.error(f"{self.found} found, expected names with values")
        return self.value

    def items(self) -> "list[Cursor]":
        """The items of a list, at least one. Raises RecipeError for anything else."""
        if not isinstance(self.value, list) or not self.value:
            found = "an empty list" if self.value == [] else self.found
            raise self.error(f"{found} found, expected a list")
        return self.value

    def word(self) -> str:
        """A text, also one that looks like a number or a date. Raises RecipeError for anything else."""
        if isinstance(self.value, dict | list | bool) or self.value is None or not self.text.strip():
            raise self.error(f"{self.found} found, expected text", 'write it in quotes: "…"')
        return self.text

    def number(self) -> float:
        """A finite number; true and false are 1 and 0, and a number may be in quotes (YAML reads 1e-5 as a text).

        Raises:
            RecipeError: anything else.
        """
        value = self.value
        if isinstance(value, str):
            words = {"true": 1.0, "false": 0.0}
            try:
                value = words.get(value.strip().lower(), value)
                value = float(value)
            except ValueError:
                raise self.error(f"{self.found} found, expected a number") from None
        if not isinstance(value, bool | int | float):
            raise self.error(f"{self.found} found, expected a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(f"{self.text} found, expected a finite number")
        return number

    def whole(self, low: int) -> int:
        """A whole number, at least `low`. Raises RecipeError for anything else."""
        if type(self.value) is not int or self.value < low:
            raise self.error(f"{self.found} found, expected a whole number, at least {low}")
        return self.value

    def flag(self) -> bool:
        """true or false, also as 1.0 and 0.0. Raises RecipeError for anything else."""
        if (number := self.number()) not in (0.0, 1.0):
            raise self.error(f"{self.found} found, expected true or false")
        return bool(number)

    def choice(self, known: Collection[str]) -> str:
        """One of the known words. Raises RecipeError for anything else, naming the nearest."""
        word = self.word()
        if word not in known:
            raise self.error(f"{word!r} found, expected one of {', '.join(known)}", nearest(word, known))
        return word


def nearest(word: str, known: Collection[str]) -> str | None:
    """The mend of a misspelt word, None where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else None


def read_documents(text: str, origin: str) -> tuple[Cursor, ...]:
    """All documents of a YAML text that are not empty; `origin` names the file in errors.

    Raises:
        RecipeError: too large or too deep, not YAML, a tag, a key twice, or nothing in it.
    """
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(f"{origin}: {len(text):,} characters, at most {MAX_CHARACTERS:,} are read")
    found = []
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            expansion = _Expansion(origin)
            expansion.weigh(node)
            document = expansion.cursor(node, "", None, 0)
            if document.value is not None:
                found.append(document)
            if len(found) > MAX_DOCUMENTS:
                raise document.error(f"more than {MAX_DOCUMENTS} documents in one file")
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{origin}{line}: not a plain YAML file: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin}: not a plain YAML file: {error}") from None
    if not found:
        raise RecipeError(f"{origin}: nothing found, expected a recipe")
    return tuple(found)


class _Loader(yaml.SafeLoader):
    """Safe YAML of bounded depth and size."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)
        if self.nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES:,} values", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Expansion:
    """Nodes into cursors. Aliases lead to the same node again and again, so what counts is what comes out."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._constructor = yaml.SafeLoader("")
        self._weights: dict[int, int | None] = {}

    def weigh(self, node: yaml.Node) -> int:
        """How many values the node stands for; every node is looked at once, so this is quick for any text.

        Raises:
            RecipeError: too many, or the node is inside itself.
        """
        place = Cursor(self.origin, "", node.start_mark.line + 1, None)
        if id(node) in self._weights:
            if (known := self._weights[id(node)]) is None:
                raise place.error("an alias inside itself")
            return known
        self._weights[id(node)] = None
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        weight = 1 + sum(self.weigh(part) for part in inner)
        if weight > MAX_NODES:
            raise place.error(f"more than {MAX_NODES:,} values when all aliases are written out")
        self._weights[id(node)] = weight
        return weight

    def cursor(self, node: yaml.Node, path: str, line: int | None, depth: int) -> Cursor:
        """`line`: where the key of the value stands, None where it has none."""
        place = Cursor(self.origin, path, node.start_mark.line + 1 if line is None else line, None)
        if depth > MAX_DEPTH:
            raise place.error(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_YAML}map":
            entries = {
                key: self.cursor(value, f"{path}.{key}" if path else key, mark, depth + 1)
                for key, (mark, value) in self._pairs(node, place, depth).items()
            }
            return Cursor(self.origin, path, place.line, entries)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_YAML}seq":
            items = [self.cursor(item, f"{path}[{i}]", None, depth + 1) for i, item in enumerate(node.value)]
            return Cursor(self.origin, path, place.line, items)
        if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN:
            return Cursor(self.origin, path, place.line, self._scalar(node, place), node.value)
        raise place.error(f"tag {node.tag.removeprefix(_YAML)!r} found; a recipe has none")

    def _pairs(self, node: yaml.MappingNode, place: Cursor, depth: int) -> dict[str, tuple[int, yaml.Node]]:
        """The entries of a mapping, those of its merge keys included; its own come before merged ones."""
        own: dict[str, tuple[int, yaml.Node]] = {}
        merged: dict[str, tuple[int, yaml.Node]] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise place.error("a key that is no text found")
            if key.tag == _MERGE:
                for other in self._merged(value, place, depth):
                    merged = {**self._pairs(other, place, depth + 1), **merged}
            elif key.value in own:
                raise Cursor(self.origin, place.path, line, None).error(
                    f"key {key.value!r} twice, first in line {own[key.value][0]}", "leave one of them out"
                )
            else:
                own[key.value] = (line, value)
        return {**merged, **own}

    def _merged(self, value: yaml.Node, place: Cursor, depth: int) -> Iterator[yaml.MappingNode]:
        if depth > MAX_DEPTH:
            raise place.error(f"merge keys nested deeper than {MAX_DEPTH} levels")
        for node in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(node, yaml.MappingNode):
                raise place.error("the merge key << takes names with values")
            yield node

    def _scalar(self, node: yaml.ScalarNode, place: Cursor) -> Any:
        if node.tag in (f"{_YAML}timestamp", f"{_YAML}value"):
            return node.value
        try:
            return self._constructor.construct_object(node)
        except (ValueError, KeyError, OverflowError):
            raise place.error(f"{node.value[:40]!r} found, not a {node.tag.removeprefix(_YAML)}") from None
