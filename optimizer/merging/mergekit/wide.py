"""Inputs in float64, where a recipe asks for arithmetic in it."""

import torch
from torch import Tensor

from optimizer.merging.checkpoint.source import TensorSource


class Wide:
    """A tensor whose rows are handed out in float64."""

    def __init__(self, tensor: TensorSource) -> None:
        self.shape = tensor.shape
        self.dtype = torch.float64
        self._tensor = tensor

    def rows(self, begin: int, end: int) -> Tensor:
        return self._tensor.rows(begin, end).to(torch.float64)
