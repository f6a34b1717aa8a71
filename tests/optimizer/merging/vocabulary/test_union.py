"""Tokenizers with more tokens than they came with: same ids, same text, loadable."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from optimizer.errors import CheckpointError, PoolError
from optimizer.merging.vocabulary.tokens import Tokens, read_tokens
from optimizer.merging.vocabulary.union import Addition, extend
from tests.optimizer.merging.pools import edit_json
from tests.optimizer.merging.vocabulary.speakers import CORE, add_speech


def tokens(folder: Path) -> Tokens:
    found = read_tokens(folder)
    assert found is not None
    return found


def missing(core: Tokens, *others: Tokens) -> list[Addition]:
    """What the others have and the core has not, by their ids."""
    new: dict[str, Addition] = {}
    for other in others:
        for text in sorted(other.ids, key=lambda text: other.ids[text]):
            if text not in core.ids:
                new.setdefault(text, Addition(text, other))
    return list(new.values())


def write(folder: Path, files: Mapping[str, Path | bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder


def saved(folder: Path, model: Any, splitter: Any = None, *, added: tuple[str, ...] = ()) -> Tokens:
    """A tokenizer of any kind."""
    core = Tokenizer(model)
    core.pre_tokenizer = splitter or pre_tokenizers.Whitespace()
    core.add_tokens([AddedToken(text, normalized=False) for text in added])
    folder.mkdir()
    core.save(str(folder / "tokenizer.json"))
    return tokens(folder)


def test_added_tokens_keep_their_settings(tmp_path: Path) -> None:
    add_speech(tmp_path / "a", added=["plain"], special=["<tool>"], template="T {{ messages }}")
    add_speech(tmp_path / "b", special=["<x>"])
    core, other = tokens(tmp_path / "a"), tokens(tmp_path / "b")
    files, remarks = extend(core, [*missing(core, other), Addition("<new>", None)])
    assert remarks == ()
    out = write(tmp_path / "out", files)
    assert (out / "chat_template.jinja").read_text() == "T {{ messages }}"
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded.get_vocab() == {**core.ids, "<x>": 260, "<new>": 261}
    assert loaded.encode("hi<x>plain<new><tool>")[2:] == [260, 258, 261, 259]
    assert loaded.decode([260, 258, 261], skip_special_tokens=True) == "plain<new>"
    assert "<x>" in loaded.all_special_tokens
    old = AutoTokenizer.from_pretrained(tmp_path / "a")
    for text in ("Hello, world", "naïve 模型 <tool> plain", "  <s> x </s>"):
        assert loaded.encode(text) == old.encode(text)


def test_settings_of_older_versions_know_the_new_tokens(tmp_path: Path) -> None:
    """transformers 4 keeps added tokens in tokenizer_config.json and special ones in special_tokens_map.json."""
    add_speech(tmp_path / "a")
    add_speech(tmp_path / "b", special=["<x>"])
    settings = {"added_tokens_decoder": {"0": {"content": "<s>", "special": True}}, "additional_special_tokens": []}
    edit_json(tmp_path / "a/tokenizer_config.json", lambda config: config.update(settings))
    (tmp_path / "a/special_tokens_map.json").write_text('{"eos_token": "</s>", "additional_special_tokens": []}')
    (tmp_path / "a/vocab.json").write_text("{}")
    core = tokens(tmp_path / "a")
    files, _ = extend(core, missing(core, tokens(tmp_path / "b")))
    out = write(tmp_path / "out", files)
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert config["added_tokens_decoder"]["258"]["content"] == "<x>"
    assert config["additional_special_tokens"] == ["<x>"]
    assert json.loads((out / "special_tokens_map.json").read_text())["additional_special_tokens"] == ["<x>"]
    assert "vocab.json" not in files, "it lacks the new token"
    assert AutoTokenizer.from_pretrained(out).encode("a<x>")[-1] == 258


@pytest.mark.parametrize("old_notation", [True, False])
def test_pieces_are_reached_by_their_merges(tmp_path: Path, old_notation: bool) -> None:
    """BPE: "ab" and "abc" of a vocabulary that was extended from the core's, over an added token in between."""
    add_speech(tmp_path / "a", (*CORE, "ab"), merges=[("a", "b")], special=["<tool>"])
    add_speech(tmp_path / "b", (*CORE, "ab", "abc", "cab"), merges=[("a", "b"), ("ab", "c"), ("c", "ab")])
    if old_notation:
        edit_json(tmp_path / "a/tokenizer.json", lambda whole: whole["model"].update(merges=["a b"]))
    core, other = tokens(tmp_path / "a"), tokens(tmp_path / "b")
    files, remarks = extend(core, missing(core, other))
    assert remarks == ()
    loaded = AutoTokenizer.from_pretrained(write(tmp_path / "out", files))
    assert loaded.get_vocab() == {**core.ids, "abc": 260, "cab": 261}
    for text, pieces in (("abc", ["abc"]), ("cab", ["cab"]), ("xab<tool>", ["x", "ab", "<tool>"])):
        assert loaded.tokenize(text) == pieces
        if "<" not in text:
            assert AutoTokenizer.from_pretrained(tmp_path / "b").tokenize(text) == pieces


