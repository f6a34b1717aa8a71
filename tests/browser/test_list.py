"""The list of jobs, as someone sees it."""

from playwright.sync_api import Page, expect

from service.jobs.schemas import Stage
from service.trials import repository as trials
from tests.browser import sample
from tests.browser.conftest import Site


def test_an_empty_service_tells_how_to_submit_and_shows_the_first_job_by_itself(site: Site, page: Page) -> None:
    page.goto(site.url)
    expect(page.get_by_role("heading", name="No merge job yet")).to_be_visible()
    expect(page.locator("pre").first).to_contain_text(f"temper submit job.yaml --url {site.url}")
    page.evaluate("window.stayed = true")
    sample.add_job(site.database, name="first-job")
    expect(page.get_by_role("link", name="first-job")).to_be_visible()
    assert page.evaluate("window.stayed"), "the page was loaded again"


def test_every_job_has_its_state_and_the_winners_scores(site: Site, page: Page) -> None:
    done = sample.add_job(
        site.database,
        "job_done",
        name="done",
        status="succeeded",
        stage="export",
        winner=0,
        started_at=sample.BEGUN,
        finished_at=sample.after(300),
    )
    sample.add_trial(site.database, done, 0, "gradient", dict.fromkeys(sample.AXES, 0.5))
    with site.database.write() as session:
        judged = dict(zip(sample.AXES, (0.97, 0.96, 0.9, 0.8), strict=True))
        trials.judge(session, done, {0: judged})
    sample.add_job(
        site.database,
        "job_busy",
        name="busy",
        status="running",
        stage="search",
        started_at=sample.BEGUN,
        progress=sample.progress(Stage.SEARCH, 25, 100),
    )
    sample.add_job(
        site.database, "job_bad", name="bad", status="failed", stage="data", error="no room\n  mend: free some"
    )
    page.goto(site.url)
    row = page.get_by_role("row")
    expect(row.filter(has_text="done")).to_contain_text("succeeded")
    expect(row.filter(has_text="done").get_by_role("cell")).to_contain_text(
        ["succeeded", "took 5 min 00 s", "0.970", "0.960", "0.850"]
    )
    expect(row.filter(has_text="busy")).to_contain_text("Search · 25 of 100 trials, about 1 min left")
    expect(page.get_by_role("progressbar", name="Progress of busy")).to_have_attribute("value", "25")
    expect(row.filter(has_text="bad")).to_contain_text("no room")
    expect(row.filter(has_text="bad")).not_to_contain_text("mend")
    page.get_by_role("link", name="busy").click()
    expect(page.get_by_role("heading", name="busy", level=1)).to_be_visible()


def test_old_jobs_are_a_page_away(site: Site, page: Page) -> None:
    for number in range(27):
        sample.add_job(site.database, f"job_{number}", name=f"job-{number}")
    page.goto(site.url)
    expect(page.locator("tbody tr")).to_have_count(25)
    expect(page.locator("tbody th a").first).to_have_text("job-26")
    page.get_by_role("link", name="Older jobs").click()
    expect(page.locator("tbody th a")).to_have_text(["job-1", "job-0"])
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("tbody tr")).to_have_count(25)
