"""A tokenizer with more tokens than it came with, as files that transformers reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from optimizer.errors import CheckpointError, PoolError
from optimizer.merging.checkpoint.files import MAX_TOKENIZER, file_of, read_json
from optimizer.merging.checkpoint.header import FETCH
from optimizer.merging.companions import TEMPLATE
from optimizer.merging.vocabulary.tokens import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    Tokens,
    model_ids,
    read_settings,
)

SPECIAL_MAP = "special_tokens_map.json"
#: lists of special tokens beyond bos, eos and the like, in the settings of transformers 4 and 5
EXTRA_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
#: score of a Unigram piece that is only there to hold a place: never chosen over other pieces
UNCHOSEN = -1e9


class Addition(NamedTuple):
    """A token to come: `owner` is whose it is, None for a token that no model has."""

    text: str
    owner: Tokens | None

    @property
    def piece(self) -> bool:
        """An ordinary piece of its owner's vocabulary, which text is cut into, not an added token."""
        return self.owner is not None and self.text not in self.owner.added


def extend(core: Tokens, additions: Sequence[Addition]) -> tuple[dict[str, Path | bytes], tuple[str, ...]]:
    """The tokenizer of `core` with `additions` behind its own tokens, in their order, as files by name; and remarks.

    Files that tell the vocabulary a second time (tokenizer.model, vocab.json) are left out: they lack the new tokens.

    Ids of `core` stay. Added tokens keep their owner's settings. Pieces of other models are reached by their owner's
    merges, which come after the core's: text is cut as the core cuts it, then joined on.

    Raises:
        PoolError: pieces of another kind of tokenizer, or an opaque one.
        CheckpointError: a tokenizer's file is not sound.
    """
    try:
        return _extended(core, additions)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        folders = sorted({str(core.folder), *(str(addition.owner.folder) for addition in additions if addition.owner)})
        raise CheckpointError(
            f"{TOKENIZER_JSON} of {' or '.join(folders)}: not a tokenizer's file ({error!r})", mend=FETCH
        ) from error


def _extended(core: Tokens, additions: Sequence[Addition]) -> tuple[dict[str, Path | bytes], tuple[str, ...]]:
    file = file_of(core.folder, TOKENIZER_JSON)
    if core.opaque or file is None:
        raise PoolError(
            f"{core.folder}: no {TOKENIZER_JSON}, tokens cannot be added to its tokenizer",
            mend='save it with one (transformers: AutoTokenizer.from_pretrained, save_pretrained) or take "base"',
        )
    whole = read_json(file, MAX_TOKENIZER)
    entries = [_entry(addition, core.size + i) for i, addition in enumerate(additions)]
    owners = _owners_of_pieces(core, additions)
    numbers = {addition.text: core.size + i for i, addition in enumerate(additions)}
    if owners or len(set(core.ids.values())) != core.size:
        # the library numbers added tokens by counting the pieces, unless it finds them among the pieces
        _hold_places(whole["model"], {**core.ids, **numbers}, owners)
    remarks = [_join_merges(whole["model"], core, owner, numbers) for owner in owners]
    whole["added_tokens"] = [*(whole.get("added_tokens") or []), *(entry for entry in entries if entry)]
    content = _serialised(whole, core, numbers)
    specials = [entry["content"] for entry in entries if entry and entry["special"]]
    template = file_of(core.folder, TEMPLATE)
    files: dict[str, Path | bytes] = {TOKENIZER_JSON: content, **_settings(core, entries, specials)}
    if template is not None:
        files[TEMPLATE] = template
    return files, tuple(remark for remark in remarks if remark)


def _entry(addition: Addition, number: int) -> dict[str, Any] | None:
    """The token among `added_tokens`; None for a piece."""
    if addition.piece:
        return None
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    own = {} if addition.owner is None else addition.owner.added[addition.text]
    known = {key: bool(own[key]) for key in plain if key in own}
    return {"id": number, "content": addition.text, **plain, **known}


def _owners_of_pieces(core: Tokens, additions: Sequence[Addition]) -> list[Tokens]:
    owners: list[Tokens] = []
    for addition in additions:
        owner = addition.owner
        if owner is None or not addition.piece or owner in owners:
            continue
        if (owner.kind, owner.notation) != (core.kind, core.notation):
            raise PoolError(
                f"tokenizers of two kinds cannot be united: {core.kind} with {core.notation} pieces in {core.folder}, "
                f"{owner.kind} with {owner.notation} pieces in {owner.folder}, {addition.text!r} for one",
                mend="tokenizer source: base, or the model whose tokenizer the result is to have",
            )
        owners.append(owner)
    return owners


