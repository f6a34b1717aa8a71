"""Data sets on disk."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from datagen import storage
from datagen.errors import DataError
from datagen.judges.rules import RulesJudge
from datagen.pipeline import generate
from datagen.samples import DataSet, Split
from tests.datagen.scripted import ScriptedEngine
from tests.datagen.toypool import SETTINGS, pool, speak


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, Path]:
    folder = tmp_path_factory.mktemp("stored")
    members = pool(folder / "pool")
    engine = ScriptedEngine(speak)
    made = generate(
        members, SETTINGS, engine=engine, judge=RulesJudge(), folder=folder / "set", progress=lambda *_: None
    )
    return made, folder / "set"


def test_what_was_written_is_read(stored: tuple[DataSet, Path]) -> None:
    dataset, folder = stored
    assert storage.read(folder) == dataset


def test_parquet_and_jsonl_say_the_same(stored: tuple[DataSet, Path]) -> None:
    _, folder = stored
    for split in Split:
        lines = [json.loads(line) for line in (folder / "jsonl" / f"{split}.jsonl").read_text().splitlines()]
        assert lines == pq.read_table(folder / "data" / f"{split}.parquet").to_pylist()
        assert lines
        assert {line["split"] for line in lines} == {split}


def test_the_card_names_the_split_files_for_datasets(stored: tuple[DataSet, Path]) -> None:
    _, folder = stored
    head = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    (config,) = head["configs"]
    assert [entry["split"] for entry in config["data_files"]] == list(Split)
    assert all((folder / entry["path"]).is_file() for entry in config["data_files"])


def test_the_card_counts_and_quotes_nothing(stored: tuple[DataSet, Path]) -> None:
    dataset, folder = stored
    card = storage.read_card(folder)
    assert sum(sum(row.values()) for row in card["counts"].values()) == len(dataset.samples)
    assert card["verdicts"]["chat"]["harmful"]["refusal"] == 1
    assert card["verdicts"]["gems"]["harmful"]["refusal"] == 0
    assert card["cost"]["requests"] > 0
    text = (folder / "README.md").read_text() + (folder / "card.json").read_text()
    assert not any(sample.prompt in text for sample in dataset.samples)


def test_a_folder_without_a_data_set_is_an_error(tmp_path: Path) -> None:
    assert not storage.is_whole(tmp_path)
    with pytest.raises(DataError, match=r"search\.parquet cannot be read"):
        storage.read(tmp_path)
    with pytest.raises(DataError, match="holds no whole data set"):
        storage.read_card(tmp_path)
