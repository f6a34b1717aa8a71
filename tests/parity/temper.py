"""Temper's merge of a mergekit recipe."""

from pathlib import Path

from optimizer.merging.merge import write_plan
from optimizer.merging.mergekit.parse import read_mergekit
from optimizer.merging.mergekit.stages import merge_stages


def merge(text: str, out: Path) -> Path:
    """The folder with the result of a recipe of one or more documents."""
    merge_stages(read_mergekit(text), out, lambda _, plan, folder: write_plan(plan, folder, {}, shard_size=5 << 30))
    return out
