import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Literal

import pytest

from service.kit import logs


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)


def written(style: Literal["text", "json"], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    logs.configure(style)
    log = logging.getLogger("service.test")
    log.info("before %d", 1)
    token = logs.current_job.set("job_1")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        log.error("within", exc_info=error)
    logs.current_job.reset(token)
    logging.getLogger("dbos").info("chatter")
    logging.getLogger("dbos").warning("of note")
    return out.getvalue().splitlines()


def test_one_line_with_time_level_logger_and_job(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written("text", monkeypatch)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    service\.test: before 1", lines[0])
    assert lines[1].endswith("ERROR   service.test job_1: within")
    assert "ZeroDivisionError" in lines[-2]
    assert lines[-1].endswith("WARNING dbos: of note")
    assert not any("chatter" in line for line in lines)


def test_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = map(json.loads, written("json", monkeypatch))
    assert (first["level"], first["logger"], first["message"]) == ("info", "service.test", "before 1")
    assert "job" not in first
    assert second["job"] == "job_1"
    assert "ZeroDivisionError" in second["exception"]
    assert third["logger"] == "dbos"
