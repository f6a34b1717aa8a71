"""The names by which mergekit knows tensors that it renames on the way. No torch.

Experts of a mixture lie in files one by one. mergekit 0.1.5 fuses those of a layer and goes by the names that
transformers 5 has in memory, so a recipe's filter `mlp` means Mixtral's `block_sparse_moe`, too.
"""

import re
from functools import lru_cache

_RENAMED = (
    (re.compile(r"\.block_sparse_moe\."), ".mlp."),
    (re.compile(r"\.experts\.\d+\.(w1|w3|gate_proj|up_proj)\.weight$"), ".experts.gate_up_proj"),
    (re.compile(r"\.experts\.\d+\.(w2|down_proj)\.weight$"), ".experts.down_proj"),
)


@lru_cache(maxsize=1 << 16)
def known_as(tensor: str) -> tuple[str, ...]:
    """The name in the file and, where it is another, mergekit's."""
    other = tensor
    for pattern, replacement in _RENAMED:
        other = pattern.sub(replacement, other)
    return (tensor,) if other == tensor else (tensor, other)
