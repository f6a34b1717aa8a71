"""Choices by bit patterns.

Comparing floats into booleans and choosing by them costs torch several times what integer arithmetic does. The bits of
floats that are not negative, read as integers, are in the order of the floats (NaN above all); and a mask of −1 and 0
picks bits of one tensor or another, whatever their dtype, without rounding anything.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

INTEGERS: Mapping[torch.dtype, torch.dtype] = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


def order(magnitudes: Tensor) -> Tensor:
    """Integers in the order of `magnitudes`, which are floats without a sign: a view."""
    return magnitudes.view(INTEGERS[magnitudes.dtype])


def above(numbers: Tensor, limit: int) -> Tensor:
    """−1 where an integer that is not negative is above `limit` (−1 or more), else 0."""
    return torch.rsub(numbers, limit).bitwise_right_shift_(8 * numbers.element_size() - 1)


def below(numbers: Tensor, limit: int) -> Tensor:
    """−1 where an integer that is not negative is below `limit` (0 or more), else 0."""
    return torch.sub(numbers, limit).bitwise_right_shift_(8 * numbers.element_size() - 1)


def choose(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The numbers of `one` where `mask` is −1, those of `other` where it is 0, in the narrowest dtype of both."""
    dtype = torch.promote_types(one.dtype, other.dtype)
    integer = INTEGERS[dtype]
    ours, theirs = one.to(dtype).view(integer), other.to(dtype).view(integer)
    return torch.bitwise_xor(ours, theirs).bitwise_and_(mask.to(integer)).bitwise_xor_(theirs).view(dtype)
