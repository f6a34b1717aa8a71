"""The card says what hubs read, and no name in it can say more."""

from pathlib import Path

import yaml

from optimizer.merging.recipe import Recipe
from optimizer.reporting.card import model_card
from optimizer.reporting.report import build_report
from tests.optimizer.reporting.evidence import evidence, trial


def _card(name: str = "acme/medical", names: tuple[str, str] = ("bio", "chat")) -> str:
    recipe = Recipe(
        base=Path("/srv/models/toy-base"),
        models={"bio": Path("acme/bio-7b"), "chat": Path("/srv/models/chat")},
        method="task_arithmetic",
        coefficients=trial(7, {}).coefficients,
    )
    return model_card(build_report(evidence(names)), recipe, name)


def test_front_matter_names_the_parents_and_hides_the_machine() -> None:
    card = _card()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model"] == ["toy-base", "acme/bio-7b", "chat"]
    assert head["base_model_relation"] == "merge"
    assert head["library_name"] == "transformers"
    assert "merge" in head["tags"]
    assert "/srv" not in card


def test_scores_stand_with_their_intervals() -> None:
    card = _card()
    assert "| **merged** | 95.0 (83.5–98.6, n = 40) | 95.0 (83.5–98.6, n = 40) | 92.5 (80.1–97.4, n = 40) |" in card
    assert "temper pull acme/medical" in card


def test_a_domain_name_is_text_not_markup() -> None:
    card = _card(names=("<img src=x>|[a](http://x)\n# head", "chat"))
    assert "<img" not in card
    assert "\n# head" not in card
    assert "\\[a\\]" in card
    rows = [line for line in card.splitlines() if line.startswith("| **merged**")]
    assert len(rows) == 1
    assert rows[0].count("|") == 5
