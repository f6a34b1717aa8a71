"""`temper merge`, `temper to-mergekit`: what they print, write and exit with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from service import cli
from service.merging import size
from tests.optimizer.merging.pools import make_pool


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Temper recipe over tiny models."""
    folder = tmp_path_factory.mktemp("merge")
    base, models = make_pool(folder, ("a", "b"))
    named = {name: str(path) for name, path in models.items()}
    file = folder / "recipe.yaml"
    value = {"method": "ties", "base": str(base), "models": named, "coefficients": {"a": 0.5, "b": 0.7}}
    file.write_text(yaml.safe_dump(value | {"parameters": {"density": 0.5}}))
    return file


@pytest.fixture
def temper(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["temper", *map(str, arguments)])
        monkeypatch.setattr(cli, "console", cli.Console(stderr=True, highlight=False, width=200))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


Temper = Callable[..., tuple[int, str, str]]


def test_it_prints_the_folder_and_nothing_else_to_programs(recipe: Path, tmp_path: Path, temper: Temper) -> None:
    code, out, err = temper("merge", recipe, tmp_path / "out")
    assert (code, out) == (0, f"{tmp_path / 'out'}\n")
    assert "MB" in err or "KB" in err
    assert load_file(tmp_path / "out" / "model.safetensors")
    code, out, err = temper("merge", recipe, tmp_path / "out")
    assert (code, out) == (1, "")
    assert "exists already" in err


def test_as_json(recipe: Path, tmp_path: Path, temper: Temper) -> None:
    code, out, _ = temper("merge", recipe, tmp_path / "out", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["path"] == str(tmp_path / "out")
    assert told["bytes"] == sum(p.stat().st_size for p in (tmp_path / "out").iterdir() if p.name != "manifest.json")


def test_a_dry_run_writes_nothing(recipe: Path, tmp_path: Path, temper: Temper) -> None:
    code, out, _ = temper("merge", recipe, tmp_path / "out", "--dry-run")
    assert code == 0
    assert all(word in out for word in ("ties", "reads", "writes", "memory", "time"))
    code, out, _ = temper("merge", recipe, "--dry-run", "--json")
    told = json.loads(out)
    files = [Path(folder) / "model.safetensors" for folder in told["models"].values()]
    assert told["bytes_read"] == sum(t.nbytes for file in files for t in load_file(file).values())
    assert told["bytes_written"] == told["bytes_read"] / 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dtype", "int8"], ["int8", "bfloat16"]),
        (["--shard-size", "5 apples"], ["5 apples", "GB"]),
        (["--device", "tpu9"], ["tpu9", "cuda"]),
        (["--device", "cuda:99"], ["cuda:99"]),
        (["--allow", "rope_tetha"], ["rope_tetha"]),
    ],
)
def test_a_wrong_option_is_named(
    arguments: list[str], words: list[str], recipe: Path, tmp_path: Path, temper: Temper
) -> None:
    code, out, err = temper("merge", recipe, tmp_path / "out", *arguments)
    assert (code, out) == (1, "")
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())


def test_without_a_folder(recipe: Path, temper: Temper) -> None:
    code, _, err = temper("merge", recipe)
    assert code == 1
    assert "no folder" in err


def test_translated_it_merges_to_the_same(recipe: Path, tmp_path: Path, temper: Temper) -> None:
    code, text, _ = temper("to-mergekit", recipe)
    assert code == 0
    assert yaml.safe_load(text)["merge_method"] == "ties"
    (tmp_path / "translated.yml").write_text(text)
    assert temper("merge", recipe, tmp_path / "one")[0] == 0
    assert temper("merge", tmp_path / "translated.yml", tmp_path / "two")[0] == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(one[name].equal(two[name]) for name in one)


def test_what_mergekit_has_not_is_refused(recipe: Path, tmp_path: Path, temper: Temper) -> None:
    value = yaml.safe_load(recipe.read_text()) | {"method": "wise_ft", "parameters": {}}
    value["models"].pop("b")
    value["coefficients"].pop("b")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(value))
    code, _, err = temper("to-mergekit", tmp_path / "recipe.yaml")
    assert code == 1
    assert "wise_ft" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_nothing_stands_under_the_name(number: signal.Signals, tmp_path: Path) -> None:
    pool = make_pool(tmp_path, ("a",), hidden_size=512, intermediate_size=2048, num_hidden_layers=4)
    value = {"method": "ties", "base": str(pool[0]), "models": {"a": str(pool[1]["a"])}, "coefficients": {"a": 0.5}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(value | {"parameters": {"density": 0.5}}))
    command = [sys.executable, "-m", "service.cli", "merge", str(file), str(tmp_path / "out")]
    work = tmp_path / ".out.partial"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=_interruptible)
    while process.poll() is None and not list(work.glob("*.safetensors")):
        time.sleep(0.001)
    process.send_signal(number)
    assert process.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    assert work.exists() == (number == signal.SIGKILL)
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "out" / "manifest.json").exists()
    assert not work.exists()


def _interruptible() -> None:
    """Ctrl-C reaches the child also where this process was started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()


@pytest.mark.parametrize(
    ("count", "text"), [(17, "17 B"), (1500, "1.5 KB"), (942_300_000, "942.3 MB"), (10**15, "1000.0 TB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
