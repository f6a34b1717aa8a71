"""The model card of a merge made from a recipe alone: what was merged, how, and the recipe itself. Imports no torch."""

import re
from collections.abc import Sequence

import yaml

_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")


def merge_card(title: str, models: Sequence[str], methods: Sequence[str], recipe: str) -> str:
    """The README.md of a merge.

    Args:
        models: folders or repositories, the base first. Folders are named by their last part: a card says nothing about
            the machine it was made on.
        methods: names of the merge methods.
        recipe: the recipe's text, YAML.
    """
    sources = list(dict.fromkeys(source_name(model) for model in models))
    head = {
        "base_model": sources,
        "base_model_relation": "merge",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "temper", *dict.fromkeys(methods)],
    }
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    listed = "\n".join(f"- `{source}`" for source in sources)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", recipe)), default=0))
    return (
        f"---\n{front}---\n\n# {title}\n\nMerged with Temper by {' and '.join(dict.fromkeys(methods))}. It has not "
        f"been evaluated: what the models below were trained to do, refusals included, may be weaker here.\n\n{listed}"
        f"\n\n## Recipe\n\n{fence}yaml\n{recipe.strip()}\n{fence}\n"
    )


def source_name(path: str) -> str:
    """A repository's id, or the last part of a folder's path."""
    return path if _REPOSITORY.match(path) and not path.startswith(".") else path.rstrip("/").rpartition("/")[2] or path
