"""Jobs that cannot succeed are refused before any weight is read."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.jobs.schemas import MergeJobRequest
from service.jobs.validation import check
from service.kit.errors import InvalidError
from tests.service.jobs.pool import write_model


def faults(body: dict[str, Any]) -> dict[str, str]:
    """Pointer → detail and mend of what is wrong."""
    with pytest.raises(InvalidError) as caught:
        check(MergeJobRequest.model_validate(body))
    return {fault.pointer: f"{fault.detail} | {fault.mend}" for fault in caught.value.faults}


def test_a_good_job_passes(body: dict[str, Any]) -> None:
    check(MergeJobRequest.model_validate(body))


def test_only_configs_and_headers_are_read(body: dict[str, Any]) -> None:
    """The bytes of the weights are gone; the headers still stand."""
    for name in ("base", "chat", "medical"):
        path = Path(body["base"]).parent / name / "model.safetensors"
        size, header = path.stat().st_size, path.read_bytes()
        end = 8 + int.from_bytes(header[:8], "little")
        path.write_bytes(header[:end])
        os.truncate(path, size)
    check(MergeJobRequest.model_validate(body))


def test_an_aligned_model_is_needed(body: dict[str, Any]) -> None:
    del body["models"]["chat"]
    assert "no model of the pool has the role `aligned`" in faults(body)["/models"]


def test_a_domain_model_is_needed(body: dict[str, Any]) -> None:
    del body["models"]["medical"]
    assert "role `domain`" in faults(body)["/models"]


def test_a_domain_model_needs_topics(body: dict[str, Any]) -> None:
    body["models"]["medical"]["topics"] = [" "]
    assert "has no topics" in faults(body)["/models/medical/topics"]


def test_axes_must_not_be_ambiguous(body: dict[str, Any]) -> None:
    body["models"]["refusal"] = body["models"].pop("medical")
    assert "has a meaning of its own" in faults(body)["/models/refusal"]


def test_names_of_other_sections_must_exist(body: dict[str, Any]) -> None:
    body["select"] = {"maximize": "medcial", "subject_to": {"refusals": {"at_least": 0.9, "of": "chatt"}}}
    found = faults(body)
    assert "did you mean `medical`?" in found["/select/maximize"]
    assert "did you mean `refusal`?" in found["/select/subject_to/refusals"]
    assert "did you mean `chat`?" in found["/select/subject_to/refusals/of"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("models/base", "expected the absolute path"),
        ("/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ("meta-llama/Meta-Llama-3-8B", "expected the absolute path"),
        ("../../etc/passwd", "expected the absolute path"),
        ("http://169.254.169.254/x", "expected the absolute path"),
        ("/etc/passwd", "there is no folder"),
        ("/tmp", "has no config.json"),
        ("/tmp/\0", "expected the absolute path"),
    ],
)
def test_a_path_is_a_checkpoint_folder(body: dict[str, Any], path: str, told: str) -> None:
    body["base"] = path
    assert told in faults(body)["/base"]


def test_the_question_writer_must_exist(body: dict[str, Any]) -> None:
    body["data"] = {"safety": {"questions_from": "medicl"}}
    assert "did you mean `medical`?" in faults(body)["/data/safety/questions_from"]
    body["data"] = {"safety": {"questions_from": "/nowhere"}}
    assert "there is no folder" in faults(body)["/data/safety/questions_from"]


@pytest.mark.parametrize("writer", [None, "base", "chat"])
def test_the_question_writer_may_be_of_the_pool(body: dict[str, Any], writer: str | None) -> None:
    check(MergeJobRequest.model_validate(body | {"data": {"safety": {"questions_from": writer}}}))


def test_a_model_that_does_not_fit_is_named_with_what_differs(body: dict[str, Any]) -> None:
    wide = write_model(Path(body["base"]).parent / "wide", 9, hidden_size=24)
    body["models"]["medical"]["path"] = str(wide)
    found = faults(body)
    assert list(found) == ["/models/medical/path"]
    assert "config hidden_size: 8 in the base, 24 here" in found["/models/medical/path"]


def test_pickles_are_refused(body: dict[str, Any]) -> None:
    folder = Path(body["base"]).parent / "pickled"
    shutil.copytree(body["base"], folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    body["models"]["chat"]["path"] = str(folder)
    assert "safetensors" in faults(body)["/models/chat/path"]


def test_a_damaged_base_is_the_bases_fault(body: dict[str, Any]) -> None:
    (Path(body["base"]) / "config.json").write_text("{")
    assert list(faults(body)) == ["/base"]


def test_every_fault_is_told_at_once(body: dict[str, Any]) -> None:
    del body["models"]["chat"]
    body["base"] = "/nowhere"
    body["select"] = {"maximize": "x"}
    assert set(faults(body)) == {"/models", "/base", "/select/maximize"}
