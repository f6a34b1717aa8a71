"""Seeds for every draw, from the job's one seed and what is drawn: a new category does not change another's draws."""

import hashlib
import random


def seed_of(seed: int, *names: object) -> int:
    """A seed below 2³¹ for what `names` name."""
    text = "\0".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF


def generator(seed: int, *names: object) -> random.Random:
    """A generator of its own for what `names` name."""
    return random.Random(seed_of(seed, *names))
