"""Files of a model folder, opened with suspicion: a folder may come from anyone. Imports no torch."""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optimizer.errors import CheckpointError

MAX_DEPTH = 32
#: a tokenizer.json of 256k tokens takes about 35 MB
MAX_TOKENIZER = 128 << 20
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def model_folder(folder: Path) -> Path:
    """The real path of a model folder.

    Raises:
        CheckpointError: there is no such folder.
    """
    if not os.path.isdir(folder):
        found = "a file" if os.path.exists(folder) else "nothing"
        raise CheckpointError(
            f"model folder {folder}: found {found}, expected a folder with config.json and safetensors files",
            mend="give the path of a checkpoint folder on this machine",
        )
    return folder.resolve()


def file_of(folder: Path, name: str) -> Path | None:
    """The regular file `name` directly inside `folder`, or None where there is none.

    Raises:
        CheckpointError: `name` is not a plain file name, or it is a link that leaves the folder. Links from a snapshot
            of the Hugging Face cache into the blobs of the same repository are followed.
    """
    if name != os.path.basename(name) or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{folder}: file name {name!r} found, expected a plain name inside the model folder",
            mend="a checkpoint's files lie in one folder; take the checkpoint from its author again",
        )
    home = folder.resolve()
    path = home / name
    if not os.path.lexists(path):  # a name too long for the system, too
        return None
    target = Path(os.path.realpath(path))
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    if target.parent != home and target.parent != blobs:
        raise CheckpointError(
            f"{path}: a symbolic link to {target}, outside the model folder",
            mend="copy the file into the folder",
        )
    if not os.path.exists(target):
        raise CheckpointError(f"{path}: a symbolic link to nothing", mend="fetch the checkpoint again")
    if not stat.S_ISREG(target.stat().st_mode):
        raise CheckpointError(f"{path}: not a regular file", mend="fetch the checkpoint again")
    return target


def parse_json(raw: bytes, file: Path) -> dict[str, Any]:
    """A JSON object without duplicate keys and of bounded depth.

    Raises:
        CheckpointError: anything else, naming `file`.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise CheckpointError(f"{file}: key {twice!r} occurs twice", mend="fetch the checkpoint again")
        return found

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        raise CheckpointError(f"{file}: nested too deep, at most {MAX_DEPTH} levels are read") from None
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON ({error})", mend="fetch the checkpoint again") from None
    if _SURROGATE.search(raw) and not _encodable(value):
        raise CheckpointError(f"{file}: half a character found (\\ud800 … \\udfff)", mend="fetch the checkpoint again")
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds a JSON {type(value).__name__}, expected an object")
    _limit_depth(value, file)
    return value


def read_json(file: Path, limit: int) -> dict[str, Any]:
    """The JSON object in `file`, which may have `limit` bytes at most.

    Raises:
        CheckpointError: too large, too deep, a duplicate key, or not a JSON object.
    """
    with reading(file):
        size = file.stat().st_size
        if size > limit:
            raise CheckpointError(
                f"{file}: {size:,} bytes, at most {limit:,} are read", mend="this is no usual checkpoint"
            )
        raw = file.read_bytes()
    return parse_json(raw, file)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns what the system says about a file (no permission, a broken disk) into an error that names it.

    Raises:
        CheckpointError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}", mend="make the file readable") from None


def _encodable(value: Any) -> bool:
    """All texts in the value can be written, printed, logged."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    except RecursionError:  # told by `_limit_depth`
        return True
    return True


def _limit_depth(value: Any, file: Path) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise CheckpointError(f"{file}: nested too deep, at most {MAX_DEPTH} levels are read")
