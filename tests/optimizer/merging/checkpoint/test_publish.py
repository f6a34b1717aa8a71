"""A folder appears under its name whole or not at all: errors, full disks, two writers, leftovers."""

import json
import os
from pathlib import Path

import pytest

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.manifest import FileEntry, Manifest, hash_file
from optimizer.merging.checkpoint.publish import publishing


def test_whole(tmp_path: Path) -> None:
    with publishing(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "a").read_text() == "x"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def stop() -> None:
        with publishing(tmp_path / "out") as folder:
            (folder / "a").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with publishing(tmp_path / "out") as folder:  # an empty folder is fine
        (folder / "a").write_text("x")
    with pytest.raises(CheckpointError, match="exists already"), publishing(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "a").read_text() == "x"


def test_a_full_disk(tmp_path: Path) -> None:
    def fill() -> None:
        with publishing(tmp_path / "out") as folder:
            (folder / "a").symlink_to("/dev/full")  # a real ENOSPC from the kernel
            (folder / "a").write_text("x" * 10_000)

    with pytest.raises(CheckpointError, match=r"the disk of .*out is full: No space left"):
        fill()
    with (
        pytest.raises(CheckpointError, match="1,000,000,000,000,000 bytes needed"),
        publishing(tmp_path / "out", 10**15),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_writer_are_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".out.partial" / "sub").mkdir(parents=True)
    (tmp_path / ".out.partial" / "model.safetensors").write_text("half")
    with publishing(tmp_path / "out") as folder:
        assert list(folder.iterdir()) == []
        (folder / "a").write_text("x")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_two_writers(tmp_path: Path) -> None:
    with publishing(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
        with pytest.raises(CheckpointError, match="another process"), publishing(tmp_path / "out"):
            pass
        assert (folder / "a").read_text() == "x"
    assert (tmp_path / "out" / "a").exists()


def test_manifest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    entry = hash_file(tmp_path / "a")
    assert entry == FileEntry(3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    manifest = Manifest({"a": entry})
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    assert Manifest.read(tmp_path) == manifest
    assert manifest.size == 3
    assert json.loads(manifest.to_json()) == {"a": {"size": 3, "sha256": entry.sha256}}
    assert manifest.digest != Manifest({"b": entry}).digest
    os.truncate(tmp_path / "manifest.json", 10)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        Manifest.read(tmp_path)


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be written"), publishing(tmp_path / "file" / "out"):
        pass
