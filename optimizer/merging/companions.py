"""The files beside the weights: tokenizer, chat template, generation config. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.compatibility import template_folder
from optimizer.merging.checkpoint.files import MAX_TOKENIZER, file_of, read_json
from optimizer.merging.checkpoint.header import refuse_code

#: files that make up a tokenizer, of all kinds that transformers reads
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
TEMPLATE = "chat_template.jinja"
TOKENIZER = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE,
)
GENERATION = "generation_config.json"


def companions_of(base: Path, models: Sequence[Path]) -> Mapping[str, Path | bytes]:
    """Tokenizer files of one model, never mixed, and its generation config (which knows the end token of its chat).

    They are the base's; where the base was never taught to chat, those of the first model with a chat template.

    Raises:
        CheckpointError: an unsafe or oversized file, or one that asks for code of its own.
    """
    chatting = template_folder(base, models)
    owners = [chatting, base, *models]
    owner = next((owner for owner in owners if any(file_of(owner, name) for name in VOCABULARIES)), None)
    generation = chatting if file_of(chatting, GENERATION) else base
    return {**({} if owner is None else tokenizer_files(owner)), **_files(generation, (GENERATION,))}


def tokenizer_files(folder: Path) -> dict[str, Path | bytes]:
    """Every file of a folder's tokenizer, its chat template included, by name.

    Raises:
        CheckpointError: an unsafe or oversized file, or one that asks for code of its own.
    """
    found = _files(folder, TOKENIZER)
    settings = found.get("tokenizer_config.json")
    if isinstance(settings, Path):
        refuse_code(read_json(settings, MAX_TOKENIZER), folder / "tokenizer_config.json")
    return found


def _files(folder: Path, names: Sequence[str]) -> dict[str, Path | bytes]:
    found: dict[str, Path | bytes] = {}
    for name in names:
        if file := file_of(folder, name):
            if file.stat().st_size > MAX_TOKENIZER:
                raise CheckpointError(f"{folder / name}: over {MAX_TOKENIZER:,} bytes")
            found[name] = file
    return found
