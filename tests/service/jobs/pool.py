"""A pool of real checkpoint folders, a few kilobytes each, that pass the compatibility check."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "tie_word_embeddings": True,
}
SHAPES = {
    "model.embed_tokens.weight": (16, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
    "model.norm.weight": (8,),
}


def write_model(folder: Path, seed: int, **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    draw = np.random.default_rng(seed)
    shapes = {name: tuple(config.get("hidden_size", 8) if n == 8 else n for n in s) for name, s in SHAPES.items()}
    save_file({name: draw.normal(size=shape).astype("float32") for name, shape in shapes.items()},
              folder / "model.safetensors")  # fmt: skip
    return folder


def write_pool(folder: Path, **search: Any) -> dict[str, Any]:
    """The folders `base`, `chat` and `medical`, and a job that merges them."""
    for seed, name in enumerate(("base", "chat", "medical")):
        if not (folder / name).exists():
            write_model(folder / name, seed)
    return {
        "name": "toy",
        "base": str(folder / "base"),
        "models": {
            "medical": {"path": str(folder / "medical"), "role": "domain", "topics": ["biology"]},
            "chat": {"path": str(folder / "chat"), "role": "aligned"},
        },
        "search": {"trials": 10} | search,
    }
