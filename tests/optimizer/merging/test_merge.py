"""Merges on disk: exact at the corners, loadable, hashed, atomic, small in memory."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimizer.errors import CheckpointError, PoolError, RecipeError
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.checkpoint.manifest import Manifest
from optimizer.merging.checkpoint.source import Checkpoint
from optimizer.merging.merge import merged_tensors, write_merge
from optimizer.merging.recipe import Coefficients, ExportSettings, Recipe, recipe_from_yaml, recipe_to_json
from tests.optimizer.merging.conftest import Pool
from tests.optimizer.merging.pools import FAMILIES, TEMPLATE, add_tokenizer, edit_json, make_pool

EXPORT = ExportSettings()


def recipe_of(pool: Pool, **lambdas: float) -> Recipe:
    base, models = pool
    groups = check_pool(base, models).groups
    return Recipe(base, models, "task_arithmetic", Coefficients.constant(tuple(models), groups, lambdas))


def equal_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )


@pytest.mark.parametrize("which", ["pool", "half_pool"])
def test_corners_are_the_models_bit_for_bit(which: str, request: pytest.FixtureRequest) -> None:
    pool: Pool = request.getfixturevalue(which)
    for folder, lambdas in ((pool[0], {}), *((pool[1][name], {name: 1.0}) for name in pool[1])):
        source = Checkpoint(folder)
        merged = dict(merged_tensors(recipe_of(pool, **lambdas)))
        assert merged.keys() == source.infos.keys()
        assert all(equal_bits(merged[name], source.read(name)) for name in merged)


def test_coefficients_by_group(pool: Pool) -> None:
    """Every group gets its own λ, against the plain formula in float64."""
    base, models = pool
    layout = check_pool(base, models)
    rows = tuple(tuple(0.1 * i - 0.05 * t for i in range(len(layout.groups))) for t in range(2))
    recipe = Recipe(base, models, "task_arithmetic", Coefficients(("b", "a"), layout.groups, rows))
    root, b, a = (load_file(folder / "model.safetensors") for folder in (base, models["b"], models["a"]))
    for name, tensor in merged_tensors(recipe):
        of_b, of_a = (row[layout.groups.index(layout.group_of[name])] for row in rows)
        start = root[name].double()
        exact = start + of_b * (b[name].double() - start) + of_a * (a[name].double() - start)
        torch.testing.assert_close(tensor.double(), exact, rtol=0, atol=1e-6)


def test_bfloat16_is_rounded_once(half_pool: Pool) -> None:
    base, models = half_pool
    exact_sum = {"a": 0.3, "b": 0.7, "c": -0.2}
    root = load_file(base / "model.safetensors")
    experts = {name: load_file(folder / "model.safetensors") for name, folder in models.items()}
    for name, tensor in merged_tensors(recipe_of(half_pool, **exact_sum)):
        start = root[name].double()
        exact = start + sum(value * (experts[m][name].double() - start) for m, value in exact_sum.items())
        scale = torch.stack([start, *(e[name].double() for e in experts.values())]).abs().amax(0)
        # half a unit in the last place of bfloat16 (8 bits), and what float32 arithmetic (24 bits) adds
        assert ((tensor.double() - exact).abs() <= exact.abs() * 2**-8 + scale * 2**-22).all(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_and_generates(family: str, tmp_path: Path) -> None:
    pool = make_pool(tmp_path, ("a", "b"), family, torch.bfloat16)
    write_merge(recipe_of(pool, a=0.5, b=0.25), tmp_path / "out", EXPORT, card="")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    ids = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert ids.shape == (1, 7)


def test_what_is_published(pool: Pool, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str, str]] = []
    recipe = recipe_of(pool, a=0.5)
    export = ExportSettings(shard_size="40KB")
    manifest = write_merge(recipe, tmp_path / "out", export, card="# Card\n", progress=lambda *a: seen.append(a))
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names - {"manifest.json"} == set(manifest.files)
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert sum(name.endswith(".safetensors") for name in names) > 2
    for name, (size, digest) in manifest.files.items():
        assert ((out / name).stat().st_size, hashlib.sha256((out / name).read_bytes()).hexdigest()) == (size, digest)
    assert Manifest.read(out) == manifest
    assert (out / "README.md").read_text() == "# Card\n"
    assert recipe_from_yaml((out / "recipe.yaml").read_text()) == recipe
    assert "_name_or_path" not in json.loads((out / "config.json").read_text())

    done = [entry[0] for entry in seen]
    assert done == sorted(done)
    assert {entry[1:3] for entry in seen} == {(done[-1], "bytes")}

    AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|user|>hi<|assistant|>"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_of_the_export(pool: Pool, tmp_path: Path, dtype: str) -> None:
    write_merge(recipe_of(pool), tmp_path / "out", ExportSettings(dtype=dtype), card="")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    merged, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", pool[0]))
    assert all(equal_bits(merged[name], base[name].to(getattr(torch, dtype))) for name in base)


def test_the_old_key_of_the_dtype_is_kept(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, ("a",))
    edit_json(pool[0] / "config.json", lambda config: config.update(torch_dtype=config.pop("dtype")))
    write_merge(recipe_of(pool), tmp_path / "out", ExportSettings(dtype="bfloat16"), card="")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["torch_dtype"], config.get("dtype")) == ("bfloat16", None)


def test_tokenizer_of_the_model_that_chats(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, ("a", "b"))
    add_tokenizer(pool[0], template=None)
    add_tokenizer(pool[1]["b"])
    edit_json(pool[1]["b"] / "generation_config.json", lambda config: config.update(eos_token_id=3))
    write_merge(recipe_of(pool), tmp_path / "out", EXPORT, card="")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == TEMPLATE
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == 3


def test_integers_and_tables_come_from_the_base(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, ("a",))
    for factor, folder in ((1.0, pool[0]), (3.0, pool[1]["a"])):
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.arange(4) * factor
        tensors["model.layers.0.self_attn.mask"] = torch.ones(3, dtype=torch.bool)
        save_file(tensors, folder / "model.safetensors")
    merged = dict(merged_tensors(replace(recipe_of(pool, a=0.5), dtype="bfloat16")))
    assert torch.equal(merged["model.layers.0.self_attn.rotary_emb.inv_freq"], torch.arange(4) * 1.0)
    assert merged["model.layers.0.self_attn.mask"].dtype == torch.bool


def spoil(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[3] = value
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_a_number(tmp_path: Path, value: float) -> None:
    pool = make_pool(tmp_path, ("a", "b"))
    spoil(pool[1]["b"], "model.layers.1.mlp.up_proj.weight", value)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: NaN or infinity in b"):
        write_merge(recipe_of(pool, a=0.5, b=0.5), tmp_path / "out", EXPORT, card="")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "base"]


def test_a_dtype_too_narrow(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, ("a",))
    spoil(pool[0], "model.norm.weight", 1e6)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight.* does not fit into F16"):
        write_merge(recipe_of(pool), tmp_path / "out", ExportSettings(dtype="float16"), card="")


def test_recipes_that_cannot_be_carried_out(pool: Pool, tmp_path: Path) -> None:
    good = recipe_of(pool)
    short = Coefficients(("a", "b"), ("embedding",), ((0.0,), (0.0,)))
    for recipe, words in (
        (replace(good, method="magic"), "magic"),
        (replace(good, dtype="int4"), "int4"),
        (replace(good, models={}), "0 models found, it takes 1 or more"),
        (replace(good, models={"a": pool[1]["a"]}), "models b found"),
        (replace(good, coefficients=short), r"layers\.0\.attention.* missing"),
    ):
        with pytest.raises(RecipeError, match=words):
            write_merge(recipe, tmp_path / "out", EXPORT, card="")
    other = make_pool(tmp_path, ("a",), intermediate_size=64)
    with pytest.raises(PoolError, match=r"\[32, 64\] in F32 in a .* the base has \[32, 48\]"):
        list(merged_tensors(replace(good, models={**pool[1], "a": other[1]["a"]})))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up(pool: Pool, tmp_path: Path) -> None:
    def fill(done: int, total: int, unit: str, note: str) -> None:
        shard = next((tmp_path / ".out.partial").glob("model-00001-of-*"))
        later = shard.with_name(shard.name.replace("00001-of", "00002-of"))
        if not later.is_symlink():
            later.symlink_to("/dev/full")  # the next shard meets a real ENOSPC

    with pytest.raises(CheckpointError, match="is full"):
        write_merge(recipe_of(pool), tmp_path / "out", ExportSettings(shard_size="40KB"), card="", progress=fill)
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from optimizer.merging.merge import write_merge
from optimizer.merging.recipe import ExportSettings, recipe_from_json
def show(done, total, unit, note):
    print(done, total, flush=True)
    if len(sys.argv) > 3 and done > total * float(sys.argv[3]):
        sys.stdin.read()  # wait here for the kill
write_merge(recipe_from_json(sys.argv[1]), Path(sys.argv[2]), ExportSettings(shard_size="40KB"), card="", progress=show)
"""


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_killed_merge_leaves_nothing_under_its_name(pool: Pool, tmp_path: Path, share: float) -> None:
    recipe = recipe_of(pool, a=0.5, b=0.5)
    out = tmp_path / "out"
    command = [sys.executable, "-c", WRITER, recipe_to_json(recipe), str(out), str(share)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    assert writer.stdout is not None
    for line in writer.stdout:
        done, total = map(int, line.split())
        if done > total * share:
            break
    os.kill(writer.pid, signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".out.partial").exists()  # it was killed in the middle of writing
    manifest = write_merge(recipe, out, EXPORT, card="")
    assert list(tmp_path.iterdir()) == [out]
    assert (
        hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        == manifest.files["model.safetensors"].sha256
    )


MEASURED = """
import sys
from pathlib import Path
import torch
from optimizer.merging.merge import write_merge
from optimizer.merging.recipe import ExportSettings, recipe_from_json
torch.set_num_threads(2)
def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024
start = anonymous()
peak = start
def show(*_):
    global peak
    peak = max(peak, anonymous())
write_merge(recipe_from_json(sys.argv[1]), Path(sys.argv[2]), ExportSettings(), card="", progress=show)
print(peak - start)
"""


def test_memory_is_bounded_by_a_span(tmp_path: Path) -> None:
    """A tensor of 128 MB (sparse: zeros) in each of three models; anonymous memory grows by a fraction of one."""
    rows, columns = 1 << 13, 1 << 13
    numel = rows * columns
    header = json.dumps(
        {"model.embed_tokens.weight": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [0, 2 * numel]}}
    )
    pool = tmp_path / "base", {name: tmp_path / name for name in ("a", "b")}
    for folder in (pool[0], *pool[1].values()):
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "x"}')
        with (folder / "model.safetensors").open("wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header.encode())
            stream.truncate(8 + len(header) + 2 * numel)
    coefficients = Coefficients(("a", "b"), ("embedding",), ((0.3,), (0.4,)))
    text = recipe_to_json(Recipe(pool[0], pool[1], "task_arithmetic", coefficients))
    command = [sys.executable, "-c", MEASURED, text, str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert int(result.stdout) < 50
