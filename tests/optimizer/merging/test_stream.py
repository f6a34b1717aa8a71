"""The stream of pieces: the same bits whatever threads and cutting, errors and stops that leave nothing running."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.merging import stream
from optimizer.merging.checkpoint.sink import TensorPlan
from optimizer.merging.checkpoint.source import StoredTensor
from optimizer.merging.methods.base import Base, Block, Case, Method, matrix
from optimizer.merging.methods.registry import METHODS, find_method
from optimizer.merging.plan import Operand, Step
from optimizer.merging.stream import BLOCK, PIECE, Crew, merged_pieces, merged_spans, row_spans

SHAPES = [(3,), (), (700, 300), (5, 7, 40), (0, 4), (2200, 1111), (2, 40_000)]


def step_of(number: int, shape: tuple[int, ...], models: int = 2) -> Step:
    """A step of task arithmetic over random tensors."""
    draw = torch.Generator().manual_seed(number)
    base, *experts = (StoredTensor(torch.randn(shape, generator=draw)) for _ in range(models + 1))
    method = find_method("task_arithmetic")
    names = tuple(f"m{i}" for i in range(models))
    weights = tuple(0.1 + 0.3 * i for i in range(models))
    case = Case(f"t{number}", shape, names, {"normalize": 0.0, "lambda": 1.0}, {"weight": weights})
    operands = tuple(Operand(name, tensor) for name, tensor in zip(names, experts, strict=True))
    return Step(TensorPlan(f"t{number}", "F32", shape), Operand("base", base), operands, method, case)


def together(steps: list[Step], crew: Crew) -> dict[str, Tensor]:
    pieces: dict[str, list[Tensor]] = {}
    for step, piece in merged_pieces(steps, crew):
        assert piece.ndim == 1
        pieces.setdefault(step.tensor.name, []).append(piece.clone())
    return {name: torch.cat(parts) for name, parts in pieces.items()}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_bit_and_no_order(threads: int) -> None:
    steps = [step_of(i, shape) for i, shape in enumerate(SHAPES)]
    found = together(steps, Crew(threads=threads))
    full = [step for step in steps if step.tensor.nbytes]
    assert list(found) == [step.tensor.name for step in full]
    for step in full:
        assert torch.equal(found[step.tensor.name], torch.cat(list(merged_spans(step))))


def test_a_tensor_without_method_is_copied() -> None:
    tensor = torch.arange(3_000_000, dtype=torch.int64).view(3000, 1000)
    step = Step(TensorPlan("t", "I64", (3000, 1000)), Operand("base", StoredTensor(tensor)))
    assert torch.equal(together([step], Crew(threads=2))["t"], tensor.view(-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_spans_cover_every_row_once(shape: tuple[int, ...]) -> None:
    rows, columns = matrix(shape)
    for whole in (1, PIECE // BLOCK["cpu"]):
        spans = row_spans(shape, whole=whole)
        covered = [row for begin, end in spans for row in range(begin, end)]
        assert covered == (list(range(rows)) if columns else [])


def _total(case: Case) -> Any:
    sums = yield lambda block: float(block.models[0].double().sum())
    spread = yield lambda block: float((block.models[0].double() - sum(sums)).abs().sum())
    return sum(sums), sum(spread), len(sums)


@dataclass
class Watched:
    """A method whose result is a fact about the whole tensor."""

    seen: int = 0

    def combine(self, block: Block, case: Case, state: Any) -> Tensor:
        self.seen += 1
        return torch.full(block.models[0].shape, state)


def watched_step(watched: Watched, shape: tuple[int, ...]) -> Step:
    row = Method("watched", "", (), watched.combine, prepare=_total, weigh=lambda case, facts: facts[1])
    return replace(step_of(1, shape), method=row)


def test_facts_are_of_the_whole_tensor() -> None:
    watched = Watched()
    step = watched_step(watched, (2200, 1111))
    (result,) = together([step], Crew(threads=2)).values()
    values = step.models[0].tensor.rows(0, 2200).double()
    expected = float((values - values.sum()).abs().sum())
    assert result.unique().tolist() == pytest.approx([expected])
    assert watched.seen == len(row_spans((2200, 1111)))


def test_an_error_in_a_thread_names_the_tensor_and_the_model() -> None:
    steps = [step_of(i, (1000, 2000)) for i in range(5)]
    broken = torch.randn(1000, 2000)
    broken[999, 1999] = float("nan")
    steps[3] = replace(steps[3], models=(steps[3].models[0], Operand("m1", StoredTensor(broken))))
    with pytest.raises(CheckpointError, match="tensor t3: NaN or infinity in m1"):
        together(steps, Crew(threads=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("merge", "facts"))]


@pytest.mark.parametrize(("weights", "damaged"), [((0.5, 0.5), "base"), ((1.0, 0.0), "m1"), ((1.0, 0.0), "base")])
def test_damage_is_told_also_where_it_does_not_count(weights: tuple[float, float], damaged: str) -> None:
    step = step_of(0, (30, 20))
    broken = torch.randn(30, 20)
    broken[3, 4] = float("inf")
    operands = {owner: Operand(owner, StoredTensor(broken) if owner == damaged else t) for owner, t in step.operands}
    assert step.case is not None
    models = (operands["m0"], operands["m1"])
    case = replace(step.case, each={"weight": weights})
    with pytest.raises(CheckpointError, match=f"NaN or infinity in {damaged}"):
        list(merged_spans(replace(step, base=operands["base"], models=models, case=case)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("damage", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_damage_is_told_by_every_method_whoever_has_it(name: str, damage: float) -> None:
    method = METHODS[name]
    count = 1 if method.models[1] == 1 else 2
    shared = {row.name: 0.5 if row.default is None else row.default for row in method.parameters if not row.per_model}
    each = {row.name: (0.5,) * count for row in method.parameters if row.per_model}
    each |= {name: (0.1,) * count for name in ("epsilon", "gamma") if name in each}
    case = Case("t", (20, 30), tuple("ab"[:count]), shared, each)
    for place in range(count + 1):
        if place == 0 and method.base is Base.UNUSED:
            continue
        draw = torch.Generator().manual_seed(place)
        tensors = [torch.randn(20, 30, generator=draw) for _ in range(count + 1)]
        tensors[place][3, 4] = damage
        base, *models = (Operand(f"model {i}", StoredTensor(tensor)) for i, tensor in enumerate(tensors))
        own = None if method.base is Base.UNUSED else base
        step = Step(TensorPlan("t", "F32", (20, 30)), own, tuple(models), method, case)
        with pytest.raises(CheckpointError, match=f"NaN or infinity in model {place}"):
            list(merged_spans(step))


def test_stopped_in_the_middle_no_thread_stays() -> None:
    watched = Watched()
    pieces = merged_pieces([watched_step(watched, (2200, 1111)) for _ in range(100)], Crew(threads=2))
    next(pieces)
    pieces.close()
    seen = watched.seen
    assert seen < 100 * len(row_spans((2200, 1111))) / 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("merge", "facts"))]


def test_pieces_in_flight_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the reader of the pieces is, only a few are computed ahead."""
    watched = Watched()
    blocks = len(row_spans((2200, 1111)))
    monkeypatch.setattr(stream, "PIECE", BLOCK["cpu"])  # a piece is a block
    pieces = merged_pieces([watched_step(watched, (2200, 1111)) for _ in range(50)], Crew(threads=2))
    for _ in range(10):
        next(pieces)
    threading.Event().wait(0.3)
    assert watched.seen <= 10 + 2 * 2 + 2
    assert blocks > 2 * 2 + 2
    pieces.close()
