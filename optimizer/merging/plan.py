"""Recipe + pool → what happens to each tensor. The same plan goes to disk, and to vLLM."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import PoolError, RecipeError
from optimizer.merging.checkpoint.header import DTYPE_SIZES, FLOATS
from optimizer.merging.checkpoint.sink import TensorPlan
from optimizer.merging.checkpoint.source import Checkpoint
from optimizer.merging.layout import Layout
from optimizer.merging.methods.registry import Method, find_method
from optimizer.merging.recipe import Recipe, check_coefficients

DTYPE_OF: Mapping[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class Step:
    """One tensor of the result. `coefficients`: one an expert, or None: copied from the base as it is."""

    tensor: TensorPlan
    coefficients: tuple[float, ...] | None


@dataclass(frozen=True)
class Plan:
    """`steps` in the order of writing; `experts` in the order of the coefficients."""

    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    method: Method
    steps: tuple[Step, ...]

    @property
    def nbytes(self) -> int:
        """Size of the result, in bytes."""
        return sum(step.tensor.nbytes for step in self.steps)


def make_plan(recipe: Recipe) -> Plan:
    """Open the pool (configs and headers alone) and decide about every tensor.

    Raises:
        RecipeError: an unknown method or dtype, too few or many models, coefficients that do not fit the pool.
        PoolError: an expert lacks a tensor of the base or has it in another shape.
        CheckpointError: a folder cannot be read safely.
    """
    method = find_method(recipe.method)
    fewest, most = method.models
    count = len(recipe.models)
    if count < fewest or (most is not None and count > most):
        wanted = str(fewest) if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        raise RecipeError(f"{method.name} of {count} models found, it takes {wanted}")
    if recipe.dtype != "auto" and recipe.dtype not in DTYPE_OF:
        raise RecipeError(f"dtype {recipe.dtype!r} found, expected auto, {', '.join(DTYPE_OF)}")
    base = Checkpoint(recipe.base)
    experts = {name: Checkpoint(folder) for name, folder in recipe.models.items()}
    layout = Layout.of(base.infos)
    _same_tensors(base, experts, layout)
    columns = check_coefficients(recipe, layout.groups)
    steps = []
    for name, info in base.infos.items():
        group = layout.group_of.get(name)
        dtype = info.dtype if group is None or recipe.dtype == "auto" else DTYPE_OF[recipe.dtype]
        steps.append(Step(TensorPlan(name, dtype, info.shape), None if group is None else columns[group]))
    # wide dtypes first, so that every tensor of a shard is aligned to its own element size
    steps.sort(key=lambda step: -DTYPE_SIZES[step.tensor.dtype])
    return Plan(base, experts, method, tuple(steps))


def _same_tensors(base: Checkpoint, experts: Mapping[str, Checkpoint], layout: Layout) -> None:
    for model, expert in experts.items():
        for name in layout.group_of:
            ours, theirs = base.infos[name], expert.infos.get(name)
            if theirs is None or theirs.shape != ours.shape or theirs.dtype not in FLOATS:
                found = "nothing" if theirs is None else f"{list(theirs.shape)} in {theirs.dtype}"
                raise PoolError(
                    f"tensor {name}: {found} in {model} ({expert.folder}), the base has {list(ours.shape)}",
                    mend="check the pool: the models differ in architecture or vocabulary",
                )


def shown_dtype(plan: Plan) -> str | None:
    """The one float dtype of the result as config.json calls it ("bfloat16"), None where it is mixed."""
    found = {step.tensor.dtype for step in plan.steps if step.coefficients is not None}
    names = {short: name for name, short in DTYPE_OF.items()} | {"F64": "float64"}
    return names[found.pop()] if len(found) == 1 else None


def pool_folders(plan: Plan) -> tuple[Path, tuple[Path, ...]]:
    """The folders of the base and of the experts."""
    return plan.base.folder, tuple(expert.folder for expert in plan.experts.values())
