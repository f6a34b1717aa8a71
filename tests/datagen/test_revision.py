"""Revisions: content, not names or places."""

import shutil
from pathlib import Path

import pytest

from datagen.errors import DataError
from datagen.revision import chat_template, revision, template_hash


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def test_a_copy_has_the_same_revision(model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    assert revision(copy) == revision(model)
    assert len(revision(model)) == 40


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "chat_template.jinja", "tokenizer.json"])
def test_every_file_that_decides_answers_counts(model: Path, name: str) -> None:
    before = revision(model)
    (model / name).write_text("something else")
    assert revision(model) != before


def test_a_card_does_not_count(model: Path) -> None:
    before = revision(model)
    (model / "README.md").write_text("a card")
    assert revision(model) == before


def test_a_folder_without_weights_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.safetensors"):
        revision(tmp_path)


def test_the_template_is_found_in_its_file_or_in_the_tokenizers_config(model: Path) -> None:
    first = template_hash(model)
    (model / "chat_template.jinja").rename(model / "other.txt")
    assert template_hash(model) == ""
    (model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert chat_template(model) == "{{ messages }}"
    assert template_hash(model) == first
