"""The plot of candidates, the table below it and the grid of coefficients."""

import re

from playwright.sync_api import Page, expect

from tests.browser import sample
from tests.browser.conftest import Site


def searched(site: Site, **values: object) -> str:
    """A job whose search is over: 100 trials, 4 of them invalid, trial 5 the winner."""
    job = sample.add_job(
        site.database,
        status="succeeded",
        stage="export",
        winner=5,
        started_at=sample.BEGUN,
        finished_at=sample.after(300),
        **values,
    )
    sample.add_trials(site.database, job, 94)
    return job


def test_the_plot_shows_candidates_by_origin_and_marks_the_winner(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/jobs/{searched(site)}")
    expect(page.locator("#plot [data-trial]")).to_have_count(96)
    expect(page.locator("#plot .kind-model[data-trial]")).to_have_count(3)
    expect(page.locator("#plot .kind-uniform[data-trial]")).to_have_count(1)
    expect(page.locator("#plot .kind-gradient[data-trial]")).to_have_count(1)
    expect(page.locator("#plot .halo")).to_have_count(1)
    labels = page.locator("#plot text.label").all_text_contents()
    assert sorted(labels) == ["botany", "chat", "sailing", "uniform merge", "winner"]
    expect(page.locator("#tally")).to_contain_text("100 trials")
    expect(page.locator("#tally")).to_contain_text("4 invalid and not drawn")
    expect(page.locator("#plot .axis-title")).to_have_text(["Refusal →", "Mean domain →"])


def test_axes_and_the_front_are_the_readers_choice(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/jobs/{searched(site)}")
    page.get_by_label("Across").select_option("compliance")
    page.get_by_label("Up").select_option(label="Sailing")
    expect(page.locator("#plot .axis-title")).to_have_text(["Compliance →", "Sailing →"])
    drawn = page.locator("#plot [data-trial]").count()
    page.get_by_label("front only").check()
    assert 0 < page.locator("#plot [data-trial]").count() < drawn
    expect(page.locator("#plot [data-trial]:not(.front):not(.kind-model):not(.kind-uniform)")).to_have_count(0)


def test_a_point_tells_its_scores_to_the_pointer(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/jobs/{searched(site)}")
    page.locator('#plot [data-trial="5"]').hover(force=True)
    tip = page.locator("#plot .tip")
    expect(tip).to_contain_text("Trial 5, gradient, the winner")
    expect(tip).to_contain_text("0.955")
    page.mouse.move(5, 5)
    expect(tip).to_have_count(0)


def test_arrow_keys_walk_the_points_aloud(site: Site, page: Page) -> None:
    job = searched(site)
    page.goto(f"{site.url}/jobs/{job}")
    plot = page.locator("#plot svg[tabindex]")
    expect(plot).to_have_attribute("aria-label", re.compile(r"96 candidates.*The winner, trial 5.*Arrow keys"))
    plot.focus()
    page.keyboard.press("Home")
    first = page.locator("#plot .tip h3").text_content()
    page.keyboard.press("ArrowRight")
    second = page.locator("#plot .tip h3").text_content()
    assert first != second
    expect(page.locator("#plot [aria-live]")).to_contain_text(second or "missing")
    expect(page.locator("#plot [aria-live]")).to_contain_text("Refusal 0.")
    number = re.search(r"\d+", second or "")
    page.keyboard.press("Enter")
    assert number is not None
    expect(page.locator("#heat-title")).to_contain_text(f"trial {number[0]}")


def test_the_table_starts_with_the_winner_and_pages(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/jobs/{searched(site)}")
    rows = page.locator("#trials tbody tr")
    expect(rows).to_have_count(20)
    expect(rows.first).to_contain_text("winner")
    expect(rows.first.get_by_role("cell")).to_have_text(
        ["5", re.compile("gradient"), "0.955", "0.960", "0.950", "0.940", "0.945", "1.3 s"]
    )
    expect(rows.nth(1)).to_contain_text("front")
    page.locator("#trials").get_by_role("link", name="Next").click()
    expect(page.locator("#trials .pages")).to_contain_text("Page 2 of 5")
    page.goto(f"{page.url.partition('?')[0]}?page=5")
    expect(page.locator("#trials tbody tr").last).to_contain_text("invalid")


def test_the_grid_shows_the_winners_coefficients_and_any_other_trials(site: Site, page: Page) -> None:
    job = sample.add_job(site.database, status="succeeded", stage="export", winner=1)
    rows = [[0.25] * len(sample.GROUPS), [0.5] * len(sample.GROUPS), [1.0] * len(sample.GROUPS)]
    rows[1][sample.GROUPS.index("layers.4.mlp")] = 0.75
    sample.add_trial(site.database, job, 0, "uniform", dict.fromkeys(sample.AXES, 0.3))
    sample.add_trial(site.database, job, 1, "tpe", dict.fromkeys(sample.AXES, 0.9), rows)
    page.goto(f"{site.url}/jobs/{job}")
    expect(page.locator("#heat-title")).to_have_text("Coefficients of the winner, trial 1")
    cell = page.get_by_title("sailing, layer 4 mlp: λ = 0.750")
    expect(cell).to_have_text("0.75")
    expect(cell).to_have_class("h9")
    expect(page.get_by_title("chat, embedding: λ = 1.000")).to_have_attribute("rowspan", "3")
    page.get_by_role("link", name="Coefficients of trial 0").click()
    expect(page.locator("#heat-title")).to_contain_text("Coefficients of trial 0")
    expect(page.get_by_title("sailing, layer 4 mlp: λ = 0.500")).to_be_visible()
    page.get_by_role("link", name="Back to the winner").click()
    expect(cell).to_have_text("0.75")
