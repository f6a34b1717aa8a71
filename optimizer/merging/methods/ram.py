"""Reinforced Agent Merging: numbers that one model changed are taken over, those that several changed are averaged."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from optimizer.merging.methods.affine import task_vectors
from optimizer.merging.methods.base import Block, Case, Look, Method, Parameter, block_dtype


def _changed(block: Block, case: Case) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Task vectors, 1 where each has changed something and 0 elsewhere, and how many have: [rows, columns] each, all
    in the dtype of the arithmetic, whose comparisons are many times as fast as those into booleans."""
    moves = task_vectors(block)
    changed = [torch.gt(size := move.abs(), case.shared["epsilon"], out=size) for move in moves]
    return moves, changed, torch.stack(changed).sum(0)


def _facts(case: Case) -> Generator[Look, list[Any], list[tuple[int, int]]]:
    """How many numbers each model changed together with others, and alone."""

    def look(block: Block) -> list[tuple[int, int]]:
        _, changed, count = _changed(block, case)
        alone = torch.eq(count, 1, out=count)
        own = [(_total(mark), _total(mark * alone)) for mark in changed]
        return [(every - single, single) for every, single in own]

    found = yield look
    return [(sum(shared for shared, _ in own), sum(alone for _, alone in own)) for own in zip(*found, strict=True)]


def _total(marks: Tensor) -> int:
    return int(marks.sum(dtype=torch.float64))


def _boosts(case: Case, facts: list[tuple[int, int]]) -> tuple[float, ...]:
    """λ_i = 1 + r·min(ρ_i, α), where ρ_i is how many numbers model i shares with others for each that it alone has."""

    def boost(shared: int, alone: int) -> float:
        return 1 + case.shared["r"] * min(shared / max(alone, case.shared["epsilon"]), case.shared["alpha"])

    return tuple(boost(shared, alone) for shared, alone in facts)


def _combine(block: Block, case: Case, state: tuple[float, ...] | None) -> Tensor:
    """The mean of the models that changed a number, the base's where none has; changed by model i alone:
    θ_i + (λ_i − 1) τ_i.

    The mean is built up one model at a time, so that a number from one model, or the same from several, stays as it is.
    """
    dtype = block_dtype(block)
    moves, changed, count = _changed(block, case)
    total = block.root.to(dtype, copy=True)
    seen = torch.zeros_like(total)
    for model, own in zip(block.models, changed, strict=True):
        seen += own
        total.lerp_(model.to(dtype), own / seen.clamp(min=1))
    if state is not None:
        alone = torch.eq(count, 1, out=count)
        for boost, move, own in zip(state, moves, changed, strict=True):
            total += (move * own).mul_(alone).mul_(boost - 1)
    return total


EPSILON = Parameter("epsilon", 1e-5, low=0, high=1e6, meaning="a number has changed if it differs by more")

ROWS = (
    Method("ram", "arXiv 2601.13572", (EPSILON,), _combine, depends=("epsilon",)),
    Method(
        "ramplus_tl",
        "arXiv 2601.13572, RAM+ with the counts of one tensor",
        (
            EPSILON,
            Parameter("r", 0.1, low=0, high=100, meaning="how much numbers that one model changed gain by sharing"),
            Parameter("alpha", 0.2, low=0, high=1e6, meaning="up to which ratio of shared to unshared numbers"),
        ),
        _combine,
        prepare=_facts,
        depends=("epsilon",),
        weigh=_boosts,
    ),
)
