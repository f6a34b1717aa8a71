"""NearSwap: the base takes over what the model says nearly the same, and moves by at most t elsewhere."""

from typing import Any

import torch
from torch import Tensor

from optimizer.merging.methods.base import Block, Case, Method, Parameter, block_dtype

#: difference below which two numbers count as this far apart
FLOOR = 1e-6


def _combine(block: Block, case: Case, state: Any) -> Tensor:
    """θ_b + min(1, t / max(|d|, 1e-6)) d with d = θ_1 − θ_b: the model where |d| ≤ t, else a step of t towards it.

    Only a t below the floor makes a difference where |d| is, too: such numbers go the part t / 1e-6 of the way.
    """
    t = case.shared["t"]
    dtype = block_dtype(block)
    base, model = block.root.to(dtype), block.models[0].to(dtype)
    move = model - base
    if t < FLOOR:
        return base + (move * (t / FLOOR)).clamp_(-t, t)
    near = torch.le(size := move.abs(), t, out=size)
    return move.clamp_(-t, t).add_(base).lerp_(model, near)  # at 0 and 1, faster than `where`


ROWS = (
    Method(
        "nearswap",
        "alchemonaut/QuartetAnemoi-70B-t0.0001, model card",
        (Parameter("t", low=0, high=1e6, meaning="up to which difference the model's number is taken"),),
        _combine,
        models=(1, 1),
        coefficient="t",
    ),
)
