"""Held-out results on a job's page."""

from playwright.sync_api import Page, expect

from service.jobs import repository as jobs
from service.jobs.schemas import Stage
from tests.browser import reported, sample
from tests.browser.conftest import Site


def test_the_report_becomes_figures_a_table_and_categories(site: Site, page: Page) -> None:
    job = sample.add_job(site.database, status="succeeded", stage="export", winner=5)
    sample.add_stage(site.database, job, Stage.REPORT, 39.5, reported.report())
    with site.database.write() as session:
        jobs.put_document(session, job, "report.html", "<!doctype html><title>Report of field-assistant</title>")
    page.goto(f"{site.url}/jobs/{job}")

    results = page.locator("#results")
    expect(results).to_contain_text("on 400 prompts that the search never saw, read by rules/1")
    figures = results.locator(".figures > div")
    expect(figures).to_have_count(4)
    expect(figures.nth(0)).to_contain_text("0.960")
    expect(figures.nth(0)).to_contain_text("98 % of chat’s 0.980")
    expect(figures.nth(3)).to_contain_text("87 % of sailing’s 0.970")
    expect(figures.nth(3).locator(".below")).to_have_count(1)
    expect(figures.nth(2).locator(".below")).to_have_count(0)

    rows = results.locator(".board tbody tr")
    expect(rows).to_have_count(6)
    expect(rows.nth(3)).to_contain_text("chat")
    expect(rows.nth(3)).to_contain_text("aligned")
    expect(rows.nth(3).locator(".best")).to_have_text("0.980")
    expect(rows.nth(5)).to_have_class("winner")
    expect(rows.nth(5).get_by_role("img").first).to_have_attribute("aria-label", "95 % interval 0.902 to 0.984")
    expect(results.locator(".notices")).to_contain_text("The judge is rules/1")

    table = results.get_by_role("region", name="The winner by hazard category")
    expect(table).to_be_hidden()
    page.get_by_text("The winner by hazard category").click()
    expect(table.get_by_role("row").nth(1)).to_contain_text("self harm")
    expect(table.get_by_role("row").nth(1).get_by_role("cell")).to_have_text(["96 of 100", "94 of 100", "6 of 100"])

    page.get_by_role("link", name="Report page").click()
    expect(page).to_have_title("Report of field-assistant")


def test_opened_categories_stay_open_when_the_page_refreshes(site: Site, page: Page) -> None:
    job = sample.add_job(site.database, status="running", stage="export", winner=5, started_at=sample.BEGUN)
    sample.add_stage(site.database, job, Stage.REPORT, 39.5, reported.report())
    page.goto(f"{site.url}/jobs/{job}")
    expect(page.locator("#link")).to_have_text("Live")
    page.get_by_text("The winner by hazard category").click()
    with site.database.write() as session:
        changed = reported.report()
        changed["judge"] = "guard/2"
        row = jobs.stage(session, job, Stage.REPORT)
        assert row is not None
        row.result = changed
    sample.say(site.database, job, "message", "judged again")
    expect(page.locator("#results")).to_contain_text("read by guard/2")
    expect(page.get_by_role("region", name="The winner by hazard category")).to_be_visible()


def test_a_report_of_another_version_is_left_to_its_own_page(site: Site, page: Page) -> None:
    job = sample.add_job(site.database, status="succeeded", stage="export", winner=5)
    sample.add_stage(site.database, job, Stage.REPORT, 39.5, {"version": 9})
    page.goto(f"{site.url}/jobs/{job}")
    expect(page.locator("#status")).to_have_text("succeeded")
    expect(page.locator("#results section")).to_have_count(0)
