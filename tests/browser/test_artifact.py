"""The checkpoint on a job's page: what it says is there, is there."""

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect

from service.artifacts.store import Store
from tests.browser import sample
from tests.browser.conftest import Site


def published(site: Site, folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return Store(site.settings.artifacts).publish(folder, "local", "field-assistant")


def test_files_and_commands_lead_to_the_published_bytes(site: Site, page: Page, tmp_path: Path) -> None:
    reference = published(site, tmp_path / "checkpoint")
    job = sample.add_job(site.database, status="succeeded", stage="export", artifact=reference)
    page.goto(f"{site.url}/jobs/{job}")
    expect(page.locator("#artifact")).to_contain_text(reference)
    commands = page.locator("#artifact pre").all_text_contents()
    temper, *arguments = shlex.split(commands[0])
    assert temper == "temper"
    pull = [sys.executable, "-m", "service.cli", *arguments]
    subprocess.run(pull, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd()}, check=True, timeout=60)
    assert (tmp_path / "field-assistant" / "config.json").read_text() == '{"model_type": "qwen2"}'
    assert 'AutoModelForCausalLM.from_pretrained("./field-assistant")' in commands[1]
    assert commands[2].endswith(f"{site.url}/v1/artifacts/{reference}/files/model.safetensors")

    row = page.get_by_role("row").filter(has_text="model.safetensors")
    expect(row).to_contain_text("10.2 KB")
    link = row.get_by_role("link").get_attribute("href")
    content = httpx.get(f"{site.url}{link}").content
    assert hashlib.sha256(content).hexdigest() == row.locator("code").get_attribute("title")


def test_a_command_is_copied_by_its_button(site: Site, page: Page, tmp_path: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    job = sample.add_job(
        site.database, status="succeeded", stage="export", artifact=published(site, tmp_path / "checkpoint")
    )
    page.goto(f"{site.url}/jobs/{job}")
    button = page.locator("#artifact .copy").first
    button.click()
    expect(button).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#artifact pre").first.text_content()


def test_an_artifact_that_is_gone_leaves_the_page_whole(site: Site, page: Page) -> None:
    job = sample.add_job(
        site.database, status="succeeded", stage="export", artifact=f"local/field-assistant@{'0' * 40}"
    )
    page.goto(f"{site.url}/jobs/{job}")
    expect(page.locator("#status")).to_have_text("succeeded")
    expect(page.locator("#artifact section")).to_have_count(0)
