"""A base with a LoRA adapter reads like the checkpoint that peft makes of the two."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.adapter import Adapter
from optimizer.merging.checkpoint.models import ModelReference, open_model
from optimizer.merging.checkpoint.source import Checkpoint, Reader
from tests.optimizer.merging.conftest import Pool
from tests.optimizer.merging.pools import FAMILIES, add_tokenizer, edit_json, make_model


def make_adapter(base: Path, folder: Path, seed: int = 7, **settings: Any) -> Path:
    """An adapter with random parts, as if it had been trained; `folder`/merged is what peft makes of it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    wanted = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", **settings}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **wanted))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "lora_magnitude" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    wrapped.save_pretrained(folder)
    wrapped.merge_and_unload().save_pretrained(folder / "merged")
    return folder


def whole(reader: Reader, name: str) -> Tensor:
    source = reader.tensor(name)
    rows = 1
    for size in source.shape[:-1]:
        rows *= size
    return source.rows(0, rows).view(source.shape)


def same(reader: Reader, merged: Path, largest: float = 1e-6) -> float:
    """Compares every tensor; returns the largest difference from the base that the adapter made."""
    truth = Checkpoint(merged)
    assert {n: (i.dtype, i.shape) for n, i in reader.infos.items()} == {
        n: (i.dtype, i.shape) for n, i in truth.infos.items()
    }
    for name in truth.infos:
        torch.testing.assert_close(whole(reader, name), truth.read(name), atol=largest, rtol=largest, msg=name)
    return sum(float(truth.read(name).float().abs().sum()) for name in truth.infos)


PLAIN = {"target_modules": ["q_proj", "v_proj", "down_proj"]}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {**PLAIN, "rank_pattern": {"v_proj": 2, r"layers\.1\.mlp\.down_proj": 3}, "alpha_pattern": {"q_proj": 20}},
        {**PLAIN, "alpha_pattern": {r"^model\.layers\.1\..*q_proj": 3, "self_attn.q_proj": 9}},
        {**PLAIN, "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["embed_tokens", "q_proj", "lm_head"]},
        {**PLAIN, "bias": "all"},
        {**PLAIN, "bias": "lora_only", "target_modules": ["q_proj"], "lora_bias": True},
        {**PLAIN, "use_dora": True},
        {**PLAIN, "init_lora_weights": "gaussian", "lora_dropout": 0.5},
        {"target_modules": ["o_proj"], "layers_to_transform": [1]},
    ],
    ids=lambda settings: "-".join(map(str, settings)) or "all",
)
def test_equals_peft(pool: Pool, tmp_path: Path, settings: dict[str, Any]) -> None:
    adapter = make_adapter(pool[0], tmp_path / "lora", **settings)
    reader = open_model(f"{pool[0]}+{adapter}")
    same(reader, adapter / "merged")
    changed = [n for n in reader.infos if not torch.equal(whole(reader, n), Checkpoint(pool[0]).read(n))]
    assert changed, "the adapter does nothing"
