"""Whether an engine started with one checkpoint can take the weights of another. Reads configs and headers only."""

import json
import struct
from pathlib import Path
from typing import Any

from datagen.errors import EngineError

_HEADER_LIMIT = 100_000_000
#: fields of config.json that change neither the weights' shapes nor what is computed with them
_FREE = {
    "_name_or_path",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def read_config(model: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder.

    Raises:
        EngineError: there is none, it is no JSON object, or it names code of its own to run.
    """
    file = model / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{file} cannot be read: {error}", mend="name a checkpoint folder") from None
    if not isinstance(config, dict):
        raise EngineError(f"{file} holds {type(config).__name__}, expected an object")
    if "auto_map" in config:
        raise EngineError(f"{file} names code to run (auto_map), expected an architecture that vLLM knows")
    return config


def weight_files(model: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, sorted by name.

    Raises:
        EngineError: there are none.
    """
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise EngineError(f"{model} holds no .safetensors file", mend="convert the checkpoint to safetensors")
    return files


def read_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, from the headers of the safetensors files.

    Raises:
        EngineError: a file is no safetensors file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(model):
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > _HEADER_LIMIT:
                    raise ValueError(f"its header claims {length} bytes")
                header = json.loads(stream.read(length))
            shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        except (OSError, ValueError, struct.error, TypeError, KeyError, AttributeError) as error:
            raise EngineError(f"{file} is no safetensors file: {error}") from None
    return shapes


def check_same_architecture(started: Path, model: Path) -> None:
    """
    Raises:
        EngineError: an engine started with `started` cannot answer with the weights of `model`; says what differs.
    """
    first, second = read_config(started), read_config(model)
    keys = sorted(key for key in first.keys() | second.keys() if key not in _FREE and first.get(key) != second.get(key))
    differences = [f"{key} is {second.get(key)!r}, expected {first.get(key)!r}" for key in keys]
    if not differences:
        ours, theirs = read_shapes(started), read_shapes(model)
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        differences = [f"tensor {name} has shape {theirs.get(name)}, expected {ours.get(name)}" for name in names]
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise EngineError(
            f"{model} does not have the architecture of {started}, which the engine was started with: {shown}",
            mend="models of one pool share their architecture; start another engine for this one",
        )
