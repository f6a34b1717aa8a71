"""The tokens of a model folder: which text has which id. Imports no torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.files import MAX_TOKENIZER, file_of, read_json
from optimizer.merging.checkpoint.header import FETCH, refuse_code

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
#: tokenizers without a tokenizer.json: their vocabulary is not read, they are only copied whole
OPAQUE = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
#: ids beyond this are damage; the largest vocabularies of the day have a million
MAX_TOKENS = 1 << 24


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer knows.

    `ids` leads from every token, added ones included, to its id; it is empty for an opaque tokenizer. `added` holds the
    entries of added tokens by text. `kind` is the model's type ("BPE"), `notation` how its pieces write spaces and
    bytes: pieces of one spelling mean the same only within one kind and notation. `digest` identifies the files.
    """

    folder: Path
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]
    kind: str
    notation: str
    digest: str

    @property
    def opaque(self) -> bool:
        """The vocabulary is in a form that is not read."""
        return not self.ids

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return max(self.ids.values(), default=-1) + 1

    def same(self, other: "Tokens") -> bool:
        """Both give the same ids to the same texts."""
        return self.digest == other.digest or (not self.opaque and self.ids == other.ids)


def read_pool(folders: Mapping[str, Path]) -> dict[str, Tokens | None]:
    """`read_tokens` of every folder; equal files are read once.

    Raises:
        CheckpointError: see `read_tokens`.
    """
    known: dict[str, Tokens] = {}
    found: dict[str, Tokens | None] = {}
    for key, folder in folders.items():
        digest = _digest(folder)
        if digest in known:
            read_settings(folder)  # refuses code
            found[key] = replace(known[digest], folder=folder)
        else:
            tokens = found[key] = read_tokens(folder)
            if tokens is not None:
                known[tokens.digest] = tokens
    return found


def read_tokens(folder: Path) -> Tokens | None:
    """The tokens of a folder, None where it has no tokenizer.

    Raises:
        CheckpointError: an unsafe, oversized or damaged file, or a tokenizer that asks for code of its own.
    """
    read_settings(folder)  # refuses code
    file = file_of(folder, TOKENIZER_JSON)
    if file is None:
        digest = _digest(folder)
        return Tokens(folder, {}, {}, "", "", digest) if digest else None
    shown = folder / TOKENIZER_JSON
    whole = read_json(file, MAX_TOKENIZER)
    try:
        model = whole["model"]
        ids = dict(model_ids(model))
        added = {entry["content"]: entry for entry in whole.get("added_tokens") or []}
        ids |= {text: entry["id"] for text, entry in added.items()}
        sound = all(type(text) is str and type(at) is int and 0 <= at < MAX_TOKENS for text, at in ids.items())
        notation = notation_of(whole)
        kind = str(model.get("type") or "BPE")
    except (KeyError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound or not ids:
        raise CheckpointError(f"{shown}: not a tokenizer's file, its tokens and ids cannot be read", mend=FETCH)
    return Tokens(folder, ids, added, kind, notation, _digest(folder))


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, empty where there is none.

    Raises:
        CheckpointError: oversized, damaged, or it asks for code of its own.
    """
    file = file_of(folder, TOKENIZER_CONFIG)
    if file is None:
        return {}
    settings = read_json(file, MAX_TOKENIZER)
    refuse_code(settings, folder / TOKENIZER_CONFIG)
    return settings


def model_ids(model: Mapping[str, Any]) -> Mapping[str, int]:
    """Token → id of the "model" part of a tokenizer.json; Unigram keeps a list of [token, score]."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        return {token: number for number, (token, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def notation_of(whole: Mapping[str, Any]) -> str:
    """How pieces are spelled: "ByteLevel" (a space is Ġ), "Metaspace" (a space is ▁), "WordPiece" …"""
    names: set[str] = set()
    pending: list[Any] = [whole.get("pre_tokenizer"), whole.get("decoder"), whole.get("normalizer")]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            names.add(str(part.get("type")))
            if "▁" in (part.get("content"), part.get("prepend"), part.get("replacement")):
                names.add("Metaspace")
            pending += [inner for inner in part.values() if isinstance(inner, dict | list)]
        elif isinstance(part, list):
            pending += part
    return next((name for name in ("ByteLevel", "Metaspace", "WordPiece") if name in names), "plain")


def _digest(folder: Path) -> str:
    """A hash over the files that hold the vocabulary, empty where there are none."""
    names = (TOKENIZER_JSON,) if file_of(folder, TOKENIZER_JSON) else (*OPAQUE, "merges.txt")
    digest = hashlib.sha256()
    found = False
    for name in names:
        if file := file_of(folder, name):
            if file.stat().st_size > MAX_TOKENIZER:
                raise CheckpointError(
                    f"{folder / name}: over {MAX_TOKENIZER:,} bytes", mend="this is no usual tokenizer"
                )
            digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
            found = True
    return digest.hexdigest() if found else ""