def _hold_places(model: dict[str, Any], ids: Mapping[str, int], owners: Sequence[Tokens]) -> None:
    """Write every token into the model's vocabulary under its id."""
    if isinstance(model["vocab"], dict):
        model["vocab"] = {**model["vocab"], **ids}
        return
    scores = {text: score for owner in reversed(owners) for text, score in _whole_model(owner)["vocab"]}
    scores |= dict(model["vocab"])
    by_id = {number: text for text, number in ids.items()}
    holes = set(range(len(ids))) - by_id.keys()
    if holes:
        raise PoolError(
            f"id {min(holes)} has no token: pieces cannot be added to a Unigram vocabulary with holes",
            mend="tokenizer source: base",
        )
    model["vocab"] = [[by_id[i], scores.get(by_id[i], UNCHOSEN)] for i in range(len(ids))]


def _join_merges(model: dict[str, Any], core: Tokens, owner: Tokens, numbers: Mapping[str, int]) -> str:
    """Append the owner's merges that lead to new pieces; a remark where the owner's own text is then cut differently.

    Of other kinds than BPE nothing is to be done: pieces are found by their spelling or score.
    """
    if core.kind != "BPE":
        return ""
    ours, theirs = [_pair(pair) for pair in model["merges"]], [_pair(pair) for pair in _whole_model(owner)["merges"]]
    known = set(ours)
    vocabulary = model["vocab"]
    new = [p for p in theirs if "".join(p) in numbers and p not in known and all(part in vocabulary for part in p)]
    paired = bool(ours) and isinstance(model["merges"][0], str)
    model["merges"] = [*model["merges"], *(" ".join(pair) if paired else list(pair) for pair in new)]
    if theirs[: len(ours)] == ours:
        return ""
    return f"pieces of {owner.folder.name} come after the merges of {core.folder.name}: its text may be cut differently"


def _pair(pair: Any) -> tuple[str, str]:
    """A merge, "a b" in older files, ["a", "b"] in newer ones."""
    one, other = pair.split(" ", 1) if isinstance(pair, str) else pair
    return one, other


def _whole_model(tokens: Tokens) -> dict[str, Any]:
    file = file_of(tokens.folder, TOKENIZER_JSON)
    assert file is not None, "its tokens were read from there"
    return dict(read_json(file, MAX_TOKENIZER)["model"])


def _serialised(whole: dict[str, Any], core: Tokens, numbers: Mapping[str, int]) -> bytes:
    """The file's content, once the library itself has read the planned ids from it."""
    expected = {**model_ids(whole["model"]), **core.ids, **numbers}
    try:
        content = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
        found = Tokenizer.from_str(content.decode()).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(
            f"{core.folder / TOKENIZER_JSON}: cannot be extended, {error}", mend="tokenizer source: base"
        ) from error
    if found != expected:
        text = next(text for text in expected if found.get(text) != expected[text])
        raise CheckpointError(
            f"{core.folder / TOKENIZER_JSON}: token {text!r} would get id {found.get(text)}, expected {expected[text]}",
            mend="save the tokenizer again (transformers: save_pretrained)",
        )
    return content


def _settings(core: Tokens, entries: Sequence[dict[str, Any] | None], specials: Sequence[str]) -> dict[str, bytes]:
    """tokenizer_config.json and special_tokens_map.json that know the new tokens, where the core has these files."""
    settings = read_settings(core.folder)
    if "added_tokens_decoder" in settings:
        new = {str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in entries if e}
        settings["added_tokens_decoder"] = {**settings["added_tokens_decoder"], **new}
    files = {TOKENIZER_CONFIG: _named(settings, specials)} if settings else {}
    if file := file_of(core.folder, SPECIAL_MAP):
        files[SPECIAL_MAP] = _named(read_json(file, MAX_TOKENIZER), specials)
    return {name: _json(value) for name, value in files.items()}


def _named(settings: dict[str, Any], specials: Sequence[str]) -> dict[str, Any]:
    """With the special tokens listed where the settings list theirs."""
    lists = [key for key in EXTRA_SPECIAL if isinstance(settings.get(key), list)]
    return {**settings, **{key: [*settings[key], *specials] for key in lists[:1]}}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
