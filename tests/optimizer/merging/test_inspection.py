"""What a pool is made of, told from headers and settings."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optimizer.errors import CheckpointError, RecipeError
from optimizer.merging.checkpoint.source import Checkpoint
from optimizer.merging.inspection import Size, inspect_pool
from tests.optimizer.merging.adapters import make_adapter
from tests.optimizer.merging.conftest import Pool
from tests.optimizer.merging.pools import TEMPLATE, add_tokenizer, edit_json, make_model


def test_one_model(pool: Pool) -> None:
    inspection = inspect_pool([pool[0]])
    (model,) = inspection.models
    tensors = {name: Checkpoint(pool[0]).read(name) for name in Checkpoint(pool[0]).infos}
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert model.size == Size(numbers, 4 * numbers)
    assert model.dtypes == {"F32": numbers}
    assert (model.architecture, model.model_type, model.layers) == ("Qwen2ForCausalLM", "qwen2", 2)
    assert model.groups["embedding"] == model.groups["head"] == Size(300 * 32, 4 * 300 * 32)
    assert model.groups["layers.1.mlp"] == Size(3 * 48 * 32, 4 * 3 * 48 * 32)
    assert sum(size.numbers for size in model.groups.values()) == numbers
    assert not model.tied
    assert model.tokenizer is not None
    assert (model.tokenizer.kind, model.tokenizer.size, model.tokenizer.added) == ("BPE", 260, 4)
    assert model.template is not None
    assert model.template.first_line == TEMPLATE
    assert model.template.sha256 == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert model.lora is None
    assert inspection.fits


def test_a_tied_model_in_bfloat16_without_a_tokenizer(half_pool: Pool) -> None:
    (model,) = inspect_pool([str(half_pool[0])]).models
    assert model.tied
    assert list(model.dtypes) == ["BF16"]
    assert model.size.bytes == 2 * model.size.numbers
    assert (model.tokenizer, model.template) == (None, None)


def test_an_adapter(pool: Pool, tmp_path: Path) -> None:
    adapter = make_adapter(
        pool[0], tmp_path / "lora", target_modules=["q_proj"], modules_to_save=["lm_head"], use_rslora=True
    )
    inspection = inspect_pool([pool[0], f"{pool[0]}+{adapter}"])
    lora = inspection.models[1].lora
    assert inspection.fits
    assert lora is not None
    assert (lora.kind, lora.rank, lora.alpha, lora.modules, lora.replaced) == ("rsLoRA", 4, 6.0, 2, 1)
    assert (lora.folder, lora.base) == (str(adapter), str(pool[0]))
    assert inspection.models[1].size == inspection.models[0].size


def test_what_differs(pool: Pool, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", 1, num_hidden_layers=3)
    chatty = Path(shutil.copytree(pool[1]["a"], tmp_path / "chatty"))
    add_tokenizer(chatty, template="USER")
    inspection = inspect_pool([pool[0], pool[1]["b"], other, chatty])
    assert not inspection.fits
    assert list(inspection.differences) == [str(other)]
    assert "config num_hidden_layers: 2 in the base, 3 here" in inspection.differences[str(other)]
    assert "+USER" in inspection.templates


def test_it_is_json(pool: Pool) -> None:
    told = json.loads(json.dumps(inspect_pool([pool[0], pool[1]["a"]]).to_dict()))
    assert told["fits"] is True
    assert told["models"][0]["groups"]["norm"] == {"numbers": 32, "bytes": 128}


def test_a_folder_of_any_name(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(pool[0], tmp_path / "c++@home")
    monkeypatch.chdir(tmp_path)
    assert inspect_pool(["c++@home"]).models[0].folder == str(tmp_path / "c++@home")
    with pytest.raises(RecipeError, match="c\\+\\+@away"):
        inspect_pool(["c++@away"])


def test_what_cannot_be_read_is_refused(pool: Pool, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(pool[0], tmp_path / "broken"))
    edit_json(broken / "config.json", lambda config: config.update(auto_map={"AutoModel": "x.Y"}))
    with pytest.raises(CheckpointError, match="broken"):
        inspect_pool([pool[0], broken])


def test_neither_weights_nor_torch_are_touched(tmp_path: Path) -> None:
    """The data of the file is a hole of 4 TB."""
    folder = make_model(tmp_path / "m", 0, dtype=torch.float32)
    rows = 10**12
    header = {"model.embed_tokens.weight": {"dtype": "F32", "shape": [rows], "data_offsets": [0, 4 * rows]}}
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    os.truncate(folder / "model.safetensors", 8 + len(raw) + 4 * rows)
    code = (
        "import sys\nfrom optimizer.merging.inspection import inspect_pool\n"
        f"print(inspect_pool([{str(folder)!r}]).models[0].size.numbers, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(rows), "False"], done.stderr
