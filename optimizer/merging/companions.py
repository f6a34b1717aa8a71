"""The files beside the weights: tokenizer, chat template, generation config. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.compatibility import template_folder
from optimizer.merging.checkpoint.files import MAX_TOKENIZER, file_of

#: files that make up a tokenizer, of all kinds that transformers reads
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
TOKENIZER = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def companions_of(base: Path, models: Sequence[Path]) -> Mapping[str, Path | bytes]:
    """Tokenizer files of one model, never mixed, and its generation config (which knows the end token of its chat).

    They are the base's; where the base was never taught to chat, those of the first model with a chat template.

    Raises:
        CheckpointError: an unsafe or oversized file.
    """
    owners = [template_folder(base, models), base, *models]
    tokenizer = next((owner for owner in owners if any(file_of(owner, name) for name in VOCABULARIES)), None)
    generation = next((owner for owner in owners[:2] if file_of(owner, "generation_config.json")), base)
    wanted = [(tokenizer, name) for name in TOKENIZER] + [(generation, "generation_config.json")]
    found: dict[str, Path | bytes] = {}
    for owner, name in wanted:
        if owner is not None and (file := file_of(owner, name)):
            if file.stat().st_size > MAX_TOKENIZER:
                raise CheckpointError(f"{owner / name}: over {MAX_TOKENIZER:,} bytes")
            found[name] = file
    return found
