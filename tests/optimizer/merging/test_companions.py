"""The files beside the weights are one model's, whole, as they are."""

from pathlib import Path

import pytest

from optimizer.errors import CheckpointError
from optimizer.merging.companions import companions_of, tokenizer_files
from tests.optimizer.merging.pools import TEMPLATE, add_tokenizer, edit_json


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base and two models, empty as yet."""
    made = tmp_path / "base", tmp_path / "a", tmp_path / "b"
    for folder in made:
        folder.mkdir()
    return made


def test_the_bases_files_where_it_chats(folders: tuple[Path, Path, Path]) -> None:
    base, a, b = folders
    for folder in folders:
        add_tokenizer(folder)
        (folder / "generation_config.json").write_text("{}")
    found = companions_of(base, [a, b])
    wanted = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
    assert found == {name: (base / name).resolve() for name in wanted}


def test_never_mixed_with_another_models(folders: tuple[Path, Path, Path]) -> None:
    """The base has a tokenizer and no template: all files of the model that chats, none of the base's."""
    base, a, b = folders
    add_tokenizer(base, template=None)
    (base / "added_tokens.json").write_text("{}")
    add_tokenizer(b, TEMPLATE)
    (b / "special_tokens_map.json").write_text("{}")
    found = companions_of(base, [a, b])
    assert {Path(str(file)).parent for file in found.values()} == {b.resolve()}
    assert {"special_tokens_map.json", "chat_template.jinja", "tokenizer.json"} <= set(found)
    assert "added_tokens.json" not in found


def test_sentencepiece_alone_is_copied(folders: tuple[Path, Path, Path]) -> None:
    base, a, b = folders
    (a / "tokenizer.model").write_bytes(b"pieces")
    assert companions_of(base, [a, b]) == {"tokenizer.model": (a / "tokenizer.model").resolve()}


def test_nothing_there_to_carry(folders: tuple[Path, Path, Path]) -> None:
    base, *models = folders
    assert companions_of(base, models) == {}


def test_a_tokenizer_with_code_of_its_own(folders: tuple[Path, Path, Path]) -> None:
    """Also in a model whose settings nobody needed to look at for a template."""
    base, a, _ = folders
    add_tokenizer(a, template=None)
    edit_json(a / "tokenizer_config.json", lambda config: config.update(auto_map={"AutoTokenizer": ["code.Own", None]}))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: auto_map .* asks for code"):
        tokenizer_files(a)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(CheckpointError, match="asks for code"):
        companions_of(base, [a])


def test_a_file_too_large(folders: tuple[Path, Path, Path]) -> None:
    base, *models = folders
    with (base / "vocab.txt").open("wb") as stream:
        stream.truncate((128 << 20) + 1)
    with pytest.raises(CheckpointError, match=r"vocab\.txt: over 134,217,728 bytes"):
        companions_of(base, models)
