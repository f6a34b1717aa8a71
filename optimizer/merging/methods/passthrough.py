"""One model's tensor as it is, or scaled."""

from typing import Any

from torch import Tensor

from optimizer.merging.methods.base import Base, Block, Case, Method, Parameter, block_dtype


def _combine(block: Block, case: Case, state: Any) -> Tensor:
    return block.models[0].to(block_dtype(block)) * case.each["scale"][0]


def _slopes(block: Block, case: Case, state: Any) -> list[Tensor]:
    return [block.models[0].to(block_dtype(block))]


ROWS = (
    Method(
        "passthrough",
        "θ = s θ_1",
        (Parameter("scale", 1.0, per_model=True, low=-100, high=100, meaning="s, what the tensor is multiplied by"),),
        _combine,
        models=(1, 1),
        base=Base.UNUSED,
        slopes=_slopes,
        coefficient="scale",
        affine=True,
    ),
)
