"""A merge as a stream of tensors, and as a checkpoint folder. Memory is bounded by a span, not by the model."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.manifest import MANIFEST, Manifest, hash_file
from optimizer.merging.checkpoint.publish import publishing
from optimizer.merging.checkpoint.sink import ShardWriter, parse_size
from optimizer.merging.checkpoint.source import DTYPES
from optimizer.merging.methods.base import Block, facts_of, matrix, merged, state_of
from optimizer.merging.plan import Plan, Step, make_plan, shown_dtype
from optimizer.merging.recipe import ExportSettings, Recipe, recipe_to_yaml

#: numbers handled at a time: the temporaries of a span stay in the processor's cache, and torch works on so few with
#: one thread, which spares waiting for the others (on a busy machine, spans twice as long took 50 times the time)
SPAN = 1 << 15
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
        for span in merged_spans(step):
            flat[position : position + span.numel()] = span
            position += span.numel()
        yield step.tensor.name, whole


@torch.no_grad()
def merged_spans(step: Step) -> Iterator[Tensor]:
    """One tensor of the merge as consecutive flat spans in its final dtype.

    Raises:
        CheckpointError: NaN or infinity in a model, or in the result because its dtype is too narrow.
    """
    dtype = DTYPES[step.tensor.dtype]
    method, case = step.method, step.case
    if method is None or case is None:
        assert step.base is not None
        for begin, end in _row_spans(step.tensor.shape):
            yield step.base.tensor.rows(begin, end).reshape(-1)
        return
    spans = _row_spans(step.tensor.shape)
    facts = facts_of(method, case, lambda look: [look(_block(step, *span)) for span in spans])
    state = state_of(method, case, facts)
    for begin, end in spans:
        block = _block(step, begin, end)
        result = merged(method, block, case, facts, state).to(dtype)
        # one pass: a sum is finite only where every number is, unless it overflows itself
        suspects = (result,) if method.affine else (result, *block.models)
        if any(not part.sum().isfinite() and not part.isfinite().all() for part in suspects):
            raise _not_finite(step)
        yield result.reshape(-1)


def _row_spans(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cut a tensor's rows into pieces of about SPAN numbers; none where it has no numbers."""
    rows, columns = matrix(shape)
    if rows == 0 or columns == 0:
        return []
    height = max(1, SPAN // columns)
    return [(begin, min(begin + height, rows)) for begin in range(0, rows, height)]


def _block(step: Step, begin: int, end: int) -> Block:
    base = None if step.base is None else step.base.tensor.rows(begin, end)
    models = tuple(operand.tensor.rows(begin, end) for operand in step.models)
    return Block(base, models, begin * matrix(step.tensor.shape)[1])


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
        _write_companions(plan, folder)
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
            for span in merged_spans(step):
                writer.write(step.tensor.name, span)
                done += span.nbytes
                if progress is not None:
                    progress(done, total, "bytes", step.tensor.name)
    return writer


def _write_companions(plan: Plan, folder: Path) -> None:
    for name, content in plan.companions.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def _config(plan: Plan) -> dict[str, object]:
    """The plan's config with the dtype of the result."""
    config = dict(plan.config)
    if dtype := shown_dtype(plan):
        config["torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"] = dtype
    return config


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _not_finite(step: Step) -> CheckpointError:
    """Which model the NaN or infinity comes from."""
    name = step.tensor.name
    for owner, tensor in step.operands:
        if not all(tensor.rows(*span).isfinite().all() for span in _row_spans(step.tensor.shape)):
            return CheckpointError(
                f"tensor {name}: NaN or infinity in {owner}",
                mend="fetch the checkpoint again, or leave this model out",
            )
    values = {} if step.case is None else {**step.case.shared, **step.case.each}
    return CheckpointError(
        f"tensor {name}: the merge with {values} does not fit into {step.tensor.dtype}",
        mend="export as bfloat16 or float32, or lower the coefficients",
    )
