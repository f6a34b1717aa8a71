"""Random damage to tokenizer files: an error of ours, or a vocabulary; never anything else."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from optimizer.errors import CheckpointError
from optimizer.merging.vocabulary.request import TokenizerRequest
from tests.optimizer.merging.vocabulary.speakers import CORE, add_speech, make_speaker, planned, values

CASES = 120
JUNK: tuple[Any, ...] = (None, -1, 1 << 70, 0.5, "", "x", "\ud800", [], {}, [[]], {"a": {}}, True)
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def damage(value: Any, luck: random.Random, depth: int = 0) -> Any:
    """Somewhere in the value, one thing is another, or gone."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or (depth and luck.random() < 0.25):
        return luck.choice(JUNK)
    at = luck.choice(inner)
    if luck.random() < 0.15:
        del value[at]
    else:
        value[at] = damage(value[at], luck, depth + 1)
    return value


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and a model with pieces and added tokens of its own, with every file there is."""
    home = tmp_path_factory.mktemp("healthy")
    folders = {"base": make_speaker(home / "base", 1, 260), "a": make_speaker(home / "a", 2, 261)}
    add_speech(folders["base"], special=["<x>"], template="{{ messages }}")
    add_speech(folders["a"], (*CORE, "ab"), merges=[("a", "b")], special=["<tool>"])
    for folder in folders.values():
        (folder / "special_tokens_map.json").write_text('{"additional_special_tokens": ["<x>"]}')
    return folders


@pytest.mark.parametrize("seed", range(CASES))
def test_damaged_tokenizers(healthy: dict[str, Path], tmp_path: Path, seed: int) -> None:
    luck = random.Random(seed)
    folders = {key: Path(shutil.copytree(folder, tmp_path / key)) for key, folder in healthy.items()}
    file = folders[luck.choice(["base", "a"])] / luck.choice(FILES[:1] * 3 + FILES)
    if luck.random() < 0.2:
        raw = bytearray(file.read_bytes())
        raw[luck.randrange(len(raw))] = luck.randrange(256)
        file.write_bytes(raw[: luck.choice([len(raw), luck.randrange(len(raw))])])
    else:
        file.write_text(json.dumps(damage(json.loads(file.read_text()), luck)))
    wanted = luck.choice([None, "chatml", "auto"])
    problem: CheckpointError | None = None
    try:
        vocabulary = planned(folders, TokenizerRequest(luck.choice(["union", "base", "a"]), chat_template=wanted))
    except CheckpointError as error:
        problem = error
    if problem is not None:
        assert str(tmp_path) in problem.message
        return
    assert "tokenizer.json" in vocabulary.companions
    for key in folders:
        assert len(values(vocabulary, key)) == vocabulary.size
