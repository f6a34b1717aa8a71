"""Which model, exactly: content hashes of checkpoint folders. The same files give the same revision anywhere."""

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from datagen.errors import DataError

_LENGTH = 40
#: what decides a model's answers: config, tokenizer, template, weights; not cards or training leftovers
_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_LEFTOVERS = {"trainer_state.json", "training_args.json", "all_results.json", "train_results.json", "manifest.json"}


def revision(folder: Path) -> str:
    """The first 40 hex digits of the SHA-256 over names and contents of the files that make up a checkpoint.

    Files that did not change since the last call are not read again.

    Raises:
        DataError: `folder` is no checkpoint folder.
    """
    files = _files(folder)
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name}\0{_content(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:_LENGTH]


def template_hash(folder: Path) -> str:
    """The first 40 hex digits of the SHA-256 of the chat template, "" where the checkpoint has none."""
    text = chat_template(folder)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH] if text else ""


def chat_template(folder: Path) -> str:
    """Source of a checkpoint's chat template, from its own file or its tokenizer's config; "" where there is none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return ""
    # several named templates stand in a list
    return found if isinstance(found, str) else json.dumps(found, sort_keys=True) if found else ""


def _files(folder: Path) -> list[Path]:
    files = sorted({file for file in _candidates(folder) if file.is_file() and file.name not in _LEFTOVERS})
    if not any(file.suffix == ".safetensors" for file in files):
        raise DataError(f"{folder} holds no .safetensors file", mend="name a checkpoint folder")
    return files


def _candidates(folder: Path) -> Iterator[Path]:
    for pattern in _PATTERNS:
        yield from folder.glob(pattern)


@lru_cache(maxsize=4096)
def _content(file: Path, size: int, changed_ns: int) -> str:
    """Hash of a file; size and time of change only tell the cache when to forget."""
    del size, changed_ns
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
