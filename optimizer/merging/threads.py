"""Torch's own threads, switched off while ours share the work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

#: of this thread and new ones. vLLM puts a warning in the place of torch's own name for it, to keep the threads that
#: it has bound to cores; these sleep meanwhile, and are as many as before afterwards
_set: Callable[[int], None] = getattr(torch._C, "set_num_threads", torch.set_num_threads)


@contextmanager
def single_threaded_torch() -> Iterator[int]:
    """Every operation runs in the thread that asks for it: on blocks that fit a core's cache torch's threads would
    mostly wait for each other. Yields how many threads torch had."""
    before = torch.get_num_threads()
    _set(1)
    try:
        yield before
    finally:
        _set(before)
