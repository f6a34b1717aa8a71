"""Taxonomies: shipped ones, the user's own, and what is wrong with bad ones."""

from pathlib import Path

import pytest

from datagen import safety
from datagen.errors import DataError
from datagen.taxonomy import load


def test_the_standard_taxonomy_has_thirteen_categories_two_of_them_locked() -> None:
    taxonomy = load("standard")
    assert len(taxonomy.categories) == 13
    assert {category.id for category in taxonomy.categories if category.locked} == {
        "child_exploitation",
        "mass_casualty_weapons",
    }


def test_nothing_is_written_for_a_locked_category() -> None:
    made = safety.slots(load("standard"), 110)
    assert {category.id for category, _, _ in made}.isdisjoint({"child_exploitation", "mass_casualty_weapons"})
    assert [slot.quota for _, _, slot in made] == [10] * 22


def test_the_toy_taxonomy_is_open() -> None:
    assert len(load("toy").open) == 6


def test_a_taxonomy_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("categories:\n- {id: spam, title: Spam, definition: unwanted mail}\n")
    taxonomy = load(str(file))
    assert (taxonomy.name, taxonomy.categories[0].id) == ("mine", "spam")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "has no list `categories`"),
        ("categories: []", "has no list `categories`"),
        ("categories: [1]", "category 1 of taxonomy .* is int"),
        ("categories: [{id: a, title: A}]", "has no text for `definition`"),
        ("categories: [{id: a, title: A, definition: x, colour: red}]", "unknown fields: colour"),
        ("categories: [{id: a, title: A, definition: x, locked: 3}]", "expected true or false"),
        ("categories: [{id: a, title: A, definition: x, locked: true}]", "is locked"),
        ("categories: [{id: a, title: A, definition: x}, {id: a, title: B, definition: y}]", "names a more than once"),
        ("a: [", "is no YAML"),
        ("!!python/object/apply:os.getcwd []", "is no YAML"),
    ],
)
def test_a_bad_taxonomy_is_told_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        load(str(file))


def test_a_missing_taxonomy_names_the_shipped_ones() -> None:
    with pytest.raises(DataError, match=r"(?s)no taxonomy 'standart'.*standard, toy"):
        load("standart")
