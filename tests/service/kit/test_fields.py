from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.kit.fields import Fault, explain, nearest, pointer


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid")
    weight: Annotated[int, Field(ge=0)] = 0


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid")
    leaf: Leaf | None = None
    leaves: dict[str, Leaf] = {}
    more: list[Annotated[Leaf, "told"]] = []


def faults(document: object) -> list[Fault]:
    with pytest.raises(ValidationError) as caught:
        Tree.model_validate(document)
    return list(explain(caught.value.errors(), Tree))


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"leaf": {"wieght": 1}}, "/leaf/wieght"),
        ({"leaves": {"a/b~c": {"wieght": 1}}}, "/leaves/a~1b~0c/wieght"),
        ({"more": [{}, {"wieght": 1}]}, "/more/1/wieght"),
    ],
)
def test_a_misspelt_field_is_found_at_any_depth(document: object, place: str) -> None:
    assert faults(document) == [Fault(place, "unknown field `wieght`", "did you mean `weight`?")]


def test_a_field_like_no_other_is_shown_those_there_are() -> None:
    assert faults({"xyz": 1}) == [Fault("/xyz", "unknown field `xyz`", "known: leaf, leaves, more")]


def test_a_value_is_told_with_what_was_found() -> None:
    (fault,) = faults({"leaf": {"weight": -1}})
    assert fault.detail == "Input should be greater than or equal to 0, found -1"


def test_a_long_value_is_cut() -> None:
    (fault,) = faults({"leaf": {"weight": "x" * 10_000}})
    assert len(fault.detail) <= 300


@pytest.mark.parametrize(
    ("name", "known", "mend"),
    [("trails", ["trials", "seed"], "did you mean `trials`?"), ("q", ["b", "a"], "known: a, b"), ("q", [], None),
     ("q", [f"n{i}" for i in range(99)], None)],
)  # fmt: skip
def test_nearest(name: str, known: list[str], mend: str | None) -> None:
    assert nearest(name, known) == mend


def test_pointers_escape() -> None:
    assert pointer("a/b", 0, "~") == "/a~1b/0/~0"
    assert pointer() == ""
