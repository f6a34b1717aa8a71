"""A checkpoint folder may come from anyone: what is damaged or unsafe is refused from config and headers alone."""

import json
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.header import MAX_HEADER, read_config, read_headers
from tests.optimizer.merging.pools import edit_json

GOOD = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
CONFIG = {"model_type": "qwen2", "hidden_size": 32, "num_hidden_layers": 2}


def write(file: Path, header: Mapping[str, Any] | str, data: int = 24, length: int | None = None) -> Path:
    text = header if isinstance(header, str) else json.dumps(header)
    raw = text.encode()
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + bytes(data))
    return file.parent


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_headers(folder)
    for word in words:
        assert word in str(caught.value)


def test_a_good_file(tmp_path: Path) -> None:
    infos = read_headers(write(tmp_path / "m" / "model.safetensors", {**GOOD, "__metadata__": {"format": "pt"}}))
    assert list(infos) == ["w"]
    assert infos["w"].shape == (2, 3)
    assert infos["w"].end - infos["w"].begin == 24
    assert infos["w"].end == (tmp_path / "m" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_only_pickles(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"w": 1}))
    refused(tmp_path, name, "safetensors")


def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "nothing")


def test_a_lora_adapter_alone(tmp_path: Path) -> None:
    refused(write(tmp_path / "adapter_model.safetensors", GOOD), "LoRA")


def test_a_renamed_pickle(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"w": list(range(1000))}))
    refused(tmp_path, "model.safetensors", "header")


def test_a_huge_header_takes_no_memory(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", GOOD, length=MAX_HEADER + 1)
    os.truncate(tmp_path / "model.safetensors", 2 * MAX_HEADER)  # sparse: the length could be true
    tracemalloc.start()
    refused(tmp_path, "100,000,001")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("header", "data", "word"),
    [
        (GOOD, 20, "truncated"),
        (GOOD, 28, "trailing bytes"),
        ('{"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}, "w": {}}', 24, "twice"),
        ({}, 0, "no tensors"),
        ({"__metadata__": {"format": "pt"}}, 0, "no tensors"),
        ({"../../x": GOOD["w"]}, 24, "never a path"),
        ({"a/b": GOOD["w"]}, 24, "never a path"),
        ({"a\\b": GOOD["w"]}, 24, "never a path"),
        ({"": GOOD["w"]}, 24, "never a path"),
        ({"w": {**GOOD["w"], "dtype": "F13"}}, 24, "F13"),
        ({"w": {**GOOD["w"], "shape": [2, 4]}}, 24, "32 expected"),
        ({"w": {**GOOD["w"], "shape": [-2, -3]}}, 24, "shape"),
        ({"w": {**GOOD["w"], "shape": [2**40, 2**40]}}, 24, "expected"),
        ({"w": {**GOOD["w"], "shape": [6.0]}}, 24, "shape"),
        ({"w": {"dtype": "F32", "shape": [6], "data_offsets": [4, 28]}}, 28, "hole"),
        ({**GOOD, "v": {"dtype": "F32", "shape": [3], "data_offsets": [12, 24]}}, 24, "overlaps"),
        ({"w": 5}, 24, "no dtype"),
        ({**GOOD, "__metadata__": {"format": 1}}, 24, "__metadata__"),
        ({**GOOD, "__metadata__": ["pt"]}, 24, "__metadata__"),
        ('{"\\ud800": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}', 24, "half a character"),
        ('{"w": {"dtype": "F32", "shape": [' + "9" * 5000 + '], "data_offsets": [0, 24]}}', 24, "not JSON"),
        ({"w": {"dtype": ["F32"], "shape": [6], "data_offsets": [0, 24]}}, 24, "dtype"),
        ("[1, 2]", 0, "not a safetensors header"),
        ('{"w": ' + "[" * 100_000, 0, "model.safetensors"),
        ('{"w": ' + "[" * 50 + "]" * 50 + "}", 0, "deep"),
        ('{"w": \xff}', 0, "not JSON"),
    ],
)
def test_a_header_that_lies(tmp_path: Path, header: Mapping[str, Any] | str, data: int, word: str) -> None:
    refused(write(tmp_path / "model.safetensors", header, data), "model.safetensors", word)


def test_a_key_twice_among_very_many_is_found_at_once(tmp_path: Path) -> None:
    names = [*(f"w{i}" for i in range(200_000)), "w199999"]
    header = "{" + ",".join(f'"{name}":0' for name in names) + "}"
    refused(write(tmp_path / "model.safetensors", header), "'w199999' occurs twice")


def sharded(folder: Path, weight_map: Mapping[str, str]) -> Path:
    write(folder / "s1.safetensors", GOOD)
    write(folder / "s2.safetensors", {"v": GOOD["w"]})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards(tmp_path: Path) -> None:
    infos = read_headers(sharded(tmp_path, {"w": "s1.safetensors", "v": "s2.safetensors"}))
    assert {name: info.file.name for name, info in infos.items()} == {"w": "s1.safetensors", "v": "s2.safetensors"}


