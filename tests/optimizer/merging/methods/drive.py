"""Methods, driven over the blocks of a tensor as a merge drives them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizer.merging.methods.base import Block, Case, Look, facts_of, matrix, merged, state_of
from optimizer.merging.methods.registry import find_method


def cut(base: Tensor, models: Sequence[Tensor], rows: int | None = None) -> list[Block]:
    """Blocks of `rows` rows; one block if None."""
    height, columns = matrix(base.shape)
    step = rows or max(1, height)
    flat = [tensor.reshape(height, columns) for tensor in (base, *models)]
    return [
        Block(flat[0][i : i + step], tuple(tensor[i : i + step] for tensor in flat[1:]), i * columns)
        for i in range(0, height, step)
        if base.numel()
    ]


def case_of(
    name: str,
    base: Tensor,
    models: Sequence[Tensor],
    values: Mapping[str, Any],
    *,
    seed: int = 0,
    keys: Sequence[str] | None = None,
) -> Case:
    """The case of `values`: numbers are for all models alike, sequences have one a model; defaults filled in."""
    method, count = find_method(name), len(models)
    filled = {row.name: row.default for row in method.parameters} | dict(values)
    each = {}
    for row in method.parameters:
        if row.per_model:
            value = filled[row.name]
            each[row.name] = (value,) * count if isinstance(value, int | float) else tuple(value)
    shared = {row.name: float(filled[row.name]) for row in method.parameters if not row.per_model}
    names = tuple(keys or (f"model {i}" for i in range(count)))
    return Case("layers.0.weight", tuple(base.shape), names, shared, each, seed)


def facts_over(name: str, case: Case, blocks: Sequence[Block]) -> Any:
    def over(look: Look) -> list[Any]:
        return [look(block) for block in blocks]

    return facts_of(find_method(name), case, over)


def merge(
    name: str, base: Tensor, models: Sequence[Tensor], rows: int | None = None, *, seed: int = 0, **values: Any
) -> Tensor:
    """The merge of whole tensors, in the dtype of the arithmetic; "lambda" is given as `scale`."""
    if "scale" in values:
        values["lambda"] = values.pop("scale")
    method, blocks = find_method(name), cut(base, models, rows)
    case = case_of(name, base, models, values, seed=seed)
    facts = facts_over(name, case, blocks)
    state = state_of(method, case, facts)
    parts = [merged(method, block, case, facts, state).reshape(-1) for block in blocks]
    return torch.cat(parts).view(base.shape) if parts else base.clone()
