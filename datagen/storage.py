"""Data sets on disk: Parquet a split, the same as JSONL, and a card that people, programs and `datasets` read.

    FOLDER/README.md            the card, with the split files named for `datasets.load_dataset(FOLDER)`
    FOLDER/card.json            the same figures for programs; written last, so its presence means a whole data set
    FOLDER/data/SPLIT.parquet
    FOLDER/jsonl/SPLIT.jsonl

The folder is its owner's alone: it holds harmful questions.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen.card import front_matter, markdown
from datagen.errors import DataError
from datagen.requests import write_atomically
from datagen.samples import DataSet, Kind, Provenance, Sample, Split

_TEXT = ("id", "kind", "split", "category", "domain", "prompt", "answer")
_PROVENANCE = tuple(Provenance.__dataclass_fields__)
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in _TEXT),
        pa.field("cluster", pa.int64(), nullable=False),
        pa.field(
            "provenance",
            pa.struct([pa.field(name, pa.int64() if name == "seed" else pa.string()) for name in _PROVENANCE]),
            nullable=False,
        ),
    ]
)


def write(dataset: DataSet, folder: Path, card: Mapping[str, Any]) -> None:
    """Store `dataset` under `folder`, which may hold other things already. Every file appears whole; card.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for part in ("data", "jsonl"):
        (folder / part).mkdir(exist_ok=True, mode=0o700)
    for split in Split:
        rows = [asdict(sample) for sample in dataset.of(split)]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer, compression="zstd")
        write_atomically(folder / "data" / f"{split}.parquet", buffer.getvalue())
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(folder / "jsonl" / f"{split}.jsonl", lines.encode())
    write_atomically(folder / "README.md", (front_matter() + markdown(card)).encode())
    write_atomically(folder / "card.json", json.dumps(card, indent=2, ensure_ascii=False).encode())


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a data set that was written to its end."""
    return (folder / "card.json").is_file()


def read_card(folder: Path) -> dict[str, Any]:
    """The card's figures.

    Raises:
        DataError: `folder` holds no whole data set.
    """
    try:
        card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no whole data set: {error}", mend="generate it again") from None
    return card


def read(folder: Path) -> DataSet:
    """The data set that `write` stored: rows in the order of the splits, as they were written within each.

    Raises:
        DataError: a file is missing or does not have the columns of a data set.
    """
    samples: list[Sample] = []
    for split in Split:
        file = folder / "data" / f"{split}.parquet"
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file} cannot be read: {error}", mend="generate the data set again") from None
        if table.schema.names != SCHEMA.names:
            found, expected = ", ".join(table.schema.names), ", ".join(SCHEMA.names)
            raise DataError(f"{file} has the columns {found}, expected {expected}")
        samples += [_sample(row) for row in table.to_pylist()]
    return DataSet(tuple(samples))


def _sample(row: dict[str, Any]) -> Sample:
    provenance = Provenance(**row.pop("provenance"))
    return Sample(**row | {"kind": Kind(row["kind"]), "split": Split(row["split"])}, provenance=provenance)
