"""The model card of an artifact: Markdown with the front matter that model hubs read."""

import re
from collections.abc import Sequence
from statistics import fmean

import yaml

from optimizer.merging.card import source_name
from optimizer.merging.recipe import Recipe
from optimizer.reporting.report import Report
from optimizer.search.evaluation import Share


def model_card(report: Report, recipe: Recipe, name: str) -> str:
    """The README.md of the artifact `name` ("namespace/name").

    Checkpoints given as folders are named by their last part: a card says nothing about the machine it was made on.
    """
    parts = [
        _front_matter(report, recipe, name),
        _introduction(report, recipe, name),
        _scores(report),
        _notices(report),
        _recipe(report, recipe),
        _loading(name),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(report: Report, recipe: Recipe, name: str) -> str:
    head = {
        "base_model": [source_name(str(recipe.base)), *(source_name(str(path)) for path in recipe.models.values())],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "temper", recipe.method],
    }
    return "---\n" + yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "---"


def _introduction(report: Report, recipe: Recipe, name: str) -> str:
    sources = _list([source_name(str(recipe.base)), *(source_name(str(path)) for path in recipe.models.values())])
    return (
        f"# {_text(name)}\n\nMerged with Temper from {sources} by {_text(recipe.method)}: every tensor is the base's "
        "plus each model's difference to the base times a coefficient found by search "
        f"(trial {report.winner.number}, {_text(report.winner.origin)})."
    )


def _scores(report: Report) -> str:
    rows = [["Model", *map(_text, report.axes)], ["---", *["---:"] * len(report.axes)]]
    for model in report.models:
        label = f"**{_text(model.name)}**" if model.role == "winner" else _text(model.name)
        rows.append([label, *(_share(model.shares.get(axis)) for axis in report.axes)])
    return (
        "## Scores\n\n"
        "Per cent of the prompts of a held-out split that the search never saw, with 95 % intervals (Wilson). Refusal: "
        "of harmful prompts; compliance: of benign prompts that look harmful; domains: of prompts answered exactly as "
        f"the domain's expert answers them. Answers are greedy, read by the judge {_text(report.judge)}.\n\n"
        + _table(rows)
    )


def _share(share: Share | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f}–{100 * share.high:.1f}, n = {share.n})"


def _notices(report: Report) -> str:
    if not report.notices:
        return ""
    return "## What to know\n\n" + "\n".join(
        f"- **{notice.level.capitalize()}:** {_text(notice.message)}" for notice in report.notices
    )


def _recipe(report: Report, recipe: Recipe) -> str:
    rows = [["Model", "Checkpoint", "λ mean", "λ lowest", "λ highest"], ["---", "---", "---:", "---:", "---:"]]
    winner = recipe.coefficients
    for model, values in zip(winner.models, winner.values, strict=True):
        numbers = [f"{fmean(values):.3f}", f"{min(values):.3f}", f"{max(values):.3f}"]
        rows.append([_text(model), _text(source_name(str(recipe.models[model]))), *numbers])
    return (
        f"## Recipe\n\nTask arithmetic with {len(winner.groups)} coefficients a model; all of them stand in "
        f"`recipe.yaml`. Chosen as {_text(report.winner.reason)}.\n\n" + _table(rows)
    )


def _loading(name: str) -> str:
    literal = name.replace("\\", "").replace('"', "").replace("`", "").replace("\n", " ")
    folder = literal.rsplit("/", 1)[-1]
    return f"""## Use

```sh
temper pull {literal}
vllm serve ./{folder}
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("./{folder}")
model = AutoModelForCausalLM.from_pretrained("./{folder}", dtype="auto")
prompt = [{{"role": "user", "content": "…"}}]
inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=256)[0]))
```"""


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _list(names: Sequence[str]) -> str:
    shown = [_text(name) for name in names]
    return ", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else shown[0]


def _text(text: str) -> str:
    """Plain text in Markdown: no markup, no HTML, no table cell and no line of its own comes out of a name."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", flat)
