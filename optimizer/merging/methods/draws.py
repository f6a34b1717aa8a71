"""Random numbers that depend on where they stand, not on when they are drawn.

The number at a position of a tensor is a hash of the recipe's seed, the tensor's name, the model's key and that
position. Order, chunking, threads and device change nothing: the arithmetic is that of 32-bit integers throughout.
"""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

#: draws are uniform on 0 … RANGE − 1
RANGE = 1 << 31
WORD = 1 << 32


def _signed(value: int) -> int:
    value %= WORD
    return value - WORD if value >= RANGE else value


def _constant(value: int) -> Tensor:
    # a tensor without dimensions spares torch the wrapping of a Python number, which is half of a small operation
    return torch.tensor(_signed(value), dtype=torch.int32)


#: 2³² over the golden ratio: multiples of it are spread evenly
STRIDE = 0x9E3779B9
#: multipliers with little bias in two rounds of shift and multiply: found by search, C. Wellons' hash prospector
FIRST, SECOND = _constant(0x21F0AAAD), _constant(0xD35A2D97)
HIGH_HALF, HIGH_MASK = _constant(16), _constant(0xFFFF)
NEAR_HALF, NEAR_MASK = _constant(15), _constant(0x1FFFF)
POSITIVE = _constant(0x7FFFFFFF)


def draw(seed: int, tensor: str, model: str, begin: int, count: int, device: torch.device) -> Tensor:
    """The numbers of `count` positions of a flat tensor from `begin` on: int32 [count], uniform on 0 … 2³¹ − 1."""
    parts = []
    while count > 0:
        high, low = divmod(begin, WORD)
        size = min(count, WORD - low)
        parts.append(_draw(_keys(seed, tensor, model, high), low, size, device))
        begin, count = begin + size, count - size
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int32, device=device)


def threshold(probability: float) -> int:
    """A draw is below this with `probability` (0 included, 1 not: it needs no draw), to a part in 2³¹."""
    return min(round(probability * RANGE), RANGE - 1)


def _draw(keys: tuple[int, int], low: int, count: int, device: torch.device) -> Tensor:
    """Two rounds of multiply and shift over a counter; each round has a key of its own, so that the streams of two
    keys are neither shifts nor permutations of each other."""
    first, second = keys
    numbers = _multiples((count - 1).bit_length(), device)[:count] + _constant(first + low * STRIDE)
    shifted = torch.bitwise_right_shift(numbers, HIGH_HALF)
    numbers ^= shifted.bitwise_and_(HIGH_MASK)
    numbers *= FIRST
    numbers += _constant(second)
    torch.bitwise_right_shift(numbers, NEAR_HALF, out=shifted)
    numbers ^= shifted.bitwise_and_(NEAR_MASK)
    numbers *= SECOND
    numbers &= POSITIVE
    return numbers


@lru_cache(maxsize=4096)
def _keys(seed: int, tensor: str, model: str, high: int) -> tuple[int, int]:
    # lengths before the names: no two sets of names run together into the same bytes
    text = f"{seed} {high} {len(tensor)} {tensor} {len(model)} {model}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


@lru_cache(maxsize=8)
def _multiples(bits: int, device: torch.device) -> Tensor:
    """The first 2^bits multiples of STRIDE, modulo 2³²."""
    return torch.arange(1 << bits, dtype=torch.int32, device=device).mul_(_constant(STRIDE))
