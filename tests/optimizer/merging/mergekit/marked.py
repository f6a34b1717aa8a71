"""Checkpoints whose every number says where it is from, so that the numbers of a merge can be worked out by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from optimizer.merging.plan import Plan
from optimizer.merging.stream import merged_pieces

LAYER = {"self_attn.q_proj.weight": (4, 4), "mlp.up_proj.weight": (6, 4), "input_layernorm.weight": (4,)}


def make_marked(
    folder: Path,
    value: float,
    layers: int = 4,
    *,
    words: int = 8,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Layer i holds value + 100·i, embedding and norm the value, the head value + 0.5; `more` is for the config."""
    tensors = {"model.embed_tokens.weight": torch.full((words, 4), value, dtype=dtype)}
    for index in range(layers):
        for rest, shape in LAYER.items():
            tensors[f"model.layers.{index}.{rest}"] = torch.full(shape, value + 100.0 * index, dtype=dtype)
    tensors["model.norm.weight"] = torch.full((4,), value, dtype=dtype)
    if not tied:
        tensors["lm_head.weight"] = torch.full((words, 4), value + 0.5, dtype=dtype)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4,
        "vocab_size": words,
        "num_hidden_layers": layers,
        "tie_word_embeddings": tied,
        **(more or {}),
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def merged(plan: Plan) -> dict[str, Tensor]:
    """All tensors of a merge, whole."""
    pieces: dict[str, list[Tensor]] = {step.tensor.name: [] for step in plan.steps}
    for step, piece in merged_pieces(plan.steps):
        pieces[step.tensor.name].append(piece.clone())
    return {step.tensor.name: torch.cat(pieces[step.tensor.name]).view(step.tensor.shape) for step in plan.steps}


def numbers(plan: Plan) -> dict[str, float]:
    """The one number that each tensor of a merge of marked checkpoints is filled with."""
    found = {}
    for name, tensor in merged(plan).items():
        assert (tensor == tensor.flatten()[0]).all(), name
        found[name] = tensor.flatten()[0].item()
    return found
