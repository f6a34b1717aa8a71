"""A data set's card: what is in it, what was dropped and why, who judged what, what it cost. Figures only, no text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datagen.samples import DataSet, Split


def counts(dataset: DataSet) -> dict[str, dict[str, int]]:
    """Rows by stratum ("harmful/theft", "domain/medicine") and split."""
    table: dict[str, Counter[str]] = {}
    for sample in dataset.samples:
        table.setdefault(stratum(sample.kind, sample.category, sample.domain), Counter())[sample.split] += 1
    return {name: {split: row[split] for split in Split} for name, row in sorted(table.items())}


def stratum(kind: str, category: str, domain: str) -> str:
    """What rows are balanced and counted by."""
    return f"{kind}/{category or domain}"


def cluster_sizes(dataset: DataSet) -> dict[str, int]:
    """How many clusters there are, and how many rows the largest has."""
    sizes = Counter(sample.cluster for sample in dataset.samples)
    return {"clusters": len(sizes), "largest": max(sizes.values(), default=0)}


def shortfalls(tallies: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for every stratum that has fewer questions than wanted."""
    return [
        f"{name}: {tally['kept']} of {tally['wanted']} questions (dropped: {_reasons(tally['dropped'])})"
        for name, tally in tallies.items()
        if tally["kept"] < tally["wanted"]
    ]


def front_matter() -> str:
    """The YAML head that tells `datasets` which file is which split."""
    files = "".join(f"      - split: {split}\n        path: data/{split}.parquet\n" for split in Split)
    return f"---\nconfigs:\n  - config_name: default\n    data_files:\n{files}---\n"


def markdown(card: Mapping[str, Any]) -> str:
    """The card as people read it."""
    made_of = [
        "# Data of a merge job",
        "Questions the models of a pool wrote and the answers worth imitating: refusals of harmful questions, helpful "
        "answers to benign look-alikes, experts' answers in their fields. Harmful questions are in it, to measure "
        "refusing; answers to them are not.",
        "## Rows",
        _table(
            ["", *Split, "all"],
            [[name, *row.values(), sum(row.values())] for name, row in card["counts"].items()],
        ),
        f"{card['clusters']['clusters']} clusters of questions alike, the largest of {card['clusters']['largest']} "
        "rows; no cluster crosses a split.",
        "## Written and dropped",
        _table(
            ["stage", "wanted", "generated", "kept", "dropped"],
            [
                [name, tally["wanted"], tally["generated"], tally["kept"], _reasons(tally["dropped"])]
                for name, tally in card["tallies"].items()
            ],
        ),
        *(["Fell short:\n" + "\n".join(f"- {line}" for line in card["shortfalls"])] if card["shortfalls"] else []),
        f"## What the models answered, as {card['judge']} reads it",
        _table(
            ["model", "questions", "refusal", "partial", "compliance", "invalid"],
            [
                [model, kind, *(f"{rates[label]:.3f}" for label in ("refusal", "partial", "compliance", "invalid"))]
                for model, kinds in card["verdicts"].items()
                for kind, rates in kinds.items()
            ],
        ),
        "## Made with",
        _table(["model", "revision"], [[name, model["revision"]] for name, model in card["models"].items()]),
        f"Engine {card['engine']}, taxonomy {card['taxonomy']}, seed {card['settings']['seed']}. "
        f"{card['cost']['requests']} requests, {card['cost']['prompt_tokens']} prompt and "
        f"{card['cost']['completion_tokens']} answer tokens, {card['cost']['seconds']:.1f} s of generation.",
    ]
    return "\n\n".join(made_of) + "\n"


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none"
