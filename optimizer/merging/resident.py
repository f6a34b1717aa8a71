"""A merge held in memory: the base and every expert stay resident, a candidate is one pass over them in place."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimizer.errors import CheckpointError, RecipeError
from optimizer.merging.checkpoint.source import DTYPES, Checkpoint
from optimizer.merging.layout import Layout
from optimizer.merging.methods.affine import affine_sum
from optimizer.merging.methods.base import Block, arithmetic_dtype
from optimizer.merging.recipe import Coefficients

#: numbers handled at a time. On a CPU the temporaries stay in the cache, and torch works on so few with one thread,
#: which spares waiting for the others (on a busy machine, spans twice as long took 50 times the time)
SPAN = {"cpu": 1 << 15, "cuda": 1 << 24}


@dataclass(frozen=True)
class _Entry:
    """One parameter: its group's number and `stack` [1 + models, numel], the base first, in the files' own dtype."""

    name: str
    parameter: nn.Parameter
    group: int
    stack: Tensor


class ResidentMerge:
    """Writes θ = θ_b + Σ λ_{t,g} τ_t into a model's parameters, and contracts gradients back onto λ.

    What stays in memory is not τ_t but the experts themselves, in their own dtype: a bfloat16 pool takes half of what
    float32 task vectors would, and nothing is lost, so that the result is exact to the one rounding of the
    parameter's dtype (see `task_arithmetic` for the laws that hold bit for bit). Buffers are not touched. Tied
    embeddings are one parameter, merged once; its gradient is the sum over both uses.

    Args:
        model: loaded from any checkpoint of this architecture; its parameters are overwritten by `apply`.
        base, models: checkpoint folders that `check_pool` accepts.
        layout: what `check_pool` returned.
        device: where the stacks live; the model's device by default.

    Raises:
        CheckpointError: the folders do not hold the parameters of `model`.
    """

    def __init__(
        self,
        model: nn.Module,
        base: Path,
        models: Mapping[str, Path],
        layout: Layout,
        device: torch.device | str | None = None,
    ) -> None:
        self.layout = layout
        self.models = tuple(models)
        parameters = dict(model.named_parameters())
        self.device = torch.device(device or next(iter(parameters.values())).device)
        groups = _groups(parameters, layout)
        columns: dict[str, list[Tensor]] = {name: [] for name in parameters}
        for folder in (base, *models.values()):
            for name, tensor in _parameters_of(model, folder):
                columns[name].append(tensor)
        self._entries = [
            _Entry(name, parameter, groups[name], _stack(name, columns.pop(name), self.device))
            for name, parameter in parameters.items()
        ]
        self._applied: list[tuple[float, ...] | None] = [None] * len(layout.groups)

    @torch.no_grad()
    def apply(self, coefficients: Coefficients | Tensor) -> None:
        """Write the merge with these coefficients ([models, groups]) into the model; unchanged groups are left alone.

        Raises:
            RecipeError: other models or groups than this pool's, or a coefficient that is not finite.
        """
        columns = self._columns(coefficients)
        stale = {g for g, column in enumerate(columns) if column != self._applied[g]}
        for group in stale:
            self._applied[group] = None  # an interrupted pass leaves no group marked as written
        for entry in self._entries:
            if entry.group in stale:
                flat = entry.parameter.detach().view(-1)
                for span in _spans(flat.numel(), self.device):
                    base, *experts = entry.stack[:, span]
                    flat[span] = affine_sum(Block(base, tuple(experts), span.start), columns[entry.group])
        for group in stale:
            self._applied[group] = columns[group]

    @contextmanager
    def collect_gradient(self) -> Iterator[Tensor]:
        """While active, every backward pass adds ∂L/∂λ to the tensor that is yielded: [models, groups], float64, CPU
        or the stacks' device.

        ∂L/∂λ_{t,g} = Σ_{θ in g} ⟨∂L/∂θ, τ_t⟩. The gradient of a parameter is contracted and freed as soon as it is
        complete: memory is that of one forward and backward pass plus one parameter's gradient.
        """
        gradient = torch.zeros(len(self.models), len(self.layout.groups), dtype=torch.float64, device=self.device)

        def hook(entry: _Entry) -> Any:
            def contract(parameter: Tensor) -> None:
                if parameter.grad is not None:
                    gradient[:, entry.group] += _contract(parameter.grad, entry.stack)
                    parameter.grad = None

            return entry.parameter.register_post_accumulate_grad_hook(contract)  # type: ignore[no-untyped-call]

        required = [entry.parameter.requires_grad for entry in self._entries]
        for entry in self._entries:
            entry.parameter.requires_grad_(True)
        handles = [hook(entry) for entry in self._entries]
        try:
            yield gradient
        finally:
            for handle in handles:
                handle.remove()
            for entry, before in zip(self._entries, required, strict=True):
                entry.parameter.requires_grad_(before)

    def deltas(self) -> Iterator[tuple[str, str, Tensor]]:
        """(parameter, group, delta_stack [models, numel]) of every parameter, task vectors in float32 or float64."""
        for entry in self._entries:
            wide = entry.stack.to(arithmetic_dtype(entry.stack))
            yield entry.name, self.layout.groups[entry.group], wide[1:] - wide[0]

    @property
    def nbytes(self) -> int:
        """Memory that the stacks take, in bytes."""
        return sum(entry.stack.nbytes for entry in self._entries)

    def _columns(self, coefficients: Coefficients | Tensor) -> list[tuple[float, ...]]:
        """λ of all models, group by group."""
        rows: Sequence[Sequence[float]]
        if isinstance(coefficients, Coefficients):
            if coefficients.models != self.models or coefficients.groups != self.layout.groups:
                raise RecipeError(
                    f"coefficients of {', '.join(coefficients.models)} in {len(coefficients.groups)} groups found, "
                    f"expected {', '.join(self.models)} in {len(self.layout.groups)} groups, in this order"
                )
            rows = coefficients.values
        else:
            if tuple(coefficients.shape) != (len(self.models), len(self.layout.groups)):
                raise RecipeError(
                    f"coefficients of shape {list(coefficients.shape)} found, expected [models, groups] = "
                    f"[{len(self.models)}, {len(self.layout.groups)}]"
                )
            rows = coefficients.detach().double().tolist()
        columns = list(zip(*rows, strict=True))
        for group, column in zip(self.layout.groups, columns, strict=True):
            if any(value - value != 0 for value in column):
                raise RecipeError(f"coefficients {column} in group {group}, expected finite numbers")
        return columns


def _spans(numel: int, device: torch.device, rows: int = 1) -> Iterator[slice]:
    """Cut 0 … numel so that `rows` rows of a piece are a span together."""
    step = max(1, SPAN.get(device.type, SPAN["cpu"]) // rows)
    for begin in range(0, numel, step):
        yield slice(begin, begin + step)


def _contract(gradient: Tensor, stack: Tensor) -> Tensor:
    """⟨gradient, τ_t⟩ of every expert: [models], float64, summed over spans."""
    flat = gradient.reshape(-1).to(stack.device)
    dtype = arithmetic_dtype(stack)
    total = torch.zeros(stack.shape[0] - 1, dtype=torch.float64, device=stack.device)
    for span in _spans(flat.numel(), stack.device, rows=stack.shape[0]):
        wide = stack[:, span].to(dtype)
        total += (wide[1:] - wide[0]) @ flat[span].to(dtype)
    return total


def _groups(parameters: Mapping[str, nn.Parameter], layout: Layout) -> dict[str, int]:
    """Parameter name → number of its group. Module names may differ from the checkpoint's; the groups may not."""
    numbers = {group: number for number, group in enumerate(layout.groups)}
    own = Layout.of_shapes({name: tuple(parameter.shape) for name, parameter in parameters.items()})
    if own.groups != layout.groups:
        odd = sorted(set(own.groups) ^ set(layout.groups))
        raise CheckpointError(f"the model and its checkpoint differ in the groups {', '.join(odd)}")
    return {name: numbers[own.group_of[name]] for name in parameters}


