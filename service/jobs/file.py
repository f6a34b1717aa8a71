"""Reads a job file: YAML with the safe loader, faults told with their line, paths relative to the file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from datagen.errors import TemperError
from service.jobs.schemas import MergeJobRequest
from service.kit.fields import Fault, explain, pointer

MAX_BYTES = 1_000_000
MAX_NODES = 20_000


class JobFileError(TemperError):
    """A job file that cannot be read as a job; the message has one line a fault."""


def read(path: Path) -> MergeJobRequest:
    """The job of a file.

    Raises:
        JobFileError: no such file, not YAML, too large, an alias bomb, or fields that are not what a job has.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise JobFileError(f"{path}: {size:,} bytes, expected a job file of at most {MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is a folder" if path.is_dir() else getattr(error, "strerror", None) or "is not UTF-8 text"
        raise JobFileError(f"{path}: {reason}", mend="give the path of a job file in YAML") from error
    document, lines = _parse(path, text)
    try:
        request = MergeJobRequest.model_validate(document)
    except ValidationError as error:
        faults = [_placed(fault, lines) for fault in explain(error.errors(include_url=False), MergeJobRequest)]
        raise refusal(path, faults) from error
    return _absolute(request, path.absolute().parent)


def refusal(path: Path, faults: Sequence[Fault]) -> JobFileError:
    """The error that tells all faults of a file."""
    told = []
    for fault in faults:
        line = f":{fault.line}" if fault.line else ""
        told.append(
            f"{path}{line}: {fault.pointer or '/'}: {fault.detail}" + (f" ({fault.mend})" if fault.mend else "")
        )
    return JobFileError("\n".join(told))


def refused(path: Path, faults: Sequence[Fault]) -> JobFileError:
    """The error for faults that were found later, in the job that `read` gave."""
    lines = _parse(path, path.read_text(encoding="utf-8"))[1]
    return refusal(path, [_placed(fault, lines) for fault in faults])


def _placed(fault: Fault, lines: Mapping[str, int]) -> Fault:
    return Fault(fault.pointer, fault.detail, fault.mend, _line_of(fault.pointer, lines))


def _line_of(place: str, lines: Mapping[str, int]) -> int | None:
    """The line of a place, or of the nearest thing around it."""
    while place and place not in lines:
        place = place.rpartition("/")[0]
    return lines.get(place)


def _parse(path: Path, text: str) -> tuple[Any, dict[str, int]]:
    """The document, and the line of every place in it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[str, int] = {}
        if root is None:
            raise JobFileError(f"{path}: is empty", mend="docs/job-file.md shows a job")
        _survey(path, root, "", lines, [MAX_NODES])
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise JobFileError(f"{where}: not YAML that a job file may have: {problem}") from error
    except (RecursionError, ValueError) as error:
        raise JobFileError(f"{path}: not YAML that a job file may have: {error}") from error


def _survey(path: Path, node: yaml.Node, place: str, lines: dict[str, int], left: list[int]) -> None:
    """Note lines; refuse a name given twice, and more nodes than any job has, aliases counted each time."""
    left[0] -= 1
    if left[0] < 0:
        raise JobFileError(f"{path}: more than {MAX_NODES:,} values once aliases are written out")
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise JobFileError(f"{path}:{key.start_mark.line + 1}: `{key.value}` stands here for the second time")
            if isinstance(key.value, str):
                seen.add(key.value)
            inside = place + pointer(str(key.value))
            lines[inside] = key.start_mark.line + 1
            _survey(path, value, inside, lines, left)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _survey(path, value, place + pointer(index), lines, left)


def _absolute(request: MergeJobRequest, folder: Path) -> MergeJobRequest:
    """Paths of a file are relative to the file; `~` is the home folder."""

    def resolve(path: str) -> str:
        return os.path.abspath(folder / Path(path).expanduser())

    document = request.model_dump(exclude_unset=True, mode="json")
    document["base"] = resolve(request.base)
    for name, model in request.models.items():
        document["models"][name]["path"] = resolve(model.path)
    writer = request.data.safety.questions_from
    if writer is not None and "/" in writer:
        document["data"]["safety"]["questions_from"] = resolve(writer)
    taxonomy = request.data.safety.taxonomy
    if taxonomy.endswith((".yaml", ".yml")):
        document["data"]["safety"]["taxonomy"] = resolve(taxonomy)
    return MergeJobRequest.model_validate(document)
