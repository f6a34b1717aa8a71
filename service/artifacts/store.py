"""Published checkpoints: folders that appear whole or not at all and never change.

    {root}/{namespace}/{name}/{sha}/…           the files, with manifest.json among them
    {root}/{namespace}/{name}/refs/main         the sha that `main` means

`sha` is the SHA-1 of the manifest: the same contents have the same name, so publishing twice is publishing once.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from service.kit.errors import NotFoundError, ServiceError

MANIFEST = "manifest.json"
MAIN = "main"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SHA = re.compile(r"[0-9a-f]{40}")
_CHUNK = 8 * 2**20


class StoreError(ServiceError):
    """A folder that cannot be published as it is."""


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact; `sha256` in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """One published checkpoint."""

    namespace: str
    name: str
    sha: str
    created_at: datetime
    files: tuple[FileEntry, ...]
    folder: Path

    @property
    def reference(self) -> str:
        return f"{self.namespace}/{self.name}@{self.sha}"

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def file(self, path: str) -> FileEntry:
        """The entry of a path that the manifest lists; nothing else can be read.

        Raises:
            NotFoundError.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise NotFoundError(f"artifact {self.reference} has no file {path!r}")


class Store:
    """Artifacts in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, folder: Path, namespace: str, name: str) -> str:
        """Move a finished folder into the store and make it what `main` means.

        A `manifest.json` of the folder ({file: {size, sha256}}) is checked against the files; without one, it is made.

        Returns:
            NAMESPACE/NAME@SHA.

        Raises:
            StoreError: a name that is not allowed, a link, no file, or a manifest that does not fit the files.
        """
        home = self._home(namespace, name)
        home.mkdir(parents=True, exist_ok=True)
        arriving = home / f".arriving-{secrets.token_hex(8)}"
        files = _survey(folder)
        sha = manifest_sha(files)
        target = home / sha
        if not target.exists():
            _move(folder, arriving)
            _write_durably(arriving / MANIFEST, _manifest_text(files))
            try:
                arriving.rename(target)
            except OSError:
                if not target.exists():
                    raise
                shutil.rmtree(arriving)  # another worker published the same contents meanwhile
            _sync_folder(home)
        elif folder.exists():
            shutil.rmtree(folder)
        (home / "refs").mkdir(exist_ok=True)
        _write_durably(home / "refs" / MAIN, sha + "\n")
        return f"{namespace}/{name}@{sha}"

    def get(self, namespace: str, name: str, revision: str = MAIN) -> Artifact:
        """An artifact by its sha or by `main`.

        Raises:
            NotFoundError.
        """
        missing = NotFoundError(f"there is no artifact {namespace}/{name}@{revision}")
        if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(name):
            raise missing
        home = self.root / namespace / name
        if revision == MAIN:
            try:
                revision = (home / "refs" / MAIN).read_text().strip()
            except OSError:
                raise missing from None
        if not _SHA.fullmatch(revision):
            raise missing
        return self._read(namespace, name, revision, missing)

    def _read(self, namespace: str, name: str, sha: str, missing: NotFoundError) -> Artifact:
        folder = self.root / namespace / name / sha
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            created = datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime, UTC)
        except OSError:
            raise missing from None
        files = tuple(FileEntry(path, entry["size"], entry["sha256"]) for path, entry in sorted(manifest.items()))
        return Artifact(namespace, name, sha, created, files, folder)

    def all(self) -> Iterator[Artifact]:
        """What `main` means of every name, and every other published sha; newest first."""
        found = [
            self.get(folder.parent.parent.name, folder.parent.name, folder.name)
            for folder in self.root.glob("*/*/*")
            if _SHA.fullmatch(folder.name)
        ]
        return iter(sorted(found, key=lambda artifact: (artifact.created_at, artifact.sha), reverse=True))

    def _home(self, namespace: str, name: str) -> Path:
        for part in (namespace, name):
            if not _NAME.fullmatch(part):
                raise StoreError(
                    f"{part!r} cannot be part of an artifact's name",
                    mend="lower-case letters, digits, `-` and `_`, 63 at most, a letter or digit first",
                )
        return self.root / namespace / name


def parse(reference: str) -> tuple[str, str, str]:
    """NAMESPACE/NAME[@REVISION] in its parts.

    Raises:
        NotFoundError: it is not such a reference.
    """
    path, _, revision = reference.partition("@")
    namespace, slash, name = path.partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise NotFoundError(
            f"{reference!r} is not an artifact", mend="write NAMESPACE/NAME or NAMESPACE/NAME@SHA, as a job shows it"
        )
    return namespace, name, revision or MAIN


def manifest_sha(files: Mapping[str, FileEntry]) -> str:
    """SHA-1 (40 hex digits) of a manifest: of `sha256 size path` lines in the order of paths."""
    lines = "".join(f"{files[path].sha256} {files[path].size} {path}\n" for path in sorted(files))
    return hashlib.sha1(lines.encode(), usedforsecurity=False).hexdigest()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _survey(folder: Path) -> dict[str, FileEntry]:
    """Every file of a folder with size and hash; the folder's own manifest is believed on hashes, not on sizes."""
    claimed: dict[str, dict[str, object]] = {}
    if (folder / MANIFEST).is_file():
        claimed = json.loads((folder / MANIFEST).read_bytes())
    found: dict[str, FileEntry] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise StoreError(f"{path} is a link; a published folder holds plain files", mend="copy what it points to")
        relative = str(PurePosixPath(path.relative_to(folder)))
        if path.is_dir() or relative == MANIFEST:
            continue
        size, entry = path.stat().st_size, claimed.get(relative)
        if claimed and (entry is None or entry.get("size") != size):
            expected = f"{entry['size']} bytes" if entry else "no such file"
            raise StoreError(f"{path} has {size:,} bytes, its manifest says {expected}", mend="write the folder again")
        found[relative] = FileEntry(relative, size, str(entry["sha256"]) if entry else sha256_of(path))
    if not found or (lost := claimed.keys() - found.keys()):
        raise StoreError(f"{folder} lacks {', '.join(sorted(lost)) if found else 'any file'}", mend="write it again")
    return found


def _manifest_text(files: Mapping[str, FileEntry]) -> str:
    entries = {path: {"size": files[path].size, "sha256": files[path].sha256} for path in sorted(files)}
    return json.dumps(entries, indent=1) + "\n"


def _move(source: Path, target: Path) -> None:
    """Rename, or copy and sync where the folders are on different file systems."""
    try:
        source.rename(target)
    except OSError:
        shutil.copytree(source, target)
        for path in target.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(source)


def _write_durably(path: Path, text: str) -> None:
    """Replace a file in one step; after a power cut it is the old one or the new one."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
