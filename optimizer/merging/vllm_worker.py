"""Candidates inside a vLLM worker: only coefficients cross the process boundary, never a tensor."""

import json
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from datagen.engines.vllm_worker import WeightSwapper, repack
from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.held import HeldPool, Place, Settings
from optimizer.merging.landing import LandedMerge, LoadTrace, base_tensors
from optimizer.merging.merge import merged_tensors
from optimizer.merging.recipe import (
    Coefficients,
    Recipe,
    check_coefficients,
    recipe_from_dict,
    recipe_from_json,
    recipe_to_dict,
)


class MergeWorker(WeightSwapper):
    """Worker extension that also loads merges which exist nowhere on disk."""

    _held: "HeldMerge | None" = None

    def load_recipe(self, recipe: str) -> None:
        """Make the engine's weights those of the recipe (JSON of `recipe_to_json`), streamed from the disk.

        Raises:
            RecipeError, CheckpointError: see `merged_tensors`.
        """
        self.reload(merged_tensors(recipe_from_json(recipe)))

    def hold(self, recipe: str, device: str | None = None) -> None:
        """Keep the recipe's pool in memory from now on, for `load_coefficients`. The engine's weights become the
        base's.

        Args:
            recipe: JSON of `recipe_to_json`: base, models, method, parameters and seed. What its coefficients are does
                not matter.
            device: where the pool is kept and merged; the engine's own by default. It takes the pool's size there, in
                every worker.

        Raises:
            RecipeError, PoolError, CheckpointError: see `HeldPool`.
        """
        self._held = None
        self._held = HeldMerge(self, recipe_from_json(recipe), device)

    def load_coefficients(self, coefficients: str, parameters: str | None = None) -> None:
        """Make the engine's weights the held pool's merge with these coefficients, in place; what has not changed since
        the last time is left alone.

        Args:
            coefficients: JSON, {model: {group: number}}.
            parameters: JSON, {name: number}: instead of the held recipe's.

        Raises:
            RecipeError: no pool is held, or coefficients or parameters do not fit it.
        """
        if self._held is None:
            raise RecipeError(
                "coefficients found, but the engine holds no pool", mend="call hold with its recipe first"
            )
        self._held.load(coefficients, parameters)

    def reload(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Replace all weights; see `WeightSwapper`."""
        if self._held is not None:
            self._held.forget()
        super().reload(tensors)


class HeldMerge:
    """A pool that a worker holds, and where its merges go in the worker's model."""

    def __init__(self, worker: WeightSwapper, recipe: Recipe, device: str | None) -> None:
        self._worker = worker
        self._recipe = recipe
        model: nn.Module = worker.model_runner.get_model()
        own = next(parameter.device for parameter in model.parameters())
        self._layout = check_pool(recipe.base, recipe.models)
        self._pool = HeldPool(recipe, self._layout, torch.device(device or own))
        self._applied: list[tuple[object, ...] | None] = [None] * len(self._layout.groups)
        trace = LoadTrace(model, self._pool.tensors)
        with trace:
            worker.reload(base_tensors(self._pool))
        self.landed = LandedMerge(model, self._pool, trace.layers(), repack if own.type == "cpu" else None)

    @property
    def lost(self) -> tuple[str, ...]:
        """Tensors whose place in the model is unknown: merges that change them go through vLLM's own loading."""
        return self.landed.lost

    def forget(self) -> None:
        """The model no longer has what was last written."""
        self._applied = [None] * len(self._applied)

    def load(self, coefficients: str, parameters: str | None) -> None:
        """See `MergeWorker.load_coefficients`."""
        fields = {**recipe_to_dict(self._recipe), "coefficients": _json(coefficients, "coefficients")}
        if parameters is not None:
            fields["parameters"] = _json(parameters, "parameters")
        recipe = recipe_from_dict(fields, "load_coefficients")
        columns = check_coefficients(recipe, self._layout.groups)
        rows = tuple(zip(*(columns[group] for group in self._layout.groups), strict=True))
        ordered = Coefficients(tuple(recipe.models), self._layout.groups, rows)
        settings = self._pool.settings(ordered, recipe.parameters)
        wanted = [settings.of_group(group) for group in range(len(self._layout.groups))]
        stale = {group for group, value in enumerate(wanted) if value != self._applied[group]}
        for group in stale:
            self._applied[group] = None  # an interrupted pass leaves no group marked as written
        if self.landed.lost and stale:
            self._worker.reload(self._merged(settings))
            stale = set(range(len(wanted)))
        else:
            self.landed.write(stale, settings)
        for group in stale:
            self._applied[group] = wanted[group]

    def _merged(self, settings: Settings) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the merge, from memory; one at a time."""
        for held in self._pool.tensors:
            whole = torch.empty(held.stack.shape[1:], dtype=held.stack.dtype, device=held.stack.device)
            self._pool.write([held], {held.name: [Place.whole(whole)]}, settings)
            yield held.name, whole.view(held.step.tensor.shape)


def _json(text: str, what: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{what}: not JSON ({error})") from None