def test_merges_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    """The core's merges go first: its text is cut as before, the other model's is not."""
    add_speech(tmp_path / "a", (*CORE, "ab", "abc"), merges=[("a", "b"), ("ab", "c")])
    add_speech(tmp_path / "b", (*CORE, "bc", "abc"), merges=[("b", "c"), ("a", "bc")])
    core = tokens(tmp_path / "a")
    files, remarks = extend(core, missing(core, tokens(tmp_path / "b")))
    assert remarks == ("pieces of b come after the merges of a: its text may be cut differently",)
    loaded = AutoTokenizer.from_pretrained(write(tmp_path / "out", files))
    assert loaded.tokenize("abc xbc") == ["abc", "Ġ", "x", "bc"]


def test_unigram_pieces_keep_their_scores(tmp_path: Path) -> None:
    splitter = pre_tokenizers.Metaspace()
    pieces = [("<unk>", 0.0), ("▁", -3.0), ("a", -4.0), ("b", -5.0)]
    core = saved(tmp_path / "a", models.Unigram(pieces, 0, False), splitter, added=("<tool>",))
    other = saved(tmp_path / "b", models.Unigram([*pieces, ("▁ab", -1.0)], 0, False), splitter)
    files, _ = extend(core, missing(core, other))
    loaded = Tokenizer.from_file(str(write(tmp_path / "out", files) / "tokenizer.json"))
    assert loaded.get_vocab() == {**core.ids, "▁ab": 5}
    assert loaded.encode("ab<tool>ba").tokens == ["▁ab", "<tool>", "▁", "b", "a"]


@pytest.mark.parametrize("kind", [models.WordPiece, models.WordLevel])
def test_word_pieces(tmp_path: Path, kind: Any) -> None:
    words = {"[UNK]": 0, "play": 1, "##ing": 2}
    core = saved(tmp_path / "a", kind(words, unk_token="[UNK]"), added=("[TOOL]",))
    other = saved(tmp_path / "b", kind({**words, "jump": 3}, unk_token="[UNK]"))
    files, _ = extend(core, missing(core, other))
    loaded = Tokenizer.from_file(str(write(tmp_path / "out", files) / "tokenizer.json"))
    assert loaded.get_vocab() == {**core.ids, "jump": 4}
    assert loaded.encode("play[TOOL]jump").ids == [1, 3, 4]


def test_pieces_of_another_kind_are_refused(tmp_path: Path) -> None:
    add_speech(tmp_path / "a")
    add_speech(tmp_path / "marked", special=["<x>"])
    core = tokens(tmp_path / "a")
    unigram = saved(tmp_path / "b", models.Unigram([("<unk>", 0.0), ("▁the", -1.0)], 0, False))
    spaced = saved(tmp_path / "c", models.BPE({"▁the": 0}, []), pre_tokenizers.Metaspace())
    for other in (unigram, spaced):
        with pytest.raises(PoolError, match="tokenizers of two kinds cannot be united: BPE with ByteLevel pieces in"):
            extend(core, missing(core, other))
    whole = json.loads((tmp_path / "marked/tokenizer.json").read_text())
    whole["model"] = json.loads((tmp_path / "b/tokenizer.json").read_text())["model"]
    (tmp_path / "marked/tokenizer.json").write_text(json.dumps(whole))
    marked = tokens(tmp_path / "marked")
    files, _ = extend(core, [Addition("<x>", marked)])
    assert b"<x>" in bytes(files["tokenizer.json"]), "an added token is the same text in every kind"  # type: ignore[arg-type]


def test_a_file_that_the_library_does_not_read(tmp_path: Path) -> None:
    add_speech(tmp_path / "a")
    edit_json(tmp_path / "a/tokenizer.json", lambda whole: whole.update(pre_tokenizer={"type": "Unheard"}))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: cannot be extended"):
        extend(tokens(tmp_path / "a"), [Addition("<x>", None)])


def test_an_opaque_tokenizer_takes_no_tokens(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    with pytest.raises(PoolError, match=r"no tokenizer\.json, tokens cannot be added"):
        extend(tokens(tmp_path), [Addition("<x>", None)])
