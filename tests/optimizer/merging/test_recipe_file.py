"""Recipe files of both formats, from their text to a folder."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from optimizer.errors import PoolError, RecipeError
from optimizer.merging.recipe_file import MergeOptions, RecipeFile
from tests.optimizer.merging.pools import add_tokenizer, edit_json, make_pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("models")
    base, models = make_pool(folder, ("a", "b"), "llama", torch.bfloat16)
    for model in (base, *models.values()):
        add_tokenizer(model)
    return base, models


def written(folder: Path, value: object) -> Path:
    file = folder / "recipe.yaml"
    documents = value if isinstance(value, list) else [value]
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return file


def temper(pool: tuple[Path, dict[str, Path]], **more: object) -> dict[str, object]:
    base, models = pool
    named = {name: str(folder) for name, folder in models.items()}
    return {"method": "ties", "base": str(base), "models": named, "coefficients": {"a": 0.5, "b": 1}} | more


def mergekit(pool: tuple[Path, dict[str, Path]], method: str = "ties", **more: object) -> dict[str, object]:
    base, models = pool
    weights = {"a": 0.5, "b": 1.0}
    listed = [{"model": str(folder), "parameters": {"weight": weights[name]}} for name, folder in models.items()]
    return {"models": listed, "merge_method": method, "base_model": str(base)} | more


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_both_formats_give_the_same_bits(pool: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    own = RecipeFile.read(written(tmp_path, temper(pool, parameters={"density": 0.4, "lambda": 0.9})))
    own.carry_out(tmp_path / "own", MergeOptions())
    theirs = mergekit(pool, parameters={"density": 0.4, "lambda": 0.9})
    RecipeFile.read(written(tmp_path, theirs)).carry_out(tmp_path / "theirs", MergeOptions())
    # and once more from what the first one wrote down for mergekit
    RecipeFile.read(tmp_path / "own" / "mergekit_config.yml").carry_out(tmp_path / "again", MergeOptions())
    first = tensors(tmp_path / "own")
    for other in ("theirs", "again"):
        found = tensors(tmp_path / other)
        assert found.keys() == first.keys()
        assert all(torch.equal(found[name], first[name]) for name in first)


def test_what_lies_beside_the_weights(pool: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    file = written(tmp_path, mergekit(pool, "dare_ties", parameters={"density": 0.5}))
    seen: list[int] = []
    options = MergeOptions(dtype="float32", shard_size=60_000, seed=7)
    manifest = RecipeFile.read(file).carry_out(tmp_path / "out", options, lambda done, *_: seen.append(done))
    out = tmp_path / "out"
    assert seen[-1] == sum(tensor.nbytes for part in out.glob("*.safetensors") for tensor in load_file(part).values())
    assert {path.name for path in out.iterdir()} == {*manifest.files, "manifest.json"}
    assert "seed of random masks: 7" in (out / "mergekit_config.yml").read_text()
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == ["base", "a", "b"]
    assert head["tags"] == ["merge", "temper", "dare_ties"]
    assert "merge_method: dare_ties" in card
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.float32


def test_a_seed_repeats_and_another_does_not(pool: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    file = RecipeFile.read(written(tmp_path, temper(pool, method="dare_linear", parameters={"density": 0.5}, seed=1)))
    for name, seed in (("one", None), ("same", 1), ("other", 2)):
        file.carry_out(tmp_path / name, MergeOptions(seed=seed))
    one, same, other = (tensors(tmp_path / name) for name in ("one", "same", "other"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_documents_build_on_each_other(pool: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    base, models = pool
    first = mergekit(pool, "task_arithmetic", name="sum", dtype="float32")
    second = {
        "merge_method": "linear",
        "models": [{"model": name, "parameters": {"weight": 1}} for name in ("sum", str(base))],
        "dtype": "float32",
    }
    file = RecipeFile.read(written(tmp_path, [second, first]))
    assert len(file.plans(MergeOptions())) == 2
    (tmp_path / "results").mkdir()
    out = tmp_path / "results" / "out"
    file.carry_out(out, MergeOptions())
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    found = tensors(out)
    root, a, b = (tensors(folder) for folder in (base, models["a"], models["b"]))
    for name, tensor in found.items():
        start = root[name].double()
        total = start + 0.5 * (a[name].double() - start) + (b[name].double() - start)
        torch.testing.assert_close(tensor.double(), (total + start) / 2, rtol=0, atol=1e-6)
    assert yaml.safe_load((out / "README.md").read_text().split("---")[1])["base_model"] == ["base", "a", "b"]


def test_a_temper_recipe_says_which_settings_may_differ(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, ("a", "b"), "llama")
    edit_json(pool[1]["a"] / "config.json", lambda config: config.update(rope_theta=5e5, rope_parameters=None))
    edit_json(pool[0] / "config.json", lambda config: config.update(rope_theta=1e4, rope_parameters=None))
    edit_json(pool[1]["b"] / "config.json", lambda config: config.update(rope_theta=1e4, rope_parameters=None))
    file = RecipeFile.read(written(tmp_path, temper(pool)))
    with pytest.raises(PoolError, match="rope_theta"):
        file.carry_out(tmp_path / "out", MergeOptions())
    assert not (tmp_path / "out").exists()
    file.carry_out(tmp_path / "out", MergeOptions(allow=frozenset({"rope_theta"})))
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("merge_method: tise\nmodels: [{model: x}]\n", ["line 1", "tise", "did you mean", "ties"]),
        ("method: tise\nbase: x\nmodels: {a: y}\ncoefficients: {a: 1}\n", ["tise", "ties"]),
        ("models: []\n", ["merge_method"]),
        ("- 1\n", ["merge_method"]),
        ("merge_method: [\n", ["YAML"]),
        ("\x00", ["YAML"]),
    ],
)
def test_a_bad_file_is_told_what_is_wrong(text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        RecipeFile.read(tmp_path / "recipe.yaml").plans(MergeOptions())
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        RecipeFile.read(tmp_path / "none.yaml")
