"""What a merge will take: bytes exactly, memory by the shape of the stream, seconds from bandwidths."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.checkpoint.sink import TensorPlan
from optimizer.merging.estimate import (
    HOST_TO_DEVICE,
    OF_INPUT,
    OF_RESULT,
    SCATTERED,
    Disk,
    estimate,
    peak_of_stream,
    probe,
)
from optimizer.merging.merge import write_merge
from optimizer.merging.plan import Plan, make_plan
from optimizer.merging.recipe import Coefficients, ExportSettings, Recipe
from optimizer.merging.stream import BLOCK, PIECE, Crew
from tests.optimizer.merging.conftest import Pool
from tests.optimizer.merging.pools import make_pool

ALONE = Crew(threads=1)


def recipe_of(pool: Pool) -> Recipe:
    base, models = pool
    groups = check_pool(base, models).groups
    weights = dict.fromkeys(models, 0.4)
    return Recipe(base, models, "task_arithmetic", Coefficients.constant(tuple(models), groups, weights))


def bytes_of(folder: Path) -> int:
    return sum(tensor.nbytes for file in folder.glob("*.safetensors") for tensor in load_file(file).values())


@pytest.fixture
def plan(pool: Pool) -> Plan:
    return make_plan(recipe_of(pool))


@pytest.mark.parametrize("which", ["pool", "half_pool"])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_bytes_are_those_of_the_files(which: str, dtype: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pool: Pool = request.getfixturevalue(which)
    recipe = replace(recipe_of(pool), dtype=dtype)
    found = estimate(make_plan(recipe))
    write_merge(recipe, tmp_path / "out", ExportSettings(), card="")
    assert found.bytes_read == sum(bytes_of(folder) for folder in (pool[0], *pool[1].values()))
    assert found.bytes_written == bytes_of(tmp_path / "out")


def test_seconds_follow_the_disk(plan: Plan) -> None:
    found = estimate(plan, Disk(read=1e5, write=1e9), ALONE)
    assert found.reading == found.bytes_read / 1e5
    assert found.seconds == found.reading + found.arithmetic
    found = estimate(plan, Disk(read=1e12, write=1e3), ALONE)
    assert found.seconds == found.writing >= found.bytes_written / 1e3


def test_copies_need_no_arithmetic(plan: Plan) -> None:
    copies = replace(plan, steps=tuple(replace(s, models=(), method=None, case=None) for s in plan.steps))
    assert estimate(plan).arithmetic > 0
    assert estimate(copies).arithmetic == 0
    assert estimate(copies).bytes_read == plan.nbytes


def test_a_gpu_takes_as_long_as_the_transfers(plan: Plan) -> None:
    found = estimate(plan, crew=Crew(device="cuda", threads=1))
    assert found.arithmetic == pytest.approx((found.bytes_read + found.bytes_written) / HOST_TO_DEVICE)


def test_memory_does_not_grow_with_the_layers(tmp_path: Path, plan: Plan) -> None:
    deep = make_plan(recipe_of(make_pool(tmp_path, ("a", "b"), num_hidden_layers=5)))
    assert len(deep.steps) > len(plan.steps)
    assert peak_of_stream(deep, ALONE) == peak_of_stream(plan, ALONE)


@pytest.mark.parametrize("rows", [4, 400, 40_000])
def test_memory_does_not_grow_with_a_tensor_beyond_a_piece(plan: Plan, rows: int) -> None:
    """With one thread 4 pieces wait, and one block of three models is at work; neither is more than there is."""
    shape = (rows, 1024)
    steps = tuple(replace(step, tensor=TensorPlan(step.tensor.name, "BF16", shape)) for step in plan.steps[:1])
    numbers = rows * 1024
    working = (3 * OF_INPUT + OF_RESULT) * min(numbers, BLOCK["cpu"]) * torch.float64.itemsize
    waiting = 4 * min(numbers, PIECE) * torch.bfloat16.itemsize
    assert peak_of_stream(replace(plan, steps=steps), ALONE) == working + waiting


def test_facts_take_memory(pool: Pool, plan: Plan) -> None:
    trimmed = make_plan(replace(recipe_of(pool), method="ties", parameters={"density": 0.5}))
    assert peak_of_stream(trimmed, ALONE) > peak_of_stream(plan, ALONE) + SCATTERED


def test_more_threads_hold_more(plan: Plan) -> None:
    assert peak_of_stream(plan, Crew(threads=4)) > peak_of_stream(plan, ALONE)


def test_a_probe_leaves_nothing_behind(plan: Plan, tmp_path: Path) -> None:
    disk = probe(plan, tmp_path / "not yet" / "out")
    assert disk.write > 0
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_measured_the_defaults_stand(plan: Plan) -> None:
    """The models of the plan are too small to time, and nobody can write into /proc."""
    assert probe(plan, Path("/proc/out")) == Disk()
