"""Tiny LoRA adapters, made by peft."""

from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM


def make_adapter(base: Path, folder: Path, words: int | None = None, **settings: Any) -> Path:
    """An adapter with random parts, as if it had been trained; `folder`/merged is what peft makes of it.

    `words`: the vocabulary is made that long first.
    """
    model = AutoModelForCausalLM.from_pretrained(base)
    if words is not None:
        model.resize_token_embeddings(words)
    wanted = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", **settings}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **wanted))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "lora_magnitude" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    wrapped.save_pretrained(folder)
    wrapped.merge_and_unload().save_pretrained(folder / "merged")
    return folder
