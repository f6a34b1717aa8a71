"""`temper inspect` and `temper --version`: what they print, in a terminal and piped."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from optimizer.merging.inspection import inspect_pool
from service.inspection import show
from tests.optimizer.merging.adapters import make_adapter
from tests.optimizer.merging.pools import add_tokenizer, edit_json, make_model, make_pool
from tests.service.test_cli import Temper


@pytest.fixture
def temper(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Temper:
    return Temper(monkeypatch, capsys)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: base, a, b; b has another rope."""
    folder = tmp_path_factory.mktemp("inspected")
    base, models = make_pool(folder, ("a", "b"))
    add_tokenizer(base)
    edit_json(models["b"] / "config.json", lambda config: config["rope_parameters"].update(rope_theta=7.0))
    return folder


def test_a_pool_that_fits(temper: Temper, pool: Path) -> None:
    assert temper("inspect", f"{pool}/base", f"{pool}/a") == 0
    lines = [" ".join(line.split()) for line in temper.out.splitlines()]
    assert "architecture Qwen2ForCausalLM (qwen2), 2 layers" in lines
    assert "parameters 34.8 k, 139.4 kB, F32" in lines
    assert "head its own" in lines
    assert "tokenizer BPE, 260 tokens, 4 of them added" in lines
    assert "attention mlp norm" in lines
    assert "embedding 9,600 38.4 kB" in lines
    assert "layers 0 … 1, each 7,808 31.2 kB 3,136 4,608 64" in lines
    assert lines[-1] == "these models can be merged"


def test_a_pool_that_does_not_fit(temper: Temper, pool: Path) -> None:
    assert temper("inspect", f"{pool}/base", f"{pool}/b") == 0
    assert f"{pool}/b differs from {pool}/base" in temper.out
    assert "config rope_theta: 10000.0 in the base, 7.0 here" in temper.out
    assert "these models cannot be merged as they are" in temper.out
    assert temper("inspect", "--json", f"{pool}/base", f"{pool}/b") == 0
    assert temper.json[0]["fits"] is False


def test_an_adapter(temper: Temper, pool: Path, tmp_path: Path) -> None:
    adapter = make_adapter(pool / "base", tmp_path / "lora", target_modules=["q_proj"])
    assert temper("inspect", f"{pool}/base+{adapter}") == 0
    assert "LoRA of rank 4, α 6, on 2 modules" in temper.out


def test_an_error_is_one_line_with_its_mend(temper: Temper, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert temper("inspect", f"{pool}/base", "somebody/gone") == 1
    assert temper.out == ""
    assert temper.err.startswith("error: model somebody/gone: no such folder")
    assert "mend:" in temper.err
    assert temper.err.count("\n") == 2


def test_a_terminal_obeys_nothing_out_of_a_checkpoint(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", 0)
    add_tokenizer(model, template="\x1b[31mred\x1b]0;title\x07 [bold]x[/bold]")
    out = io.StringIO()
    show(inspect_pool([model]), Console(file=out, force_terminal=True, color_system=None, width=60))
    assert "\x1b[31m" not in out.getvalue()
    assert "\x1b]" not in out.getvalue()
    assert "\x07" not in out.getvalue()
    assert "[bold]x[/bold]" in out.getvalue()


def test_version(temper: Temper) -> None:
    assert temper("--version") == 0
    assert temper.out.startswith("temper 0.")
