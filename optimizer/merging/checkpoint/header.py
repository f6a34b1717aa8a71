"""What a checkpoint says about itself: its config and the headers of its safetensors files.

No weight is read and no torch is imported: the API process checks pools with this. The format: 8 bytes with the length
N of the header (little endian), N bytes of JSON {name: {dtype, shape, data_offsets}}, then the data without holes
(https://github.com/huggingface/safetensors#format).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.files import file_of, model_folder, parse_json, read_json, reading

MAX_HEADER = 100_000_000
MAX_INDEX = 64 << 20
MAX_CONFIG = 2 << 20
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
FETCH = "fetch or save the checkpoint again"

#: bytes an element
DTYPE_SIZES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
#: dtypes whose values can be added up
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

#: sizes beyond these are no language model of this decade; what is built from a config is estimated from them first
CONFIG_LIMITS: Mapping[str, int] = {
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "num_hidden_layers": 2048,
    "num_attention_heads": 4096,
    "vocab_size": 1 << 24,
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. `begin` and `end` are positions in `file`, in bytes from its start."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint, by name, in the order in which the data lies on disk.

    Raises:
        CheckpointError: no safetensors, a damaged or unsafe file, an index that disagrees with its shards.
    """
    folder = model_folder(folder)
    names, indexed = _shards(folder)
    infos: dict[str, TensorInfo] = {}
    for shard in names:
        file = file_of(folder, shard)
        if file is None:
            raise CheckpointError(f"{folder}: {shard} is missing, its index names it", mend=FETCH)
        for name, info in read_header(file, shown=folder / shard).items():
            if name in infos:
                raise CheckpointError(f"{folder}: tensor {name} is in {shard} and in another shard", mend=FETCH)
            infos[name] = info
    if lost := [name for name in indexed if name not in infos]:
        raise CheckpointError(f"{folder}: the index names {lost[0]} ({len(lost)} in all), no shard has it", mend=FETCH)
    if not infos:
        raise CheckpointError(f"{folder}: no tensors in {', '.join(names)}", mend=FETCH)
    return infos


