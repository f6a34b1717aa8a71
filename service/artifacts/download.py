"""Fetches a published checkpoint: every byte hashed, a broken download taken up where it broke."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from datagen.errors import TemperError
from service.artifacts.store import MANIFEST

#: called with (bytes done, bytes in all, path of the file in hand); may raise to stop
Downloaded = Callable[[int, int, str], None]

CHUNK = 2**20
#: attempts in a row that bring no byte before a file is given up
ATTEMPTS = 6
PART = ".part"


class TransferError(TemperError):
    """A download that does not arrive as it was published."""


def download(http: httpx.Client, manifest: Mapping[str, Any], folder: Path, progress: Downloaded | None) -> None:
    """Bring `folder` to what the manifest says.

    Raises:
        TransferError: a file's hash is wrong twice, the manifest names a path outside, or `folder` holds other files.
        httpx.TransportError: the service stays away.
    """
    files = {entry["path"]: entry for entry in manifest["files"]}
    _check_paths(files, folder)
    folder.mkdir(parents=True, exist_ok=True)
    fetch = _Fetch(http, manifest, progress or _silent)
    for path, entry in files.items():
        fetch.file(folder / path, entry)
    listing = {path: {"size": entry["size"], "sha256": entry["sha256"]} for path, entry in files.items()}
    (folder / MANIFEST).write_text(json.dumps(listing, indent=1) + "\n")


def _silent(_done: int, _total: int, _path: str) -> None:
    pass


def _check_paths(files: Mapping[str, Any], folder: Path) -> None:
    for path in files:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\\" in path or not parts.parts:
            raise TransferError(
                f"the service names a file {path!r}, which lies outside the folder; nothing was fetched"
            )
    allowed = {*files, *(path + PART for path in files), MANIFEST}
    present = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} if folder.is_dir() else set()
    if folder.exists() and not folder.is_dir():
        raise TransferError(f"{folder} is a file", mend="name a folder to pull into")
    if foreign := sorted(present - allowed):
        raise TransferError(
            f"{folder} holds other files ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''})",
            mend="pull into an empty folder, or one that an earlier pull of the same artifact left",
        )


class _Fetch:
    """One pull: counts bytes over all files."""

    def __init__(self, http: httpx.Client, manifest: Mapping[str, Any], progress: Downloaded) -> None:
        self._http, self._progress = http, progress
        self._root = f"/v1/artifacts/{manifest['namespace']}/{manifest['name']}@{manifest['sha']}/files/"
        self._total, self._before = int(manifest["size"]), 0

    def file(self, target: Path, entry: Mapping[str, Any]) -> None:
        """One file, whole and right, or an error; what has come stays for the next attempt."""
        size, wanted, path = int(entry["size"]), str(entry["sha256"]), str(entry["path"])
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + PART)
        if target.is_file() and target.stat().st_size == size and self._hash(target, path)[0] == wanted:
            self._before += size
            return
        for again in (True, False):
            if self._whole(_Part(part), entry) == wanted:
                part.replace(target)
                self._before += size
                return
            part.unlink(missing_ok=True)
            if not again:
                raise TransferError(
                    f"{path} arrived with another sha256 than published, twice; it was not kept",
                    mend="the file is damaged where it is served, or on the way; publish it again",
                )

    def _whole(self, part: "_Part", entry: Mapping[str, Any]) -> str:
        """Add what is missing to `part`; the sha256 of all of it."""
        size, failures = int(entry["size"]), 0
        while part.have < size:
            before = part.have
            try:
                self._add(part, entry)
            except httpx.TransportError:
                failures = 0 if part.have > before else failures + 1
                if failures >= ATTEMPTS:
                    raise
                time.sleep(min(0.2 * 2**failures, 5.0))
            else:
                failures = 0 if part.have > before else failures + 1
                if failures >= ATTEMPTS:
                    raise TransferError(
                        f"{entry['path']}: the service sends {before:,} of {size:,} bytes, then nothing"
                    )
        return str(part.digest.hexdigest())

    def _add(self, part: "_Part", entry: Mapping[str, Any]) -> None:
        path = str(entry["path"])
        headers = {"Accept-Encoding": "identity"}
        if part.have:  # If-Range: should the file be another one by now, all of it comes instead of its tail
            headers |= {"Range": f"bytes={part.have}-", "If-Range": f'"{entry["sha256"]}"'}
        with self._http.stream("GET", self._root + quote(path), headers=headers) as answer:
            if answer.status_code not in (200, 206):
                raise TransferError(f"{path}: the service answered {answer.status_code}", mend="try again later")
            with part.opened(anew=answer.status_code == 200) as file:
                for chunk in answer.iter_raw():
                    file.write(chunk)
                    part.count(chunk)
                    self._progress(self._before + part.have, self._total, path)

    def _hash(self, file: Path, path: str) -> tuple[str, int]:
        self._progress(self._before, self._total, path)
        digest, size = _hasher(file)
        self._progress(self._before + size, self._total, path)
        return digest.hexdigest(), size


def _hasher(path: Path) -> tuple[Any, int]:
    """The running sha256 of a file that may not exist, and its length."""
    digest, size = hashlib.sha256(), 0
    if path.is_file():
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
    return digest, size


class _Part:
    """What has come of a file: on disk, counted and hashed as it comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()
        self.digest, self.have = _hasher(path)

    def opened(self, *, anew: bool) -> BinaryIO:
        if anew:
            self.digest, self.have = hashlib.sha256(), 0
        return self._path.open("wb" if anew else "ab")

    def count(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.have += len(chunk)
