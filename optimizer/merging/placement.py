"""Where the tensors of a checkpoint lie in a loaded model: read off names and shapes, else off their content."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.sink import TensorPlan
from optimizer.merging.checkpoint.source import DTYPE_NAMES, DTYPES, Checkpoint, StoredTensor
from optimizer.merging.layout import Layout
from optimizer.merging.methods.base import Method, matrix
from optimizer.merging.plan import Operand, Step, make_plan
from optimizer.merging.recipe import Recipe

#: numbers of a row that are compared before all of them are
_GLANCE = 8


@dataclass(frozen=True)
class ModulePlace:
    """Rows `begin` … `begin + rows` of a parameter (see `matrix`)."""

    parameter: nn.Parameter
    begin: int
    rows: int

    def of(self, tensor: Tensor) -> Tensor:
        """The rows of the parameter itself, or of its gradient: a view [rows, columns] where that is contiguous."""
        return tensor.reshape(matrix(self.parameter.shape))[self.begin : self.begin + self.rows]


class Placed(NamedTuple):
    """Tensors that fill a model's parameters: their steps, and by name where they go and their group."""

    steps: Sequence[Step]
    places: Mapping[str, ModulePlace]
    group_of: Mapping[str, str]


def place_tensors(model: nn.Module, recipe: Recipe, layout: Layout) -> Placed:
    """The steps of the recipe that fill parameters of `model`, and where.

    Where the checkpoint has names or shapes that the model has not (transformers fuses the experts of a mixture into
    one parameter, for one), the base is loaded once by the model's own loader, and its tensors are looked for in the
    result. A loader that does more than put rows side by side leaves no place to be found: then methods that look at
    single numbers only are merged in the model's own shapes, the others refused.

    Raises:
        RecipeError, PoolError: see `make_plan`.
        CheckpointError: a parameter is in no tensor of the base, or the groups of model and checkpoint differ.
    """
    _check_groups(model, layout)
    steps = {step.tensor.name: step for step in make_plan(recipe).steps if step.method is not None}
    names = dict(model.named_parameters(remove_duplicate=False))
    places = {
        name: ModulePlace(names[name], 0, matrix(step.tensor.shape)[0])
        for name, step in steps.items()
        if name in names and step.tensor.shape == tuple(names[name].shape)
    }
    filled = {id(place.parameter) for place in places.values()}
    empty = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in filled}
    if empty:
        loaded = _load(model, recipe.base)
        rest = [step for name, step in steps.items() if name not in places]
        found = _look_for(rest, empty, loaded, layout)
        if found is None:
            return _as_loaded(model, recipe, next(iter(steps.values())))
        places |= found
    return Placed([steps[name] for name in steps if name in places], places, layout.group_of)


def _check_groups(model: nn.Module, layout: Layout) -> None:
    """Module names may differ from the checkpoint's; the groups may not."""
    own = Layout.of_shapes({name: tuple(parameter.shape) for name, parameter in model.named_parameters()})
    if own.groups != layout.groups:
        odd = sorted(set(own.groups) ^ set(layout.groups))
        raise CheckpointError(f"the model and its checkpoint differ in the groups {', '.join(odd)}")


def _load(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The checkpoint's parameters as the model's own loader converts them."""
    load = getattr(type(model), "from_pretrained", None)
    infos = Checkpoint(folder).infos
    if load is None:
        lost = [name for name, _ in model.named_parameters() if name not in infos]
        raise CheckpointError(f"{folder}: no tensor for the parameter {lost[0]} ({len(lost)} in all)")
    dtype = reduce(torch.promote_types, (DTYPES[info.dtype] for info in infos.values() if "F" in info.dtype))
    loaded, report = load(folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True)
    if report["missing_keys"] or report.get("mismatched_keys"):
        lost = sorted(report["missing_keys"]) or sorted(map(str, report["mismatched_keys"]))
        raise CheckpointError(f"{folder}: no tensor for the parameter {lost[0]} ({len(lost)} in all)")
    return {name: parameter.detach() for name, parameter in loaded.named_parameters()}


def _look_for(
    steps: Sequence[Step], parameters: Mapping[str, nn.Parameter], loaded: Mapping[str, Tensor], layout: Layout
) -> dict[str, ModulePlace] | None:
    """A place in `parameters` for each tensor whose content `loaded` holds there, None unless they fill them all.

    Tensors of equal content (the experts of a mixture that was grown from one model) are taken in the order of their
    names' numbers, which is the order in which loaders put them.
    """
    group_of = Layout.of_shapes({name: tuple(parameter.shape) for name, parameter in parameters.items()}).group_of
    taken = {name: torch.zeros(matrix(parameter.shape)[0], dtype=torch.bool) for name, parameter in parameters.items()}
    places: dict[str, ModulePlace] = {}
    for step in sorted(steps, key=lambda step: _natural(step.tensor.name)):
        assert step.base is not None
        rows, columns = matrix(step.tensor.shape)
        wanted = step.base.tensor.rows(0, rows)
        group = layout.group_of[step.tensor.name].rsplit(".", 1)[0]
        for name, parameter in parameters.items():
            if matrix(parameter.shape)[1] != columns or group_of[name].rsplit(".", 1)[0] != group:
                continue
            whole = loaded[name].reshape(-1, columns)
            free = (begin for begin in _begins(wanted, whole) if not taken[name][begin : begin + rows].any())
            if (begin := next(free, None)) is not None:
                taken[name][begin : begin + rows] = True
                places[step.tensor.name] = ModulePlace(parameter, begin, rows)
                break
    return places if all(bool(rows.all()) for rows in taken.values()) else None


def _begins(wanted: Tensor, whole: Tensor) -> Iterator[int]:
    """The rows of `whole` from which on it holds `wanted`."""
    wanted = wanted.to(whole.dtype)
    glance = (whole[:, :_GLANCE] == wanted[0, :_GLANCE]).all(1).nonzero().view(-1)
    for begin in map(int, glance):
        if torch.equal(whole[begin : begin + wanted.shape[0]], wanted):
            yield begin


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts "experts.10" after "experts.9"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _as_loaded(model: nn.Module, recipe: Recipe, pattern: Step) -> Placed:
    """Steps over whole parameters, every model's as its loader converts them."""
    method, case = pattern.method, pattern.case
    assert method is not None
    assert case is not None
    if not _by_number(method):
        raise CheckpointError(
            f"{recipe.base}: the loader of {type(model).__name__} rearranges its tensors, and {method.name} needs them "
            "as they are in the files",
            mend="merge with task_arithmetic, or write each merge to disk",
        )
    folders = {"base": recipe.base, **recipe.models}
    loaded = {owner: _load(model, folder) for owner, folder in folders.items()}
    steps = []
    for name, parameter in model.named_parameters():
        own = [Operand(owner, StoredTensor(tensors[name])) for owner, tensors in loaded.items()]
        plan = TensorPlan(name, DTYPE_NAMES[own[0].tensor.dtype], tuple(parameter.shape))
        steps.append(Step(plan, own[0], tuple(own[1:]), method, replace(case, tensor=name, shape=plan.shape)))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    places = {name: ModulePlace(whole, 0, matrix(whole.shape)[0]) for name, whole in model.named_parameters()}
    return Placed(steps, places, Layout.of_shapes(shapes).group_of)


def _by_number(method: Method) -> bool:
    """Every number of the result depends on the models' numbers at its own position only."""
    return method.prepare is None and method.sparsify is None
