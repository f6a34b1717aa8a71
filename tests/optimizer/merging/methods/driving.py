"""Merge a tensor that lies in memory with a method of the registry, cut into blocks as the test likes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizer.merging.methods.base import Block, Case, facts_of, matrix, merged, state_of
from optimizer.merging.methods.registry import METHODS

Values = float | Sequence[float]


def merge(
    name: str, models: Sequence[Tensor], base: Tensor | None = None, height: int | None = None, /, **given: Values
) -> Tensor:
    """The merge in the dtype of the arithmetic, in blocks of `height` rows (all at once by default). A parameter is
    `given` once for all models or, in a list, for each; `lambda_` is lambda."""
    method, shape = METHODS[name], tuple(models[0].shape)
    values = {row.name: given.pop(row.name.replace("lambda", "lambda_"), row.default) for row in method.parameters}
    assert not given, f"{name} has no parameter {', '.join(given)}"
    each = {
        row.name: tuple(value) if isinstance(value, Sequence) else (value,) * len(models)
        for row in method.parameters
        if row.per_model and (value := values[row.name]) is not None
    }
    shared = {
        row.name: float(value)
        for row in method.parameters
        if not row.per_model and (value := values[row.name]) is not None and not isinstance(value, Sequence)
    }
    case = Case("tensor", shape, tuple(f"model {i}" for i in range(len(models))), shared, each)
    rows, columns = matrix(shape)
    blocks = []
    for begin in range(0, rows if columns else 0, height or max(1, rows)):
        cut = slice(begin, begin + (height or rows))
        parts = [tensor.reshape(rows, columns)[cut] for tensor in models]
        own = None if base is None else base.reshape(rows, columns)[cut]
        blocks.append(Block(own, tuple(parts), begin * columns))
    facts = facts_of(method, case, lambda look: [look(block) for block in blocks])
    state = state_of(method, case, facts)
    results = [merged(method, block, case, facts, state) for block in blocks]
    return torch.cat(results).view(shape) if results else torch.empty(shape)


def bits(tensor: Tensor) -> bytes:
    """Equal for tensors that are equal bit for bit."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pool(count: int, *shape: int, seed: int = 0, step: float = 1.0) -> list[Tensor]:
    """A base and so many models around it."""
    base = draw(*shape, seed=seed)
    return [base, *(base + step * draw(*shape, seed=seed + 1 + i) for i in range(count))]
