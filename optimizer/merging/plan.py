"""Recipe + pool → what happens to each tensor. The same plan goes to disk, into memory, and to vLLM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from optimizer.errors import PoolError, RecipeError
from optimizer.merging.checkpoint.header import DTYPE_SIZES, FLOATS
from optimizer.merging.checkpoint.models import open_model
from optimizer.merging.checkpoint.sink import TensorPlan
from optimizer.merging.checkpoint.source import Reader, TensorSource
from optimizer.merging.companions import companions_of
from optimizer.merging.layout import Layout
from optimizer.merging.methods.base import Base, Case, Method
from optimizer.merging.methods.registry import find_method
from optimizer.merging.recipe import Recipe, check_coefficients, check_parameters

DTYPE_OF: Mapping[str, str] = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class Operand(NamedTuple):
    """A tensor that goes into a merge; `owner` is what errors call the model it is from."""

    owner: str
    tensor: TensorSource


@dataclass(frozen=True)
class Step:
    """One tensor of the result: `method` over `models` (and `base`) as `case` says, or, without a method, the tensor
    of `base` as it is. All tensors have the shape of the result.

    Raises:
        RecipeError: parameters that do not go together (see `Method.check`).
    """

    tensor: TensorPlan
    base: Operand | None
    models: tuple[Operand, ...] = ()
    method: Method | None = None
    case: Case | None = None

    def __post_init__(self) -> None:
        if self.method is not None and self.case is not None and self.method.check is not None:
            self.method.check(self.case)

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Everything that is read for this tensor, the base first."""
        return self.models if self.base is None else (self.base, *self.models)


@dataclass(frozen=True)
class Plan:
    """A merge, decided.

    `steps` are in the order of writing. `config` is the content of config.json, the dtype not yet set. `companions`
    are the other files of the result, by name: a file to copy, or content. `models` are the folders that are read, by
    name, the base first. `warnings` are for the person who asked for the merge.
    """

    steps: tuple[Step, ...]
    config: Mapping[str, Any]
    companions: Mapping[str, Path | bytes]
    models: Mapping[str, Path]
    warnings: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of the result's tensors, in bytes."""
        return sum(step.tensor.nbytes for step in self.steps)


def in_writing_order(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Wide dtypes first, so that every tensor of a shard is aligned to its own element size."""
    return tuple(sorted(steps, key=lambda step: -DTYPE_SIZES[step.tensor.dtype]))


def make_plan(recipe: Recipe) -> Plan:
    """Open the pool (configs and headers alone) and decide about every tensor.

    Raises:
        RecipeError: an unknown method, parameter or dtype, too few or many models, coefficients that do not fit the
            pool.
        PoolError: an expert lacks a tensor of the base or has it in another shape.
        CheckpointError: a folder cannot be read safely.
    """
    method = find_method(recipe.method)
    check_count(method, len(recipe.models))
    if recipe.dtype != "auto" and recipe.dtype not in DTYPE_OF:
        raise RecipeError(f"dtype {recipe.dtype!r} found, expected auto, {', '.join(DTYPE_OF)}")
    base = open_reader(recipe.base)
    experts = {name: open_reader(path) for name, path in recipe.models.items()}
    layout = Layout.of(base.infos)
    _same_tensors(base, experts, layout)
    columns = check_coefficients(recipe, layout.groups)
    shared, each = check_parameters(recipe, method)
    steps = []
    for name, info in base.infos.items():
        group = layout.group_of.get(name)
        own = Operand("base", base.tensor(name))
        if group is None:
            steps.append(Step(TensorPlan(name, info.dtype, info.shape), own))
            continue
        case = make_case(name, info.shape, recipe, method, shared, each, columns[group])
        dtype = info.dtype if recipe.dtype == "auto" else DTYPE_OF[recipe.dtype]
        models = tuple(Operand(model, reader.tensor(name)) for model, reader in experts.items())
        steps.append(Step(TensorPlan(name, dtype, info.shape), own, models, method, case))
    return Plan(
        in_writing_order(steps),
        {key: value for key, value in base.config.items() if key != "_name_or_path"},
        companions_of(base.folder, tuple(expert.folder for expert in experts.values())),
        {"base": base.folder, **{name: expert.folder for name, expert in experts.items()}},
    )


def open_reader(path: Path) -> Reader:
    """A folder, whatever characters its name has, or a reference such as `organisation/name@revision+adapter`."""
    return open_model(path if path.is_dir() else str(path))


def check_count(method: Method, count: int) -> None:
    """Raises RecipeError if the method does not combine that many models (the base not counted)."""
    fewest, most = method.models
    if count < fewest or (most is not None and count > most):
        wanted = str(fewest) if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        beside = " beside the base" if method.base is Base.REQUIRED else ""
        raise RecipeError(f"{method.name} of {count} models found, it takes {wanted}{beside}")


def make_case(
    name: str,
    shape: tuple[int, ...],
    recipe: Recipe,
    method: Method,
    shared: Mapping[str, float],
    each: Mapping[str, tuple[float, ...]],
    column: tuple[float, ...],
) -> Case:
    """The case of one tensor. `shared`, `each`: what `check_parameters` returned; `column`: the coefficient of every
    model in the tensor's group."""
    own = method.parameter(method.coefficient)
    if own is not None and own.per_model:
        each = {**each, own.name: column}
    elif own is not None:
        shared = {**shared, own.name: column[0]}
    return Case(name, shape, tuple(recipe.models), shared, each, recipe.seed)


def _same_tensors(base: Reader, experts: Mapping[str, Reader], layout: Layout) -> None:
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
    found = {step.tensor.dtype for step in plan.steps if step.method is not None}
    names = {short: name for name, short in DTYPE_OF.items()}
    return names[found.pop()] if len(found) == 1 else None