def _shards(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the safetensors files to read, and of the tensors that the index promises."""
    if index := file_of(folder, INDEX):
        weight_map = read_json(index, MAX_INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
            raise CheckpointError(f"{folder / INDEX}: no weight_map from tensor to shard", mend=FETCH)
        return sorted(set(weight_map.values())), list(weight_map)
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if "model.safetensors" in found:
        return ["model.safetensors"], []
    if ADAPTER in found:
        raise CheckpointError(
            f"{folder}: a LoRA adapter found, expected a full checkpoint", mend=f"give it with its base: BASE+{folder}"
        )
    if len(found) == 1:
        return found, []
    if found:
        raise CheckpointError(f"{folder}: {len(found)} safetensors files and no {INDEX}", mend=FETCH)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    raise CheckpointError(
        f"{folder}: {', '.join(pickles[:3]) or 'no weights'} found, expected safetensors files",
        mend="convert the checkpoint to safetensors (transformers: save_pretrained); pickles can run code",
    )


def read_header(file: Path, shown: Path | None = None) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, in the order of their data; `shown` is the path to name in errors.

    Raises:
        CheckpointError: the file is not exactly what the format says, or names a tensor like a path.
    """
    shown = shown or file
    with reading(shown), file.open("rb") as stream:
        size = file.stat().st_size
        head = stream.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length < 2 or length > MAX_HEADER:
            raise CheckpointError(
                f"{shown}: header of {length:,} bytes, a safetensors header has 2 to {MAX_HEADER:,}", mend=FETCH
            )
        if 8 + length > size:
            raise CheckpointError(f"{shown}: truncated, {size:,} bytes with a header of {length:,}", mend=FETCH)
        raw = stream.read(length)
    if not raw.startswith(b"{"):
        raise CheckpointError(f"{shown}: not a safetensors header, it starts with {raw[:4]!r}", mend=FETCH)
    entries = parse_json(raw, shown)
    notes = entries.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise CheckpointError(f"{shown}: __metadata__ is {str(notes)[:80]!r}, expected texts by name", mend=FETCH)
    start = 8 + length
    infos = {name: _tensor(name, entry, file, shown, start) for name, entry in entries.items()}
    ordered = dict(sorted(infos.items(), key=lambda item: (item[1].begin, item[1].end)))
    position = start
    for name, info in ordered.items():
        if info.begin != position:
            kind = "overlaps the one before it" if info.begin < position else "leaves a hole before it"
            raise CheckpointError(f"{shown}: tensor {name} {kind}", mend=FETCH)
        position = info.end
    if position != size:
        kind = "truncated" if size < position else "trailing bytes"
        raise CheckpointError(f"{shown}: {kind}, {size:,} bytes found, {position:,} expected", mend=FETCH)
    return ordered


def _tensor(name: str, entry: Any, file: Path, shown: Path, start: int) -> TensorInfo:
    """One entry of a header, checked against itself. `start`: where the data begins."""
    if not name or len(name) > 1024 or re.search(r"[/\\\x00-\x1f\x7f]|\.\.", name):
        raise CheckpointError(f"{shown}: tensor name {name[:80]!r}; a tensor name is never a path", mend=FETCH)
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [begin, end, *shape]
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{shown}: tensor {name} has no dtype, shape and data_offsets", mend=FETCH) from None
    if not isinstance(dtype, str) or dtype not in DTYPE_SIZES:
        raise CheckpointError(f"{shown}: tensor {name} has dtype {dtype!r}, known: {', '.join(DTYPE_SIZES)}")
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers) or len(shape) > 16:
        raise CheckpointError(f"{shown}: tensor {name} has no sensible shape and place", mend=FETCH)
    wanted = math.prod(shape) * DTYPE_SIZES[dtype]
    if end - begin != wanted:
        raise CheckpointError(
            f"{shown}: tensor {name} of shape {shape} in {dtype} takes {end - begin:,} bytes, {wanted:,} expected",
            mend=FETCH,
        )
    return TensorInfo(dtype, tuple(shape), file, start + begin, start + end)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, refused where it asks for code of its own or for an absurd size.

    Raises:
        CheckpointError: no config, too large, too deep, `auto_map`, a Python file, or a size over CONFIG_LIMITS.
    """
    folder = model_folder(folder)
    file = file_of(folder, "config.json")
    if file is None:
        raise CheckpointError(f"{folder}: no config.json", mend="give a checkpoint folder as transformers saves it")
    config = read_json(file, MAX_CONFIG)
    refuse_code(config, folder / "config.json")
    flat = language_config(config)
    for key, limit in CONFIG_LIMITS.items():
        value = flat.get(key)
        if value is not None and (type(value) is not int or not 0 < value <= limit):
            raise CheckpointError(f"{folder}/config.json: {key} is {value!r}, expected 1 … {limit:,}", mend=FETCH)
    return config


def refuse_quantised(folder: Path, config: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> None:
    """Refuse weights in a notation whose values cannot be added up.

    Raises:
        CheckpointError: the config speaks of quantisation, or a tensor is in eight-bit floats.
    """
    odd = next((name for name, info in infos.items() if info.dtype.startswith("F8")), None)
    if config.get("quantization_config"):
        found = "quantised weights cannot be merged"
    elif odd is not None:
        found = f"tensor {odd} is in {infos[odd].dtype}, expected one of {', '.join(sorted(FLOATS))}"
    else:
        return
    raise CheckpointError(f"{folder}: {found}", mend="give the checkpoint before quantisation")


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the language model: models that also see keep them in `text_config`."""
    inner = config.get("text_config")
    own = {key: value for key, value in inner.items() if value is not None} if isinstance(inner, dict) else {}
    return {**config, **own}


def refuse_code(config: Mapping[str, Any], file: Path) -> None:
    """Refuse a config that names code: `auto_map`, or any value that is a Python file.

    Raises:
        CheckpointError: it does.
    """
    pending: list[tuple[str, Any]] = list(config.items())
    while pending:
        key, value = pending.pop()
        if key == "auto_map" and value:
            found = f"auto_map {value!r}"
        elif isinstance(value, str) and value.strip().lower().endswith(".py"):
            found = f"{key}: {value!r}"
        else:
            if isinstance(value, dict):
                pending += value.items()
            elif isinstance(value, list):
                pending += [(key, inner) for inner in value]
            continue
        raise CheckpointError(
            f"{file}: {found} asks for code of the checkpoint's own; Temper runs none",
            mend="use a checkpoint of an architecture that transformers knows by itself",
        )
