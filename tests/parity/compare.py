"""How two checkpoints are compared."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

#: single precision: rounding of the arithmetic, as a fraction of the tensor's largest number
TOLERANCE = 1e-6


def load(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def largest(tensor: Tensor) -> float:
    """The largest magnitude, 0 for nothing."""
    return tensor.abs().max().item() if tensor.numel() else 0.0


def differences(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], ulps: int = 0) -> list[str]:
    """What differs by more than TOLERANCE times the tensor's largest number and `ulps` roundings; nothing if alike."""
    found = [f"{name}: only in {whose}" for whose, names in _lonely(ours, theirs) for name in sorted(names)]
    for name in ours.keys() & theirs.keys():
        a, b = ours[name], theirs[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            found.append(f"{name}: {tuple(a.shape)} {a.dtype}, mergekit has {tuple(b.shape)} {b.dtype}")
            continue
        wide_a, wide_b = a.double(), b.double()
        rounding = ulps * torch.finfo(b.dtype).eps * torch.maximum(wide_a.abs(), wide_b.abs())
        excess = (wide_a - wide_b).abs() - rounding - TOLERANCE * largest(wide_b)
        if not (excess <= 0).all():
            worst = (wide_a - wide_b).abs()
            found.append(f"{name}: {int((~(excess <= 0)).sum())} of {a.numel()} differ, up to {largest(worst):.3g}")
    return found


def _lonely(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[tuple[str, set[str]]]:
    return [("Temper's", ours.keys() - theirs.keys()), ("mergekit's", theirs.keys() - ours.keys())]


def with_checkpoint_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mergekit writes the experts of a layer as transformers holds them in memory, in one tensor; Temper as checkpoints
    have them, one by one. This turns the former into the latter."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.*)\.mlp\.experts\.(gate_up_proj|down_proj)", name):
            for expert, weight in enumerate(tensor):
                prefix = f"{match[1]}.block_sparse_moe.experts.{expert}"
                if match[2] == "down_proj":
                    found[f"{prefix}.w2.weight"] = weight
                else:
                    found[f"{prefix}.w1.weight"], found[f"{prefix}.w3.weight"] = weight.chunk(2)
        elif name.endswith(".mlp.gate.weight") and tensor.ndim == 2:
            found[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = tensor
        else:
            found[name] = tensor
    return found
