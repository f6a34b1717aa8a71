"""Models by name: references, folders, the Hugging Face cache, the Hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import CheckpointError, RecipeError
from optimizer.merging.checkpoint.models import ModelReference, commit_of, is_repository, open_model, pinned, resolve
from optimizer.merging.checkpoint.source import Checkpoint
from tests.optimizer.merging.checkpoint.hub import hub
from tests.optimizer.merging.conftest import Pool

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = COMMIT[::-1]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, offline."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hf" / "hub"


def keep(cache: Path, source: Path, name: str, commit: str = COMMIT, branch: str | None = "main") -> Path:
    """Lay a model into the cache as huggingface_hub does."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir(exist_ok=True)
    for file in source.iterdir():
        shutil.copy(file, home / "blobs" / f"{commit[:6]}-{file.name}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{commit[:6]}-{file.name}")
    if branch is not None:
        (home / "refs" / branch).parent.mkdir(parents=True, exist_ok=True)
        (home / "refs" / branch).write_text(commit)
    return snapshot


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("org/name", ModelReference("org/name")),
        ("./folder", ModelReference("./folder")),
        ("org/name@v1.0", ModelReference("org/name", "v1.0")),
        ("org/name@refs/pr/1", ModelReference("org/name", "refs/pr/1")),
        ("org/name+org/lora", ModelReference("org/name", None, ModelReference("org/lora"))),
        ("/a/b@x+c@y", ModelReference("/a/b", "x", ModelReference("c", "y"))),
    ],
)
def test_references(text: str, reference: ModelReference) -> None:
    assert ModelReference.parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize("text", ["", "+", "a+", "+b", "a@", "@r", "a@r@s", "a+b+c", "a+b@", "   "])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(RecipeError, match="expected path"):
        ModelReference.parse(text)


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_a_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = ModelReference.parse(text)
    except RecipeError:
        return
    assert ModelReference.parse(str(reference)) == reference


def test_a_path_is_taken_as_it_is(tmp_path: Path, pool: Pool) -> None:
    odd = Path(shutil.copytree(pool[0], tmp_path / "c++@home"))
    assert resolve(odd) == odd
    assert open_model(odd).infos == Checkpoint(odd).infos


def test_folders(tmp_path: Path, pool: Pool, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(pool[0])) == pool[0]
    monkeypatch.chdir(pool[0].parent)
    for text in ("base", "./base", f"../{pool[0].parent.name}/base"):
        assert resolve(text) == pool[0]
        assert pinned(text) == ModelReference(text)
    with pytest.raises(CheckpointError, match="a folder has none"):
        resolve("base@main")


@pytest.mark.parametrize(
    "text",
    [
        "../../etc/passwd", "a/../b", "http://169.254.169.254/x", "https://huggingface.co/org/name", "a/b/c", "org/..",
        "a//b", "/etc/passwd", "~nobody-here/x", "org/na me", "org\\name", "-x/y", "org/name\n", "x" * 300,
        "/" + "x" * 5000, "org/name\0", "file:///etc", "s3://b/k", "org/.git", "é/ü", "org/naïve", "org/", "",
    ],
)  # fmt: skip
def test_names_that_are_neither(text: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # nothing of this may reach the network, either
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="model ") as caught:
        resolve(ModelReference(text))
    assert "the Hub" not in str(caught.value)


