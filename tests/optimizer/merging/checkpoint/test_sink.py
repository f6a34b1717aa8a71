"""Shards written front to back are what the safetensors library reads, with the hashes that the files have."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from optimizer.merging.checkpoint.header import read_headers
from optimizer.merging.checkpoint.manifest import hash_file
from optimizer.merging.checkpoint.sink import ShardWriter, TensorPlan, parse_size, plan_shards
from optimizer.merging.checkpoint.source import DTYPE_NAMES

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=8)


def drawn(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {f"t{i}": (torch.randn(shape) * 9).to(dtype) for i, shape in enumerate(shapes)}


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]), st.integers(1, 400))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, shapes: list, dtype: torch.dtype, size: int) -> None:
    folder = tmp_path_factory.mktemp("sink")
    tensors = drawn(shapes, dtype)
    plans = [TensorPlan(name, DTYPE_NAMES[dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
    with ShardWriter(folder, plans, size) as writer:
        for name, tensor in tensors.items():
            for piece in tensor.reshape(-1).split(7):
                if piece.numel():
                    writer.write(name, piece)
    found = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert read_headers(folder).keys() == tensors.keys()
    assert writer.files == {file.name: hash_file(file) for file in folder.iterdir()}


def test_shards_are_filled_in_order() -> None:
    tensors = [TensorPlan(str(i), "F32", (size,)) for i, size in enumerate([10, 10, 100, 1, 1])]
    assert [[t.name for t in shard] for shard in plan_shards(tensors, 80)] == [["0", "1"], ["2"], ["3", "4"]]


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("10KB", 10_000)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_only_what_was_planned(tmp_path: Path) -> None:
    plan = [TensorPlan("a", "F32", (4,)), TensorPlan("b", "F32", (4,))]
    for name, piece in (("b", torch.zeros(4)), ("a", torch.zeros(4).half()), ("a", torch.zeros(5))):
        with pytest.raises(ValueError, match=name), ShardWriter(tmp_path, plan, 100) as writer:
            writer.write(name, piece)
    with pytest.raises(ValueError, match="missing"), ShardWriter(tmp_path, plan, 100) as writer:
        writer.write("a", torch.zeros(4))
