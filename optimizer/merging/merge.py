"""A merge as a stream of tensors, and as a checkpoint folder. Memory is bounded by a span, not by the model."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.compatibility import template_folder
from optimizer.merging.checkpoint.files import MAX_TOKENIZER, file_of
from optimizer.merging.checkpoint.manifest import MANIFEST, Manifest, hash_file
from optimizer.merging.checkpoint.publish import publishing
from optimizer.merging.checkpoint.sink import ShardWriter, parse_size
from optimizer.merging.checkpoint.source import DTYPES
from optimizer.merging.plan import Plan, Step, make_plan, pool_folders, shown_dtype
from optimizer.merging.recipe import ExportSettings, Recipe, recipe_to_yaml

#: numbers handled at a time: the temporaries of a span stay in the processor's cache, and torch works on so few with
#: one thread, which spares waiting for the others (on a busy machine, spans twice as long took 50 times the time)
SPAN = 1 << 15
#: files that make up a tokenizer, of all kinds that transformers reads
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
TOKENIZER = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)

#: called with (bytes done, bytes in all, "bytes", the tensor's name); may raise to stop
Progress = Callable[[int, int, str, str], None]


def merged_tensors(recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the merge, under its checkpoint name, whole and in its final dtype; one at a time in memory.

    Raises:
        RecipeError, PoolError, CheckpointError: see `make_plan`; CheckpointError also for NaN or infinity, found while
            streaming.
    """
    plan = make_plan(recipe)
    for step in plan.steps:
        whole = torch.empty(step.tensor.shape, dtype=DTYPES[step.tensor.dtype])
        flat, position = whole.view(-1), 0
        for span in merged_spans(plan, step):
            flat[position : position + span.numel()] = span
            position += span.numel()
        yield step.tensor.name, whole


@torch.no_grad()
def merged_spans(plan: Plan, step: Step) -> Iterator[Tensor]:
    """One tensor of the merge as consecutive flat spans in its final dtype.

    Raises:
        CheckpointError: NaN or infinity in a model, or in the result because its dtype is too narrow.
    """
    name, dtype = step.tensor.name, DTYPES[step.tensor.dtype]
    base = plan.base.read(name).view(-1)
    experts = [] if step.coefficients is None else [expert.read(name).view(-1) for expert in plan.experts.values()]
    for begin in range(0, base.numel(), SPAN):
        span = slice(begin, begin + SPAN)
        if step.coefficients is None:
            yield base[span]
            continue
        result = plan.method.combine(base[span], [expert[span] for expert in experts], step.coefficients).to(dtype)
        # one pass: a sum is finite only where every number is, unless it overflows itself
        if not result.sum().isfinite() and not result.isfinite().all():
            raise _not_finite(plan, step)
        yield result


def write_merge(
    recipe: Recipe, out: Path, export: ExportSettings, *, card: str, progress: Progress | None = None
) -> Manifest:
    """Write the merge as a checkpoint folder that transformers and vLLM load: shards, config, tokenizer, chat template,
    recipe.yaml, README.md (`card`) and manifest.json. The folder appears under its name whole or not at all.

    Tokenizer, chat template and generation config are the base's; where the base was never taught to chat, those of
    the first model with a chat template.

    Returns:
        Size and sha256 of every file, as in manifest.json.

    Raises:
        RecipeError, PoolError, CheckpointError: see `make_plan`; CheckpointError also when `out` exists, the disk is
            full, or a number is NaN or infinite.
    """
    recipe = recipe if export.dtype == "auto" else replace(recipe, dtype=export.dtype)
    plan = make_plan(recipe)
    with publishing(out, needed=plan.nbytes) as folder:
        files = dict(_write_shards(plan, folder, parse_size(export.shard_size), progress).files)
        _copy_companions(plan, folder)
        _write_json(folder / "config.json", _config(plan))
        (folder / "recipe.yaml").write_text(recipe_to_yaml(recipe), encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        for file in folder.iterdir():
            if file.name not in files:
                files[file.name] = hash_file(file)
        manifest = Manifest(dict(sorted(files.items())))
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _write_shards(plan: Plan, folder: Path, shard_size: int, progress: Progress | None) -> ShardWriter:
    done, total = 0, plan.nbytes
    with ShardWriter(folder, [step.tensor for step in plan.steps], shard_size) as writer:
        for step in plan.steps:
            for span in merged_spans(plan, step):
                writer.write(step.tensor.name, span)
                done += span.nbytes
                if progress is not None:
                    progress(done, total, "bytes", step.tensor.name)
    return writer


def _copy_companions(plan: Plan, folder: Path) -> None:
    """Tokenizer files of one model, never mixed, and its generation config (which knows the end token of its chat)."""
    base, models = pool_folders(plan)
    owners = [template_folder(base, models), base, *models]
    tokenizer = next((owner for owner in owners if any(file_of(owner, name) for name in VOCABULARIES)), None)
    for name in TOKENIZER if tokenizer else ():
        _copy(tokenizer, name, folder)
    generation = next((owner for owner in owners[:2] if file_of(owner, "generation_config.json")), base)
    _copy(generation, "generation_config.json", folder)


def _copy(source: Path | None, name: str, folder: Path) -> None:
    if source is not None and (file := file_of(source, name)):
        if file.stat().st_size > MAX_TOKENIZER:
            raise CheckpointError(f"{source / name}: over {MAX_TOKENIZER:,} bytes")
        (folder / name).write_bytes(file.read_bytes())


def _config(plan: Plan) -> dict[str, object]:
    """The base's config with the dtype of the result; it does not say any more where the base lay."""
    config = {key: value for key, value in plan.base.config.items() if key != "_name_or_path"}
    if dtype := shown_dtype(plan):
        config["torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"] = dtype
    return config


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _not_finite(plan: Plan, step: Step) -> CheckpointError:
    """Which model the NaN or infinity comes from."""
    name = step.tensor.name
    for owner, checkpoint in (("base", plan.base), *plan.experts.items()):
        whole = checkpoint.read(name).view(-1)
        if not all(whole[begin : begin + SPAN].isfinite().all() for begin in range(0, whole.numel(), SPAN)):
            return CheckpointError(
                f"tensor {name}: NaN or infinity in {owner} ({checkpoint.folder})",
                mend="fetch the checkpoint again, or leave this model out",
            )
    return CheckpointError(
        f"tensor {name}: the merge with coefficients {step.coefficients} does not fit into {step.tensor.dtype}",
        mend="export as bfloat16 or float32, or lower the coefficients",
    )
