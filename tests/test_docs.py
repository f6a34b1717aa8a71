"""The documents say what the code says."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from service.cli import app
from service.jobs.schemas import MergeJobRequest
from service.settings import Settings

ROOT = Path(__file__).parents[1]


def leaves(model: type[BaseModel]) -> list[str]:
    """Names of all fields that are no sections themselves."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += leaves(inner)
        else:
            found.append(name)
    return found


@pytest.mark.parametrize("field", leaves(MergeJobRequest))
def test_the_job_file_page_has_every_field(field: str) -> None:
    page = (ROOT / "docs/job-file.md").read_text()
    assert any(form in page for form in (f"`{field}`", f".{field}`", f"`{field}."))


@pytest.mark.parametrize("setting", list(Settings.model_fields))
def test_the_operating_page_has_every_setting(setting: str) -> None:
    assert f"TEMPER_{setting.upper()}" in (ROOT / "docs/operating.md").read_text()


@pytest.mark.parametrize("command", [c.name or c.callback.__name__ for c in app.registered_commands if c.callback])
def test_the_command_line_page_has_every_command(command: str) -> None:
    assert f"temper {command}" in (ROOT / "docs/http-api.md").read_text()
