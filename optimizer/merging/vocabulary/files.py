"""Tokenizer files, chat template and generation config that go with a vocabulary."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.merging.checkpoint.compatibility import chat_template
from optimizer.merging.checkpoint.files import file_of, parse_json, read_json
from optimizer.merging.checkpoint.header import MAX_CONFIG, refuse_code
from optimizer.merging.companions import GENERATION, TEMPLATE
from optimizer.merging.vocabulary.templates import choose_template
from optimizer.merging.vocabulary.tokens import TOKENIZER_CONFIG, Tokens

#: keys of config.json and generation_config.json that hold ids of tokens
_ID_KEY = re.compile(r"(^|_)token_(id|ids|index)$")
Files = dict[str, Path | bytes]


@dataclass(frozen=True)
class Target:
    """The result's vocabulary: `core` is the tokenizer that it is made from (None: there is none), `ids` the ids of all
    its tokens."""

    core: Tokens | None
    ids: Mapping[str, int]

    def translator(self, tokens: Tokens | None) -> Callable[[int], int | None]:
        """From ids of another vocabulary to those of this one; None where it lacks the token."""
        if self.core is None or tokens is None or tokens.opaque or tokens.same(self.core):
            return lambda number: number
        texts = {number: text for text, number in tokens.ids.items()}
        return lambda number: self.ids.get(texts[number]) if number in texts else None


def chat_files(
    files: Files,
    wanted: str | None,
    folders: Mapping[str, Path],
    tokens: Mapping[str, Tokens | None],
    target: Target,
    generation: str,
) -> tuple[Files, list[str]]:
    """Tokenizer files with the chat template that is wanted and the generation config that goes with it; and remarks.

    The generation config is the template's owner's, else that of the model `generation`; its ids, and the one that ends
    a turn of a built-in template, are those of the target.

    Raises:
        RecipeError, CheckpointError: see `choose_template`; a damaged or unsafe file.
    """
    notes: list[str] = []
    end = None
    if wanted is not None:
        template = choose_template(wanted, folders, next(iter(folders)))
        if template is None:
            notes.append(f"chat_template {wanted}: there is none to take, the tokenizer's own is kept")
        else:
            files = _with_template(files, template.text)
            if template.model is not None and file_of(folders[template.model], GENERATION):
                generation = template.model
            end = None if template.end is None else target.ids.get(template.end)
            if template.end is not None and end is None:
                notes.append(f"chat_template {wanted}: ends turns with {template.end!r}, which is no token here")
    elif (
        target.core is not None and not chat_template(target.core.folder) and any(map(chat_template, folders.values()))
    ):
        notes.append("no chat template comes with this tokenizer; chat_template: auto takes the pool's")
    settings = _generation_config(folders[generation], target.translator(tokens[generation]), end)
    return {**files, **settings}, notes


def translated(settings: Mapping[str, Any], translate: Callable[[int], int | None]) -> dict[str, Any]:
    """The entries of `settings` that are ids of tokens, in the result's vocabulary. What is lost there is left out of
    lists and None elsewhere."""
    ids: dict[str, Any] = {}
    for key, value in settings.items():
        if _ID_KEY.search(key) and type(value) is int:
            ids[key] = translate(value)
        elif _ID_KEY.search(key) and isinstance(value, list) and all(type(number) is int for number in value):
            ids[key] = [new for number in value if (new := translate(number)) is not None] or None
    return ids


def _generation_config(folder: Path, translate: Callable[[int], int | None], end: int | None) -> Files:
    """generation_config.json of a folder, translated, `end` among what ends a text. Empty where there is nothing."""
    file = file_of(folder, GENERATION)
    settings = {} if file is None else read_json(file, MAX_CONFIG)
    refuse_code(settings, folder / GENERATION)
    changed = {**settings, **translated(settings, translate)}
    present = changed.get("eos_token_id")
    ends = present if isinstance(present, list) else [] if present is None else [present]
    if end is not None and end not in ends:
        changed["eos_token_id"] = [*ends, end]
    if file is not None and changed == settings:
        return {GENERATION: file}
    return {GENERATION: _json(changed)} if changed else {}


def _with_template(files: Files, text: str) -> Files:
    found: Files = {**files, TEMPLATE: text.encode()}
    settings = found.get(TOKENIZER_CONFIG)
    if settings is not None:
        raw = settings if isinstance(settings, bytes) else settings.read_bytes()
        value = parse_json(raw, Path(TOKENIZER_CONFIG))
        if value.pop("chat_template", None) is not None:
            found[TOKENIZER_CONFIG] = _json(value)
    return found


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
