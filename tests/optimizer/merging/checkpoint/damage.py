"""Random damage to files of a model: what is done to the bytes, and what a correct reader makes of the result."""

import copy
import io
import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from datagen.errors import TemperError
from optimizer.merging.checkpoint.header import INDEX
from optimizer.merging.checkpoint.models import open_model
from optimizer.merging.inspection import inspect_pool
from optimizer.merging.methods.base import matrix
from service.inspection import show
from tests.optimizer.merging.adapters import make_adapter
from tests.optimizer.merging.pools import add_tokenizer, make_model

JUNK = (
    b"[", b"]", b"{", b"}", b"{}", b'"', b"null", b"-", b"9", b"1e999", b"NaN", b",", b":", b"\0", b"\xff", b"\\ud800",
    b"\\", b"../", b"[" * 40, b"true", b'"a":1,', b"9" * 30, b"1.5", b"\x1b[31m", b" ",
)  # fmt: skip


#: what a JSON value may have become
ODD = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1 << 31, 1 << 62, 1 << 70, -(1 << 70), 0.5, 1e308, math.nan, math.inf, "",
    "x", "F32", "BF16", "U8", "F8_E4M3", "LORA", "../x", "x.py", "\0", "é", "\x1b[2J", "q_proj", [], [[]], [1], ["a"],
    [None], [0, 24], {}, {"a": 1}, {"q_proj": 2}, {"": {}},
)  # fmt: skip


def warped(good: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three values of their JSON (a safetensors file's header) replaced, moved or taken away."""
    binary = good[8:9] == b"{"
    length = int.from_bytes(good[:8], "little") if binary else len(good)
    start = 8 if binary else 0
    tree = json.loads(good[start : start + length])
    for _ in range(rng.randint(1, 3)):
        holders = _holders(tree)
        holder = rng.choice(holders[: 1 + rng.randrange(len(holders))])  # the upper levels more often
        key: Any = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        kind = rng.randrange(4)
        if kind == 0:
            del holder[key]
            if not tree:
                break
        elif kind == 1:
            holder[key] = copy.deepcopy(rng.choice(_values(tree)))
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice(["r", "x", "model.norm.weight", str(key) + "x"])] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(tree).encode()
    return len(text).to_bytes(8, "little") + text + good[8 + length :] if binary else text


def _values(tree: Any) -> list[Any]:
    """The value and everything in it."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tree, *(value for part in inner for value in _values(part))]


def _holders(tree: Any) -> list[Any]:
    return [value for value in _values(tree) if isinstance(value, dict | list) and value] or [[0]]


def make_subject(folder: Path) -> dict[str, Path]:
    """A model in two shards with a tokenizer and an adapter; its files by name."""
    base = make_model(folder / "base", 0)
    model = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(model)
    halves = {"m-1.safetensors": names[::2], "m-2.safetensors": names[1::2]}
    for shard, own in halves.items():
        save_file({name: model[name] for name in own}, base / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, own in halves.items() for name in own}
    (base / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    add_tokenizer(base)
    adapter = make_adapter(base, folder / "lora", target_modules=["q_proj", "down_proj"])
    files = [
        base / name for name in ("m-1.safetensors", INDEX, "config.json", "tokenizer.json", "tokenizer_config.json")
    ]
    files += [adapter / name for name in ("adapter_config.json", "adapter_model.safetensors")]
    return {file.name: file for file in files}


def damaged(good: bytes, rng: random.Random) -> bytes:
    """The bytes after one to three accidents; of safetensors files, most happen to the header."""
    data = bytearray(good)
    binary = good[8:9] == b"{"
    for _ in range(rng.randint(1, 3)):
        end = len(data)
        if binary and rng.random() < 0.85:
            end = min(end, 8 + int.from_bytes(good[:8], "little") + 16)
        at = rng.randrange(max(1, end))
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[rng.randrange(len(data) + 1) :]
        elif kind == 2:
            data += rng.choice([bytes(rng.randint(1, 64)), rng.randbytes(9), b"}", b"\n"])
        elif kind == 3:
            data[at : at + rng.randint(0, 4)] = rng.choice(JUNK)
        elif kind == 4:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 5:
            data[at:at] = data[at : at + rng.randint(1, 80)]
        elif kind == 6 and binary:
            data[:8] = rng.choice([rng.randbytes(8), (len(data) + rng.randint(-40, 40)).to_bytes(8, "little")])
        elif digits := [found.start() for found in re.finditer(rb"\d", bytes(data[:end]))]:
            data[rng.choice(digits)] = ord(rng.choice("0123456789"))
    return bytes(data)


def check(files: dict[str, Path], name: str) -> bool:
    """Whether the model was refused; it is, with an error that names its folder, or it reads as it should.

    Raises:
        AssertionError, or whatever else went wrong.
    """
    base, adapter = files["config.json"].parent, files["adapter_config.json"].parent
    refusals = 0
    for reference in (str(base), f"{base}+{adapter}"):
        try:
            inspection = inspect_pool([reference, base])
            reader = open_model(reference)
        except TemperError as error:
            refusal = error.message
        else:
            refusal = ""
        if refusal:
            assert str(files[name].parent).encode() in refusal.encode()
            refusals += 1
            continue
        json.dumps(inspection.to_dict(), ensure_ascii=False).encode()
        show(inspection, Console(file=io.TextIOWrapper(io.BytesIO(), "utf-8")))
        truth = dict(_adapted(base, adapter) if "+" in reference else _plain(base))
        assert reader.infos.keys() == truth.keys()
        for tensor, expected in truth.items():
            source = reader.tensor(tensor)
            found = source.rows(0, matrix(source.shape)[0]).view(source.shape)
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4, equal_nan=True, msg=tensor)
    return refusals > 0


def _plain(base: Path) -> Iterator[tuple[str, Tensor]]:
    """What safetensors itself finds in the shards that the index names, less a tied head."""
    tied = json.loads((base / "config.json").read_text()).get("tie_word_embeddings") is True
    for shard in set(json.loads((base / INDEX).read_text())["weight_map"].values()):
        yield from (item for item in load_file(base / shard).items() if not tied or item[0] != "lm_head.weight")


def _adapted(base: Path, adapter: Path) -> Iterator[tuple[str, Tensor]]:
    """W + α/r·B·A, by the formula."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    parts = load_file(adapter / "adapter_model.safetensors")
    root = math.sqrt(settings["r"]) if settings.get("use_rslora") else settings["r"]
    for name, own in _plain(base):
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in parts:
            delta = parts[f"{module}.lora_B.weight"] @ parts[f"{module}.lora_A.weight"]
            yield name, own + delta * (settings["lora_alpha"] / root)
        else:
            yield name, own
