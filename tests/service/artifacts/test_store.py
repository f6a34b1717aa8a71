"""The store: whole or not at all, the same contents under the same name, nothing outside."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from service.artifacts.store import MANIFEST, Store, StoreError, manifest_sha, parse
from service.kit.errors import NotFoundError


def checkpoint(folder: Path, text: str = "weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub").mkdir()
    (folder / "sub" / "model.safetensors").write_text(text)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def test_a_folder_is_published_under_the_hash_of_its_manifest(store: Store, tmp_path: Path) -> None:
    reference = store.publish(checkpoint(tmp_path / "new"), "local", "toy")
    artifact = store.get(*parse(reference))
    assert [file.path for file in artifact.files] == ["config.json", "sub/model.safetensors"]
    assert artifact.file("config.json").sha256 == hashlib.sha256(b"{}").hexdigest()
    lines = "".join(f"{file.sha256} {file.size} {file.path}\n" for file in artifact.files)
    assert artifact.sha == hashlib.sha1(lines.encode()).hexdigest()
    assert reference == f"local/toy@{artifact.sha}"
    assert (artifact.folder / "sub/model.safetensors").read_text() == "weights"
    assert json.loads((artifact.folder / MANIFEST).read_text())["config.json"]["size"] == 2
    assert not (tmp_path / "new").exists()


def test_main_is_the_latest_and_older_ones_stay(store: Store, tmp_path: Path) -> None:
    first = store.publish(checkpoint(tmp_path / "a", "one"), "local", "toy")
    second = store.publish(checkpoint(tmp_path / "b", "two"), "local", "toy")
    assert store.get("local", "toy").reference == second
    assert store.get(*parse(first)).reference == first
    assert {artifact.reference for artifact in store.all()} == {first, second}


def test_publishing_the_same_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    first = store.publish(checkpoint(tmp_path / "a"), "local", "toy")
    before = (store.get(*parse(first)).folder / "config.json").stat().st_ino
    assert store.publish(checkpoint(tmp_path / "b"), "local", "toy") == first
    assert (store.get(*parse(first)).folder / "config.json").stat().st_ino == before
    assert not (tmp_path / "b").exists()


def test_a_manifest_that_came_along_is_believed_where_sizes_fit(store: Store, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    entries = {
        "config.json": {"size": 2, "sha256": "0" * 64},
        "sub/model.safetensors": {"size": 7, "sha256": "1" * 64},
    }
    (folder / MANIFEST).write_text(json.dumps(entries))
    artifact = store.get(*parse(store.publish(folder, "local", "toy")))
    assert artifact.file("config.json").sha256 == "0" * 64
    assert artifact.sha == manifest_sha({file.path: file for file in artifact.files})


@pytest.mark.parametrize(
    "manifest",
    [
        {"config.json": {"size": 3, "sha256": "0" * 64}, "sub/model.safetensors": {"size": 7, "sha256": "0" * 64}},
        {"config.json": {"size": 2, "sha256": "0" * 64}},
        {
            "config.json": {"size": 2, "sha256": "0" * 64},
            "sub/model.safetensors": {"size": 7, "sha256": "0" * 64},
            "lost": {"size": 1, "sha256": "0" * 64},
        },
    ],
)
def test_a_torn_folder_is_not_published(store: Store, tmp_path: Path, manifest: dict[str, object]) -> None:
    folder = checkpoint(tmp_path / "a")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError):
        store.publish(folder, "local", "toy")
    assert list(store.all()) == []
    assert folder.exists(), "what cannot be published is left alone"


def test_links_are_not_published(store: Store, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a")
    os.symlink("/etc/passwd", folder / "passwd")
    with pytest.raises(StoreError, match="is a link"):
        store.publish(folder, "local", "toy")


def test_an_empty_folder_is_not_published(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="lacks any file"):
        store.publish(tmp_path / "empty", "local", "toy")


@pytest.mark.parametrize("name", ["..", "a/b", "A", "", "a" * 64, ".x", "-x"])
def test_names_that_no_artifact_has(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError):
        store.publish(checkpoint(tmp_path / "x"), "local", name)
    with pytest.raises(NotFoundError):
        store.get("local", name)
    with pytest.raises(NotFoundError):
        store.get(name, "toy")


@pytest.mark.parametrize("revision", ["..", "../refs", "refs", "0" * 40, "main/", "HEAD", "0" * 39])
def test_revisions_that_are_none(store: Store, tmp_path: Path, revision: str) -> None:
    store.publish(checkpoint(tmp_path / "x"), "local", "toy")
    with pytest.raises(NotFoundError):
        store.get("local", "toy", revision)


@pytest.mark.parametrize(
    "path", ["../../../etc/passwd", "/etc/passwd", "sub/../config.json", "sub", "", MANIFEST, "refs"]
)
def test_only_listed_files_can_be_read(store: Store, tmp_path: Path, path: str) -> None:
    artifact = store.get(*parse(store.publish(checkpoint(tmp_path / "x"), "local", "toy")))
    with pytest.raises(NotFoundError):
        artifact.file(path)


def test_a_publish_cut_off_in_the_middle_is_not_seen(store: Store, tmp_path: Path) -> None:
    first = store.publish(checkpoint(tmp_path / "a", "one"), "local", "toy")
    arriving = store.get(*parse(first)).folder.parent / ".arriving-0123"
    checkpoint(arriving, "half")
    assert [artifact.reference for artifact in store.all()] == [first]
    assert store.get("local", "toy").reference == first


def test_many_publish_the_same_at_once(store: Store, tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path / f"w{n}") for n in range(6)]
    references: list[str] = []
    threads = [
        threading.Thread(target=lambda f=folder: references.append(store.publish(f, "local", "toy")))
        for folder in folders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(references) == 6
    assert len(set(references)) == 1
    assert len(list(store.all())) == 1


@pytest.mark.parametrize("reference", ["toy", "a/b/c", "/toy", "local/", "@x", ""])
def test_references_that_are_none(reference: str) -> None:
    with pytest.raises(NotFoundError):
        parse(reference)
