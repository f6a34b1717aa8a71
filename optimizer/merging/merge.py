"""A merge as a stream of tensors, and as a checkpoint folder."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from optimizer.merging.checkpoint.manifest import MANIFEST, Manifest, hash_file
from optimizer.merging.checkpoint.publish import publishing
from optimizer.merging.checkpoint.sink import ShardWriter, parse_size
from optimizer.merging.checkpoint.source import DTYPES
from optimizer.merging.plan import Plan, make_plan, shown_dtype
from optimizer.merging.recipe import ExportSettings, Recipe, recipe_to_yaml
from optimizer.merging.stream import Crew, merged_pieces

RECIPE = "recipe.yaml"
#: what mergekit calls its recipe in a result's folder
MERGEKIT = "mergekit_config.yml"
CARD = "README.md"

#: called with (bytes done, bytes in all, "bytes", the tensor's name); may raise to stop
Progress = Callable[[int, int, str, str], None]


def merged_tensors(recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the merge, under its checkpoint name, whole and in its final dtype; one at a time in memory.

    Raises:
        RecipeError, PoolError, CheckpointError: see `make_plan`; CheckpointError also for NaN or infinity, found while
            streaming.
    """
    plan = make_plan(recipe)
    pieces = merged_pieces(plan.steps)
    for step in plan.steps:
        whole = torch.empty(step.tensor.shape, dtype=DTYPES[step.tensor.dtype])
        flat, position = whole.view(-1), 0
        while position < flat.numel():
            _, piece = next(pieces)
            flat[position : position + piece.numel()] = piece
            position += piece.numel()
        yield step.tensor.name, whole
    pieces.close()


def write_merge(
    recipe: Recipe, out: Path, export: ExportSettings, *, card: str, progress: Progress | None = None
) -> Manifest:
    """Write the merge of a Temper recipe as a checkpoint folder; see `write_plan`.

    Tokenizer, chat template and generation config are the base's; where the base was never taught to chat, those of
    the first model with a chat template.

    Raises:
        RecipeError, PoolError, CheckpointError: see `make_plan` and `write_plan`.
    """
    recipe = recipe if export.dtype == "auto" else replace(recipe, dtype=export.dtype)
    texts = {RECIPE: recipe_to_yaml(recipe), CARD: card}
    return write_plan(make_plan(recipe), out, texts, shard_size=parse_size(export.shard_size), progress=progress)


def write_plan(
    plan: Plan,
    out: Path,
    texts: Mapping[str, str],
    *,
    shard_size: int,
    crew: Crew | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write the merge as a checkpoint folder that transformers and vLLM load: shards and their index, config.json,
    tokenizer and chat template, `texts` by file name (recipe, model card) and manifest.json.

    The folder appears under its name whole or not at all: after an error, a kill or a power cut there is nothing under
    `out`, and the next attempt starts afresh.

    Args:
        shard_size: most bytes of tensors in a shard, unless a single tensor is larger.
        progress: called after every piece; an exception from it stops the merge.

    Returns:
        Size and sha256 of every file, as in manifest.json.

    Raises:
        CheckpointError: `out` exists, the disk is full, or a number is NaN or infinite.
    """
    with publishing(out, needed=plan.nbytes) as folder:
        files = dict(_write_shards(plan, folder, shard_size, crew, progress).files)
        for name, content in plan.companions.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        config = json.dumps(_config(plan), indent=2, ensure_ascii=False) + "\n"
        for name, text in {"config.json": config, **texts}.items():
            (folder / name).write_text(text, encoding="utf-8")
        for file in folder.iterdir():
            if file.name not in files:
                files[file.name] = hash_file(file)
        manifest = Manifest(dict(sorted(files.items())))
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _write_shards(
    plan: Plan, folder: Path, shard_size: int, crew: Crew | None, progress: Progress | None
) -> ShardWriter:
    done, total = 0, plan.nbytes
    with ShardWriter(folder, [step.tensor for step in plan.steps], shard_size) as writer:
        for step, piece in merged_pieces(plan.steps, crew):
            writer.write(step.tensor.name, piece)
            done += piece.nbytes
            if progress is not None:
                progress(done, total, "bytes", step.tensor.name)
    return writer


def _config(plan: Plan) -> dict[str, object]:
    """The plan's config with the dtype of the result."""
    config = dict(plan.config)
    if dtype := shown_dtype(plan):
        config["torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"] = dtype
    return config