@pytest.mark.parametrize("shard", ["../s1.safetensors", "/etc/passwd", "x/../s1.safetensors", "..", ""])
def test_an_index_that_leaves_the_folder(tmp_path: Path, shard: str) -> None:
    write(tmp_path / "s1.safetensors", GOOD)
    refused(sharded(tmp_path / "m", {"w": shard}), "inside the model folder")


def test_an_index_that_disagrees(tmp_path: Path) -> None:
    refused(sharded(tmp_path, {"w": "s1.safetensors", "u": "s2.safetensors"}), "u", "no shard has it")
    refused(sharded(tmp_path, {"w": "s1.safetensors", "v": "s3.safetensors"}), "s3.safetensors", "missing")
    write(tmp_path / "s2.safetensors", GOOD)
    refused(sharded_again(tmp_path), "another shard")


def sharded_again(folder: Path) -> Path:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"w": "s1.safetensors", "v": "s2.safetensors"}})
    )
    return folder


def test_names_that_no_system_has(tmp_path: Path) -> None:
    refused(sharded(tmp_path, {"w": "s1.safetensors", "v": "x" * 5000}), "missing")


def test_a_link_to_itself_and_a_link_to_nothing(tmp_path: Path) -> None:
    for target in ("model.safetensors", "nothing"):
        (tmp_path / "model.safetensors").symlink_to(target)
        refused(tmp_path, "model.safetensors", "symbolic link to nothing")
        (tmp_path / "model.safetensors").unlink()


def test_shards_without_an_index(tmp_path: Path) -> None:
    sharded(tmp_path, {})
    (tmp_path / "model.safetensors.index.json").unlink()
    refused(tmp_path, "2 safetensors files", "index")


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "model.safetensors", GOOD)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").symlink_to(tmp_path / "elsewhere" / "model.safetensors")
    refused(tmp_path / "m", "symbolic link")
    (tmp_path / "m" / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match="symbolic link"):
        read_config(tmp_path / "m")


def test_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--name"
    write(repo / "blobs" / "abc", GOOD)
    snapshot = repo / "snapshots" / "rev"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    assert list(read_headers(snapshot)) == ["w"]
    other = write(tmp_path / "models--org--other" / "blobs" / "abc", GOOD)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(other / "abc")
    refused(snapshot, "symbolic link")


def test_a_pipe_in_place_of_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    refused(tmp_path, "regular file")


def config(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def test_a_good_config(tmp_path: Path) -> None:
    assert read_config(config(tmp_path))["hidden_size"] == 32


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}},
        {"text_config": {"auto_map": {"AutoConfig": "x.Y"}}},
        {"custom_code": "modeling_canary.py"},
        {"custom_pipelines": {"p": {"impl": ["canary.py"]}}},
    ],
)
def test_a_config_that_asks_for_code(tmp_path: Path, changes: dict[str, Any]) -> None:
    canary = tmp_path / "ran"
    for name in ("modeling_canary.py", "canary.py", "modeling_x.py", "x.py"):
        (tmp_path / name).write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(CheckpointError, match="code"):
        read_config(config(tmp_path, **changes))
    assert not canary.exists()


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 10**9}, {"num_hidden_layers": 10**6}, {"vocab_size": -1}, {"hidden_size": "32"}]
)
def test_a_config_of_absurd_size(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        read_config(config(tmp_path, **changes))


def test_a_large_a_deep_and_no_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_config(tmp_path)
    config(tmp_path, filler="x" * 50_000_000)
    with pytest.raises(CheckpointError, match=r"config\.json: 50,\d+,\d+ bytes"):
        read_config(tmp_path)
    for depth in (40, 100_000):
        (tmp_path / "config.json").write_text('{"a":' * depth + "1" + "}" * depth)
        with pytest.raises(CheckpointError, match="deep"):
            read_config(tmp_path)


def test_damage_is_refused_wherever_it_is(tmp_path: Path, pool: tuple[Path, dict[str, Path]]) -> None:
    """Cutting a real checkpoint at any place, or a flipped header byte, never gives tensors that are not there."""
    good = (pool[0] / "model.safetensors").read_bytes()
    before = read_headers(pool[0])
    shutil.copy(pool[0] / "config.json", tmp_path)
    file = tmp_path / "model.safetensors"
    length = 8 + int.from_bytes(good[:8], "little")
    for cut in (0, 1, 7, 8, 9, length - 1, length, length + 1, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:cut])
        refused(tmp_path, "model.safetensors")
    for at in range(0, length, 7):
        damaged = bytearray(good)
        damaged[at] ^= 0x15
        file.write_bytes(damaged)
        try:
            after = read_headers(tmp_path)
        except CheckpointError:
            continue
        assert sum(i.end - i.begin for i in after.values()) == sum(i.end - i.begin for i in before.values())


def test_edit_keeps_other_keys(tmp_path: Path) -> None:
    config(tmp_path)
    edit_json(tmp_path / "config.json", lambda value: value.update(hidden_size=64))
    assert read_config(tmp_path) == {**CONFIG, "hidden_size": 64}