def test_a_folder_by_a_detour_is_no_name(
    tmp_path: Path, pool: Pool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    shutil.copytree(pool[0], tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="neither"):
        resolve("a/../b")


@pytest.mark.parametrize("revision", ["../../x", "a b", "", "..", "/etc", "x\0", "-x", "x" * 300])
def test_revisions_are_no_paths(revision: str, cache: Path, pool: Pool) -> None:
    keep(cache, pool[0], "org/name")
    with pytest.raises(CheckpointError, match="expected a branch"):
        resolve(ModelReference("org/name", revision))


def test_the_cache(cache: Path, pool: Pool) -> None:
    first = keep(cache, pool[0], "org/name")
    second = keep(cache, pool[1]["a"], "org/name", OTHER, "refs/pr/1")
    assert resolve("org/name") == first
    assert resolve("org/name@main") == first
    assert resolve(f"org/name@{COMMIT}") == first
    assert resolve("org/name@refs/pr/1") == second
    assert open_model("org/name@refs/pr/1").infos.keys() == Checkpoint(pool[1]["a"]).infos.keys()
    assert keep(cache, pool[0], "gpt2") == resolve("gpt2")
    with pytest.raises(CheckpointError, match="not in the Hugging Face cache") as caught:
        resolve("org/name@v2")
    assert "HF_HUB_OFFLINE" in str(caught.value.mend)
    assert is_repository("org/name")


def test_a_branch_is_recorded_as_its_commit(cache: Path, pool: Pool) -> None:
    keep(cache, pool[0], "org/name")
    keep(cache, pool[1]["a"], "org/lora", OTHER)
    assert pinned("org/name") == ModelReference("org/name", COMMIT)
    assert str(pinned("org/name@main+org/lora")) == f"org/name@{COMMIT}+org/lora@{OTHER}"
    assert str(pinned(f"{pool[0]}+org/lora")) == f"{pool[0]}+org/lora@{OTHER}"
    assert commit_of(pool[0]) is None


def test_half_a_snapshot_is_none(cache: Path, pool: Pool) -> None:
    snapshot = keep(cache, pool[0], "org/name")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not in the Hugging Face cache"):
        resolve("org/name")
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "m-1.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not in the Hugging Face cache"):
        resolve("org/name")


@pytest.mark.parametrize("text", ["../../../x", "x" * 100, "", "\xff"])
def test_a_branch_that_points_elsewhere(text: str, cache: Path, pool: Pool) -> None:
    keep(cache, pool[0], "org/name")
    (cache / "models--org--name" / "refs" / "main").write_text(text)
    with pytest.raises(CheckpointError, match="not in the Hugging Face cache"):
        resolve("org/name")


def elsewhere(code: str, cache: Path, **environment: str) -> str:
    """Runs in a process of its own: huggingface_hub reads its environment when it is imported."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", f"from optimizer.merging.checkpoint.models import *\n{code}"],
        env={**inherited, "HF_HOME": str(cache.parent), "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_the_hub(cache: Path, pool: Pool, tmp_path: Path) -> None:
    """A branch is asked for each time, a commit once; pickles, code and subfolders stay where they are."""
    served = Path(shutil.copytree(pool[0], tmp_path / "served"))
    for name in ("pytorch_model.bin", "modeling_x.py", "consolidated.safetensors"):
        (served / name).write_bytes(b"no")
    with hub() as server:
        server.folders["org/name"] = {COMMIT: served, OTHER: pool[1]["a"]}
        server.branches["org/name", "main"] = COMMIT
        code = "print(pinned('org/name'), *sorted(p.name for p in resolve('org/name').iterdir()))"
        said = elsewhere(code, cache, HF_ENDPOINT=server.url)
        assert f"org/name@{COMMIT} " in said
        assert "model.safetensors" in said
        assert not {"pytorch_model.bin", "modeling_x.py", "consolidated.safetensors"} & set(said.split())
        server.branches["org/name", "main"] = OTHER
        said = elsewhere(f"{code}\nresolve('org/gone')", cache, HF_ENDPOINT=server.url)
        assert f"org/name@{OTHER} " in said
        assert "CheckpointError: model org/gone: no such folder, and the Hub did not give it" in said
    gone = "http://127.0.0.1:1"
    said = elsewhere(f"print(resolve('org/name@{COMMIT}'))\nresolve('org/none')", cache, HF_ENDPOINT=gone)
    assert said.startswith(str(cache)), "a commit that is here needs no network"
    assert "CheckpointError: model org/none: no such folder, and the Hub did not give it" in said


def test_no_torch_and_no_hub_for_what_lies_here(cache: Path, pool: Pool) -> None:
    code = f"import sys; resolve({str(pool[0])!r}); print(sorted({{'torch', 'huggingface_hub'}} & sys.modules.keys()))"
    assert elsewhere(code, cache).strip() == "[]"
