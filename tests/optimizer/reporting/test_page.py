"""The page stands alone, shows the figures, and runs nothing that a model or a user wrote (bad-inputs 27)."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

from optimizer.reporting.page import render_page
from optimizer.reporting.report import build_report
from tests.optimizer.reporting.evidence import evidence

ATTACK = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
VOID = {"meta", "br", "img", "link", "input"}


class _Page(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_stands_alone() -> None:
    page = _Page(render_page(build_report(evidence())))
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]


def test_it_shows_the_figures() -> None:
    source = render_page(build_report(evidence()))
    text = " ".join(_Page(source).text)
    assert "83.5 … 98.6, 38/40" in text
    assert "medical-assistant" in text
    assert "Few prompts on the report split" in text
    assert "layers.3.mlp" in source
    assert re.search(r"winner, trial 7 \(tpe\)", source)


def test_names_from_users_and_models_are_text() -> None:
    found = evidence(names=(ATTACK, "chat"), job=ATTACK)
    trials = [replace(trial, origin=ATTACK, coefficients=replace(trial.coefficients, models=(ATTACK, "chat")))
              for trial in found.trials]  # fmt: skip
    page = _Page(render_page(build_report(replace(found, trials=trials, base=ATTACK))))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert ATTACK in page.text


def test_figures_are_well_formed_and_inside_their_frames() -> None:
    page = render_page(build_report(evidence()))
    drawings = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawings) == 3
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        width = float(root.attrib["viewBox"].split()[2])
        xs = [float(node.attrib["cx"]) for node in root.iter() if "cx" in node.attrib]
        assert all(0 <= x <= width for x in xs)


def test_a_search_without_domains_or_finalists_has_a_page_too() -> None:
    found = evidence()
    models = [replace(m, judged=m.judged.model_copy(update={"domains": {}}), search=None) for m in found.models]
    trials = [replace(t, scores={a: v for a, v in t.scores.items() if a != "bio"}) for t in found.trials]
    report = build_report(replace(found, models=models, trials=trials, finalists={}))
    assert report.axes == ("refusal", "compliance")
    assert "Finalists" not in render_page(report)
