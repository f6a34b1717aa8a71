"""A real server on a port of its own, and Debian's chromium driven by Playwright."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from service.app import create_app
from service.database import Database
from service.settings import Settings

CHROMIUM = "/usr/bin/chromium"
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass(frozen=True)
class Site:
    """The running service."""

    url: str
    database: Database
    settings: Settings


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """The service on an empty home, without a worker: what happens to jobs, the tests decide."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        settings = Settings(home=tmp_path, port=port, embedded_worker=False)
        app = create_app(settings)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server stopped while it started"
            assert time.monotonic() < deadline, "the server did not start in 30 s"
            time.sleep(0.02)
        database = Database(settings.database)
        yield Site(f"http://127.0.0.1:{port}", database, settings)
        database.close()
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    assert shutil.which(CHROMIUM), f"{CHROMIUM} is missing; `make setup` installs it (apt-get install chromium)"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        yield running
        running.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB", timezone_id="Europe/Berlin")
    made.set_default_timeout(20_000)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Iterator[Page]:
    """A tab that fails its test when a script fails, the page's policy is broken or another host is asked."""
    faults: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            faults.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith(site.url):
            faults.append(f"asked for {request.url}")

    tab = context.new_page()
    tab.on("console", heard)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", asked)
    yield tab
    tab.close()
    assert faults == []
