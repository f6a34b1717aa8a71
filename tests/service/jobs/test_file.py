"""Job files: what they may be, and how faults are told."""

from pathlib import Path

import pytest

from service.jobs.file import JobFileError, read, refused
from service.kit.fields import Fault

GOOD = """\
name: toy
base: models/base
models:
  medical: {path: models/medical, role: domain, topics: [biology]}
  chat:
    path: ~/chat
    role: aligned
search:
  trials: 5
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    extra = "data: {safety: {questions_from: ../writer, taxonomy: mine.yaml}}\n"
    request = read(write(tmp_path, GOOD + extra))
    assert request.base == str(tmp_path / "models/base")
    assert request.models["medical"].path == str(tmp_path / "models/medical")
    assert request.models["chat"].path == "/home/somebody/chat"
    assert request.data.safety.questions_from == str(tmp_path.parent / "writer")
    assert request.data.safety.taxonomy == str(tmp_path / "mine.yaml")
    assert request.search.trials == 5


def test_names_are_not_paths(tmp_path: Path) -> None:
    request = read(write(tmp_path, GOOD + "data: {safety: {questions_from: chat, taxonomy: toy}}\n"))
    assert request.data.safety.questions_from == "chat"
    assert request.data.safety.taxonomy == "toy"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  trials: 5", "  trails: 5", r":9: /search/trails: unknown field `trails` \(did you mean `trials`\?\)"),
        ("  trials: 5", "  trials: 0", r":9: /search/trials: Input should be greater than or equal to 1, found 0"),
        ("  trials: 5", "  trials: many", r":9: /search/trials: .*found 'many'"),
        ("name: toy", "name: Toy Job", r":1: /name: .*found 'Toy Job'"),
        ("base: models/base\n", "", r":1: /base: the field `base` is missing"),
        ("    role: aligned", "    role: alinged", r":7: /models/chat/role: .*'domain' or 'aligned'"),
        ("  chat:", "  Chat!:", r":5: /models/Chat!: the name `Chat!` has characters that are not allowed"),
        ("role: domain", "rolle: domain", r":4: /models/medical/rolle: unknown field `rolle` \(did you mean `role`"),
        ("name: toy", "name: toy\nname: tox", r":2: `name` stands here for the second time"),
        ("models:", "models: [", r":\d+: not YAML"),
        ("name: toy", "name: !!python/object:os.system toy", r":1: not YAML that a job file may have: could not"),
        (GOOD, "", "is empty"),
        (GOOD, "- a\n- b\n", r":1: /: Input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_faults_are_told_with_line_place_and_nearest_name(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(JobFileError, match=told):
        read(write(tmp_path, GOOD.replace(old, new)))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("name: toy", "nmae: toy").replace("trials: 5", "trials: 0")
    with pytest.raises(JobFileError) as caught:
        read(write(tmp_path, text))
    assert len(caught.value.message.splitlines()) == 3


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(JobFileError, match="more than 20,000 values once aliases are written out"):
        read(write(tmp_path, "\n".join(levels)))


def test_an_alias_of_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobFileError):
        read(write(tmp_path, "models: &m {x: *m}"))


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="expected a job file of at most"):
        read(write(tmp_path, GOOD + "#" * 1_000_001))


@pytest.mark.parametrize("path", ["nothing.yaml", "."])
def test_what_is_no_file_is_said_to_be_none(tmp_path: Path, path: str) -> None:
    with pytest.raises(JobFileError, match=r"No such file|is a folder"):
        read(tmp_path / path)


def test_binary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(JobFileError, match="not UTF-8"):
        read(tmp_path / "job.yaml")


def test_faults_found_later_get_their_lines_too(tmp_path: Path) -> None:
    error = refused(write(tmp_path, GOOD), [Fault("/models/medical/path", "there is no folder", "check it")])
    assert error.message.endswith("job.yaml:4: /models/medical/path: there is no folder (check it)")