def _stack(name: str, rows: list[Tensor], device: torch.device) -> Tensor:
    """[1 + models, numel] in the narrowest dtype that holds all rows."""
    dtype = reduce(torch.promote_types, (row.dtype for row in rows))
    stack = torch.empty(len(rows), rows[0].numel(), dtype=dtype, device=device)
    for row, source in zip(stack, rows, strict=True):
        row.copy_(source.reshape(-1))
    if not bool(torch.isfinite(stack).all()):
        raise CheckpointError(f"parameter {name}: NaN or infinity in one of the models", mend="fetch the model again")
    return stack


def _parameters_of(model: nn.Module, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint's value of every parameter of `model`, named as in the module.

    Where the file's names and shapes are the module's, tensors are memory-mapped. Else the model's own loader converts
    them (transformers fuses the experts of a mixture into one parameter, for one).
    """
    checkpoint = Checkpoint(folder)
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    sources = {
        name: next((alias for alias in aliases[id(parameter)] if _holds(checkpoint, alias, parameter)), None)
        for name, parameter in model.named_parameters()
    }
    absent = [name for name, source in sources.items() if source is None]
    if not absent:
        yield from ((name, checkpoint.read(source)) for name, source in sources.items() if source is not None)
        return
    load = getattr(type(model), "from_pretrained", None)
    if load is None:
        raise CheckpointError(f"{folder}: no tensor for the parameter {absent[0]} ({len(absent)} in all)")
    dtype = reduce(torch.promote_types, (DTYPES[i.dtype] for i in checkpoint.infos.values() if "F" in i.dtype))
    loaded, report = load(folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True)
    if report["missing_keys"] or report.get("mismatched_keys"):
        lost = sorted(report["missing_keys"]) or sorted(map(str, report["mismatched_keys"]))
        raise CheckpointError(f"{folder}: no tensor for the parameter {lost[0]} ({len(lost)} in all)")
    yield from ((name, parameter.detach()) for name, parameter in loaded.named_parameters())


def _holds(checkpoint: Checkpoint, name: str, parameter: Tensor) -> bool:
    return name in checkpoint.infos and checkpoint.infos[name].shape == tuple(parameter.shape)
