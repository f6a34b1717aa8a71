"""Random damage is refused with an error that names the folder, or harmless: never wrong data, never a crash."""

import random
from pathlib import Path

import pytest

from tests.optimizer.merging.checkpoint.damage import check, damaged, make_subject, warped

CASES = 30
NAMES = (
    "m-1.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json", "tokenizer_config.json",
    "adapter_config.json", "adapter_model.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_subject(tmp_path_factory.mktemp("damage"))


def test_without_damage_it_reads_as_it_should(subject: dict[str, Path]) -> None:
    assert set(subject) == set(NAMES)
    assert not check(subject, "config.json")


@pytest.mark.parametrize("name", NAMES)
def test_damage(subject: dict[str, Path], name: str) -> None:
    file, rng, refused = subject[name], random.Random(name), 0
    good = file.read_bytes()
    try:
        for case in range(CASES):
            file.write_bytes(rng.choice((damaged, warped))(good, rng))
            try:
                refused += check(subject, name)
            except Exception as error:
                raise AssertionError(f"case {case} of {name}") from error
    finally:
        file.write_bytes(good)
    assert refused > CASES // 5
