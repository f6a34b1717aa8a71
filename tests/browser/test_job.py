"""The page of one job, as someone watches it."""

import re
from itertools import pairwise

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from service.jobs import service as jobs
from service.jobs.schemas import Stage, Status
from tests.browser import sample
from tests.browser.conftest import Site


def running(site: Site, trials: int = 0) -> str:
    """A job in mid-search."""
    job = sample.add_job(
        site.database,
        status="running",
        stage="search",
        started_at=sample.BEGUN,
        progress=sample.progress(Stage.SEARCH, 6, 100),
    )
    sample.add_stage(site.database, job, Stage.DATA, 61.5)
    sample.add_stage(site.database, job, Stage.PARENTS, 20.0)
    sample.say(site.database, job, "stage", "search began")
    if trials:
        sample.add_trials(site.database, job, trials)
    return job


def status(site: Site, job: str) -> Status:
    with site.database.read() as session:
        return jobs.read(session, job).status


def test_a_running_job_shows_where_it_is(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/jobs/{running(site)}")
    steps = page.locator(".stepper li")
    expect(steps).to_have_count(6)
    expect(steps.nth(0)).to_contain_text("Data, done")
    expect(steps.nth(0)).to_contain_text("1 min 02 s")
    expect(page.locator("[aria-current=step]")).to_contain_text("Search, running")
    expect(page.get_by_role("progressbar", name="Progress of stage search")).to_have_attribute("value", "6")
    expect(page.locator("#stages")).to_contain_text("6 of 100 trials")
    expect(page.locator("#stages")).to_contain_text("about 1 min left")
    expect(page.locator("#history")).to_contain_text("search began")
    expect(page.locator("#link")).to_have_text("Live")


def test_events_change_the_page_while_it_is_open(site: Site, page: Page) -> None:
    job = running(site)
    page.goto(f"{site.url}/jobs/{job}")
    expect(page.locator("#link")).to_have_text("Live")
    expect(page.locator("#search")).to_be_hidden()
    page.evaluate("window.stayed = true")

    sample.say(site.database, job, "message", "<b>62 near duplicates</b> dropped")
    expect(page.locator("#history")).to_contain_text("<b>62 near duplicates</b> dropped")

    sample.change(site.database, job, progress=sample.progress(Stage.SEARCH, 60, 100))
    expect(page.get_by_role("progressbar", name="Progress of stage search")).to_have_attribute("value", "60")
    expect(page.locator("#announcer")).to_have_text("Job running, Search, 50 percent")

    sample.say(site.database, job, "warning", "no parent refuses more than half")
    expect(page.locator("#trouble")).to_contain_text("no parent refuses more than half")

    sample.add_trial(site.database, job, 0, "chat", dict.fromkeys(sample.AXES, 0.5))
    sample.say(site.database, job, "trial", "trial 0")
    expect(page.locator("#plot [data-trial]")).to_have_count(1)
    expect(page.locator("#trials tbody tr")).to_have_count(1)

    sample.change(site.database, job, status="failed", finished_at=sample.after(90), error="gone\n  mend: start again")
    sample.say(site.database, job, "status", "failed")
    expect(page.get_by_role("alert")).to_contain_text("What to do: start again")
    expect(page.locator("#status")).to_have_text("failed")
    expect(page.get_by_role("button", name="Resume job")).to_be_visible()
    expect(page).to_have_title(re.compile("failed"))
    expect(page.locator("#link")).to_have_text("")
    assert page.evaluate("window.stayed"), "the page was loaded again"


def test_without_the_stream_the_page_asks_by_itself(site: Site, page: Page) -> None:
    job = running(site)
    page.route("**/events*", lambda route: route.abort())
    page.goto(f"{site.url}/jobs/{job}")
    expect(page.locator("#link")).to_have_text("Polling")
    sample.say(site.database, job, "message", "heard without a stream")
    expect(page.locator("#history")).to_contain_text("heard without a stream")


def test_a_refresh_leaves_the_reader_where_they_are(site: Site, page: Page) -> None:
    job = running(site, trials=60)
    page.goto(f"{site.url}/jobs/{job}")
    page.locator("#axis-x").select_option("botany")
    link = page.locator("#trials tbody a").nth(3)
    link.focus()
    focused = link.get_attribute("id")
    sample.add_trial(site.database, job, 500, "tpe", dict.fromkeys(sample.AXES, 0.99))
    sample.say(site.database, job, "trial", "trial 500")
    expect(page.locator("#trials tbody tr").first).to_contain_text("500")
    assert page.evaluate("document.activeElement.id") == focused
    assert page.locator("#axis-x").input_value() == "botany"


def test_cancel_asks_first_and_then_cancels(site: Site, page: Page) -> None:
    job = running(site)
    page.goto(f"{site.url}/jobs/{job}")
    page.get_by_role("button", name="Cancel job").click()
    dialog = page.get_by_role("dialog", name="Cancel field-assistant?")
    dialog.get_by_role("button", name="Keep running").click()
    expect(dialog).to_be_hidden()
    assert status(site, job) is Status.RUNNING

    page.get_by_role("button", name="Cancel job").click()
    dialog.get_by_role("button", name="Cancel job").click()
    expect(page.locator("#status")).to_have_text("cancelled")
    assert status(site, job) is Status.CANCELLED
    expect(page.get_by_role("button", name="Cancel job")).to_have_count(0)

    page.get_by_role("button", name="Resume job").click()
    expect(page.locator("#status")).to_have_text("queued")
    assert status(site, job) is Status.QUEUED


def test_everything_but_the_plot_works_without_scripts(site: Site, browser: Browser) -> None:
    job = running(site, trials=30)
    plain = browser.new_context(java_script_enabled=False)
    page = plain.new_page()
    page.goto(f"{site.url}/jobs/{job}")
    expect(page.locator("#trials tbody tr")).to_have_count(20)
    expect(page.locator("#plot")).to_contain_text("The plot needs JavaScript")
    page.get_by_role("button", name="Cancel job").click()
    expect(page.locator("#status")).to_have_text("cancelled")
    assert status(site, job) is Status.CANCELLED
    plain.close()


def test_another_site_cannot_press_the_button(site: Site) -> None:
    job = running(site)
    answer = httpx.post(f"{site.url}/jobs/{job}/cancel", headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 403
    assert status(site, job) is Status.RUNNING


def test_an_error_is_told_with_its_mend_and_as_text(site: Site, page: Page) -> None:
    job = sample.add_job(
        site.database,
        status="failed",
        stage="data",
        error="botany writes <script>alert(1)</script>\n  mend: give it more topics",
    )
    page.goto(f"{site.url}/jobs/{job}")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Failed in data")
    expect(alert).to_contain_text("botany writes <script>alert(1)</script>")
    expect(alert).to_contain_text("What to do: give it more topics")
    expect(page.locator(".stepper li").first).to_contain_text("Data, failed")


def test_a_job_that_is_not_there_is_a_page_too(site: Site, page: Page) -> None:
    answer = page.goto(f"{site.url}/jobs/job_nowhere")
    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_role("heading", name="Not Found")).to_be_visible()
    expect(page.locator("main")).to_contain_text("there is no merge job 'job_nowhere'")


def test_pages_allow_no_inline_script_or_style_and_no_other_host(site: Site) -> None:
    for path in ("/", f"/jobs/{running(site)}", "/jobs/nowhere"):
        policy = httpx.get(site.url + path).headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
    script = httpx.get(f"{site.url}/static/job.js")
    again = httpx.get(f"{site.url}/static/job.js", headers={"If-None-Match": script.headers["etag"]})
    assert script.headers["cache-control"] == "no-cache"
    assert again.status_code == 304


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_shows_all_of_it(site: Site, browser: Browser, scheme: str) -> None:
    job = running(site, trials=40)
    small = browser.new_context(
        viewport={"width": 390, "height": 844}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = small.new_page()
    for path in ("/", f"/jobs/{job}"):
        page.goto(site.url + path)
        if path != "/":
            expect(page.locator("#plot [data-trial]").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(int(part) for part in re.findall(r"\d+", ground)[:3]) / 3
        assert (light > 200) == (scheme == "light")
    small.close()


def test_everything_that_can_be_used_has_a_name_and_every_table_headings(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/jobs/{running(site, trials=40)}")
    expect(page.locator("#plot [data-trial]").first).to_be_visible()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("a, button, select, input, progress, [tabindex='0'], [role=img]")]
            .filter((e) => e.checkVisibility() && !(e.getAttribute("aria-label") || e.textContent.trim()
                || e.labels?.length)).map((e) => e.outerHTML)"""
    )
    assert nameless == []
    for table in page.locator("table").all():
        assert table.locator("thead th[scope=col]").count() > 1
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].filter(e=>e.checkVisibility()).map(e=>+e.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
