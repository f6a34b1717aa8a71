"""A merge held in memory: the base and every expert stay resident, a candidate is one pass over them in place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from optimizer.errors import RecipeError
from optimizer.merging.held import HeldPool, HeldTensor, Parameters, Place, Settings
from optimizer.merging.layout import Layout
from optimizer.merging.methods.base import arithmetic_dtype, state_of
from optimizer.merging.placement import ModulePlace, place_tensors
from optimizer.merging.recipe import Coefficients, Recipe
from optimizer.merging.stream import BLOCK


@dataclass(frozen=True)
class _Entry:
    """A held tensor and the rows of a parameter that it fills."""

    held: HeldTensor
    place: ModulePlace


class ResidentMerge:
    """Writes a merge into a model's parameters, and contracts gradients back onto its coefficients.

    The result equals that of the same recipe on disk bit for bit, except that it is rounded to the parameters' dtype.
    Buffers are not touched. Tied embeddings are one parameter, merged once; its gradient is the sum over both uses.

    Args:
        model: loaded from any checkpoint of this architecture; its parameters are overwritten by `apply`.
        base, models: checkpoint folders that `check_pool` accepts.
        layout: what `check_pool` returned.
        device: where the stacks live; the model's device by default.
        method: name of a row of the registry.
        parameters: the method's parameters beside its coefficient; what is not named has its default.
        seed: of random masks.

    Raises:
        RecipeError: an unknown method or parameter, a value outside its range, too few or many models.
        CheckpointError: the folders do not hold the parameters of `model`, or hold NaN or infinity.
    """

    def __init__(
        self,
        model: nn.Module,
        base: Path,
        models: Mapping[str, Path],
        layout: Layout,
        device: torch.device | str | None = None,
        *,
        method: str = "task_arithmetic",
        parameters: Parameters = MappingProxyType({}),
        seed: int = 0,
    ) -> None:
        self.layout = layout
        self.models = tuple(models)
        self.device = torch.device(device or next(iter(model.parameters())).device)
        start = Coefficients.constant(self.models, layout.groups, dict.fromkeys(models, 1 / max(1, len(models))))
        recipe = Recipe(base, models, method, start, parameters=dict(parameters), seed=seed)
        steps, places, group_of = place_tensors(model, recipe, layout)
        self._pool = HeldPool(recipe, layout, self.device, steps, group_of)
        self._entries = [_Entry(held, places[held.name]) for held in self._pool.tensors]
        self._places: dict[str, list[Place]] = {
            entry.held.name: [Place.whole(entry.place.of(entry.place.parameter.detach()))] for entry in self._entries
        }
        self._settings: Settings | None = None
        self._applied: list[tuple[object, ...] | None] = [None] * len(layout.groups)

    @torch.no_grad()
    def apply(self, coefficients: Coefficients | Tensor, parameters: Parameters | None = None) -> None:
        """Write the merge with these coefficients ([models, groups]) into the model; unchanged groups are left alone.

        Args:
            parameters: instead of those the merge was made with. What the method knows about whole tensors is found
                anew where it depends on one that changed.

        Raises:
            RecipeError: other models or groups than this pool's, a coefficient that is not finite, an unknown parameter
                or a value outside its range.
        """
        settings = self._pool.settings(coefficients, parameters)
        wanted = [settings.of_group(group) for group in range(len(self.layout.groups))]
        stale = {group for group, value in enumerate(wanted) if value != self._applied[group]}
        self._settings = settings
        for group in stale:
            self._applied[group] = None  # an interrupted pass leaves no group marked as written
        self._pool.write([held for held in self._pool.tensors if held.group in stale], self._places, settings)
        for group in stale:
            self._applied[group] = wanted[group]

    @contextmanager
    def collect_gradient(self) -> Iterator[Tensor]:
        """While active, every backward pass adds ∂L/∂λ to the tensor that is yielded: [models, groups], float64, CPU
        or the stacks' device.

        ∂L/∂λ_{t,g} = Σ_{θ in g} ⟨∂L/∂θ, s_t⟩ with the slopes s_t of the method, which for task arithmetic are the task
        vectors. The gradient of a parameter is contracted and freed as soon as it is complete: memory is that of one
        forward and backward pass plus one parameter's gradient.

        Raises:
            RecipeError: the method is not linear in its coefficients, or not with these parameters.
        """
        settings = self._linear_settings()
        gradient = torch.zeros(len(self.models), len(self.layout.groups), dtype=torch.float64, device=self.device)
        of_parameter: dict[nn.Parameter, list[_Entry]] = {}
        for entry in self._entries:
            of_parameter.setdefault(entry.place.parameter, []).append(entry)

        def contract(parameter: Tensor) -> None:
            if parameter.grad is not None:
                for entry in of_parameter[parameter]:  # type: ignore[index]
                    rows = entry.place.of(parameter.grad).to(self.device)
                    gradient[:, entry.held.group] += self._contract(entry.held, rows, settings)
                parameter.grad = None

        required = [parameter.requires_grad for parameter in of_parameter]
        for parameter in of_parameter:
            parameter.requires_grad_(True)
        handles: list[Any] = [
            parameter.register_post_accumulate_grad_hook(contract)  # type: ignore[no-untyped-call]
            for parameter in of_parameter
        ]
        try:
            yield gradient
        finally:
            for handle in handles:
                handle.remove()
            for parameter, before in zip(of_parameter, required, strict=True):
                parameter.requires_grad_(before)

    def deltas(self) -> Iterator[tuple[str, str, Tensor]]:
        """(tensor, group, delta_stack [models, numel]) of every checkpoint tensor that is merged: task vectors in
        float32 or float64, less what the method has dropped."""
        for held in self._pool.tensors:
            wide = held.stack.to(arithmetic_dtype(held.stack)).flatten(1)
            yield held.name, self.layout.groups[held.group], wide[1:] - wide[0]

    @property
    def nbytes(self) -> int:
        """Memory that the stacks take, in bytes."""
        return self._pool.nbytes

    def _linear_settings(self) -> Settings:
        """The settings at which slopes are taken: those last applied."""
        method = self._pool.method
        settings = self._settings or self._pool.settings(self._pool.recipe.coefficients)
        if not method.linear or settings.shared.get("normalize"):
            why = "with normalize on" if method.linear else "whatever its parameters"
            raise RecipeError(
                f"gradients of {method.name} asked for: it is not linear in its coefficients {why}",
                mend="set normalize to false" if method.linear else "take task_arithmetic, or search without gradients",
            )
        return settings

    @torch.no_grad()
    def _contract(self, held: HeldTensor, gradient: Tensor, settings: Settings) -> Tensor:
        """⟨gradient, s_t⟩ of every model: [models], float64, summed over blocks."""
        method, case = self._pool.method, self._pool.case(held, settings)
        assert method.slopes is not None
        held.prepare(method, case)
        state = state_of(method, case, held.facts)
        total = torch.zeros(len(self.models), dtype=torch.float64, device=self.device)
        for begin, end in held.spans(BLOCK.get(self.device.type, BLOCK["cpu"])):
            slopes = method.slopes(held.left(method, case, begin, end), case, state)
            rows = gradient[begin:end].reshape(-1).to(slopes[0].dtype)
            total += torch.stack([slope.reshape(-1) @ rows for slope in slopes])
        return total
