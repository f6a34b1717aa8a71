"""Passthrough: one model, scaled."""

import torch

from optimizer.merging.methods.base import Block, Case
from optimizer.merging.methods.registry import METHODS
from tests.optimizer.merging.methods.driving import bits, draw, merge


def test_is_the_model_bit_for_bit_in_every_dtype() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        model = draw(5, 7, dtype=dtype)
        assert bits(merge("passthrough", [model]).to(dtype)) == bits(model)


def test_scale_multiplies() -> None:
    model = draw(5, 7)
    assert torch.equal(merge("passthrough", [model], scale=[0.5]), model / 2)
    assert torch.equal(merge("passthrough", [model], scale=[0]), torch.zeros(5, 7))


def test_is_linear_in_the_scale() -> None:
    method, model = METHODS["passthrough"], draw(3, 4)
    slopes = method.slopes
    assert slopes is not None
    (slope,) = slopes(Block(None, (model,), 0), Case("tensor", (3, 4), ("a",), {}, {"scale": (2.0,)}), None)
    assert torch.equal(slope, model)
