"""Candidates inside a vLLM worker: only the recipe crosses the process boundary, never a tensor."""

from datagen.engines.vllm_worker import WeightSwapper
from optimizer.merging.merge import merged_tensors
from optimizer.merging.recipe import recipe_from_json


class MergeWorker(WeightSwapper):
    """Worker extension that also loads a merge which exists nowhere on disk."""

    def load_recipe(self, recipe: str) -> None:
        """Make the engine's weights those of the recipe (JSON of `recipe_to_json`).

        Raises:
            RecipeError, CheckpointError: see `merged_tensors`.
        """
        self.reload(merged_tensors(recipe_from_json(recipe)))
