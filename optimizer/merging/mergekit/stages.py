"""Recipes of several documents: what one makes, another merges on. Each is known to the others by its `name`."""

import difflib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeVar

from optimizer.errors import CheckpointError, RecipeError
from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.mergekit.plan import PlanOptions, plan_mergekit
from optimizer.merging.mergekit.schema import MergekitRecipe
from optimizer.merging.plan import Plan

Result = TypeVar("Result")
#: writes the merge of a plan to a folder that does not exist yet
Write = Callable[[MergekitRecipe, Plan, Path], Result]


def order_stages(recipes: Sequence[MergekitRecipe]) -> tuple[MergekitRecipe, ...]:
    """The recipes in an order in which each comes after those it builds on; the last makes the result.

    Raises:
        RecipeError: recipes that build on each other in a circle, a name that is almost another's, or more than one
            result.
    """
    by_name = {recipe.name: recipe for recipe in recipes}
    needs = {recipe.name: _needs(recipe, by_name) for recipe in recipes}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        circle = " → ".join(str(name) for name in reversed(error.args[1]))
        raise RecipeError(
            f"{recipes[0].origin}: the documents build on each other in a circle: {circle}",
            mend="take one of these models from elsewhere",
        ) from None
    used = {name for own in needs.values() for name in own}
    ends = [name for name in order if name not in used]
    if len(ends) > 1:
        shown = ", ".join("the one without a name" if name is None else repr(name) for name in ends)
        raise RecipeError(
            f"{recipes[0].origin}: {len(ends)} documents found that no other builds on: {shown}; expected one, the "
            "result",
            mend="use the others in it, or leave them out",
        )
    return tuple(by_name[name] for name in order)


def merge_stages(
    recipes: Sequence[MergekitRecipe], out: Path, write: Write[Result], options: PlanOptions | None = None
) -> Result:
    """Carry out all recipes; the last one's result is at `out`, those before it are kept beside it until then.

    Before anything is merged, all of it is planned, on stand-ins for the results in between.

    Args:
        write: called for every recipe in turn.

    Returns:
        What `write` returned for the last.

    Raises:
        RecipeError, PoolError, CheckpointError: see `order_stages` and `plan_mergekit`; also what `write` raises.
    """
    options = options or PlanOptions()
    ordered = order_stages(recipes)
    if len(ordered) == 1:
        return write(ordered[0], plan_mergekit(ordered[0], options), out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists already", mend="choose another folder, or remove it")
    rehearse(ordered, options)
    with _beside(out) as folder:
        made: dict[str, Path] = {}
        for number, recipe in enumerate(ordered[:-1]):
            place = folder / str(number)
            write(recipe, plan_mergekit(recipe, _with(options, made)), place)
            made[str(recipe.name)] = place
        return write(ordered[-1], plan_mergekit(ordered[-1], _with(options, made)), out)


def rehearse(recipes: Sequence[MergekitRecipe], options: PlanOptions | None = None) -> tuple[Plan, ...]:
    """The plans of recipes in the order of `order_stages`, from configs and headers alone: models that are still to be
    made are stood in for by their headers, without data behind them. Such plans are for looking at, not for merging.

    Raises:
        RecipeError, PoolError, CheckpointError: see `plan_mergekit`.
    """
    options = options or PlanOptions()
    plans: list[Plan] = []
    with tempfile.TemporaryDirectory(prefix="temper-plan-") as folder:
        made: dict[str, Path] = {}
        for number, recipe in enumerate(recipes):
            plans.append(plan_mergekit(recipe, _with(options, made)))
            if number < len(recipes) - 1:
                made[str(recipe.name)] = _stand_in(plans[-1], Path(folder) / str(number))
    return tuple(plans)


def _needs(recipe: MergekitRecipe, by_name: Mapping[str | None, MergekitRecipe]) -> set[str | None]:
    """Names of the documents that a recipe builds on."""
    source = recipe.tokenizer_model
    references = [*recipe.references, *([] if source is None else [source])]
    paths = [part.path for reference in references for part in _both(reference)]
    names = [name for name in by_name if name is not None]
    for path in paths:
        near = difflib.get_close_matches(path, names, n=1, cutoff=0.75)
        if near and path not in names and not Path(path).exists():
            raise RecipeError(
                f"{recipe.at(recipe.line)}: model {path!r} found, neither a document of that name nor a folder",
                mend=f"did you mean {near[0]!r}?",
            )
    return {path for path in paths if path in names}


def _both(reference: ModelReference) -> Iterator[ModelReference]:
    yield reference
    if reference.lora is not None:
        yield reference.lora


def _with(options: PlanOptions, made: Mapping[str, Path]) -> PlanOptions:
    return replace(options, stages={**options.stages, **made})


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder beside the result, gone when it is done. What a killed process left there is removed first, which the
    lock allows only once its owner is gone."""
    folder = out.parent / f".{out.name}.stages"
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for leftover in folder.iterdir():
            shutil.rmtree(leftover)
        yield folder
        shutil.rmtree(folder)
    except BlockingIOError:
        raise CheckpointError(f"{out}: another process is writing it", mend="wait for it, or choose another") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _stand_in(plan: Plan, folder: Path) -> Path:
    """A checkpoint of the plan's shapes, a file with a hole where the data would be."""
    folder.mkdir()
    header, position = {}, 0
    for step in plan.steps:
        end = position + step.tensor.nbytes
        shape = list(step.tensor.shape)
        header[step.tensor.name] = {"dtype": step.tensor.dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + position)
    (folder / "config.json").write_text(json.dumps(plan.config), encoding="utf-8")
    for name, content in plan.companions.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder
