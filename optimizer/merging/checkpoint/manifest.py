"""What a published folder holds: size and sha256 of every file. Imports no torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from optimizer.errors import CheckpointError

MANIFEST = "manifest.json"
_PIECE = 4 << 20


class FileEntry(NamedTuple):
    """`size` in bytes, `sha256` in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """File name → entry, sorted by name; the manifest itself is not among them."""

    files: Mapping[str, FileEntry]

    @property
    def digest(self) -> str:
        """sha256 of the manifest: names the whole content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    def to_json(self) -> str:
        """{file: {"size": bytes, "sha256": hex}}, the content of manifest.json."""
        return json.dumps({name: self.files[name]._asdict() for name in sorted(self.files)}, indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest that stands in `folder`.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        try:
            entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            return cls({name: FileEntry(int(e["size"]), str(e["sha256"])) for name, e in sorted(entries.items())})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / MANIFEST}: no readable manifest ({error})", mend="merge again") from None


def hash_file(file: Path) -> FileEntry:
    """Size and sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    size = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return FileEntry(size, digest.hexdigest())
