"""The documents say what the code says."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from benchmarks.merge import ENTRIES
from benchmarks.paper import MACHINE, MODELS, Work, stages, table
from optimizer.merging.mergekit.parse import KEYS, is_mergekit, read_mergekit
from optimizer.merging.mergekit.write import PARAMETERS
from optimizer.merging.methods.base import Method, Parameter
from optimizer.merging.methods.registry import METHODS
from optimizer.merging.recipe import recipe_from_yaml
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


def shown(row: Parameter) -> str:
    """A parameter as the table of methods has it."""
    value = "" if row.default is None else f"{row.default:g}"
    if value and row.boolean:
        value = "on" if row.default else "off"
    return f"`{row.name}`{'*' if row.per_model else ''} {value}".strip()


def line_of(method: Method) -> str:
    """A method as the table has it."""
    fewest, most = method.models
    models = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} … {most}"
    parameters = ", ".join(map(shown, method.parameters)) or "–"
    linear = "yes" if method.linear else "–"
    source = method.source.replace("|", "\\|")
    return f"| `{method.name}` | {models} | {method.base} | {parameters} | {linear} | {source} |"


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_the_merge_engine_page_has_every_method(method: Method) -> None:
    assert line_of(method) in (ROOT / "docs/merge-engine.md").read_text().splitlines()


def test_the_merge_engine_page_has_no_other_method() -> None:
    named = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/merge-engine.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(METHODS)


def test_the_plan_on_paper_is_what_its_formulas_give() -> None:
    assert "\n".join(table(stages(MODELS, MACHINE, Work()))) in (ROOT / "docs/merge-engine.md").read_text()


def test_every_method_of_mergekit_is_measured() -> None:
    assert set(ENTRIES) == set(PARAMETERS)


@pytest.mark.parametrize("key", KEYS)
def test_the_recipes_page_has_every_key_of_mergekit(key: str) -> None:
    assert f"| `{key}` |" in (ROOT / "docs/recipes.md").read_text()


def test_the_recipes_page_shows_recipes_that_can_be_read() -> None:
    texts = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/recipes.md").read_text(), re.DOTALL)
    foreign = [text for text in texts if is_mergekit(text)]
    assert [len(read_mergekit(text)) for text in foreign] == [1, 1, 2, 1]
    for text in texts:
        if text not in foreign:
            assert recipe_from_yaml(text).models
