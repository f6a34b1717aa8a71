"""Temper's merge of a mergekit recipe."""

from pathlib import Path

from optimizer.merging.mergekit.plan import plan_mergekit

from optimizer.merging.merge import write_plan
from optimizer.merging.mergekit.parse import read_mergekit


def merge(text: str, out: Path) -> Path:
    """The folder with the result of a recipe of one or more documents."""
    recipes = read_mergekit(text)
    write_plan(plan_mergekit(recipes[0]), out, {"recipe.yaml": text}, shard_size=5 << 30)
    return out
