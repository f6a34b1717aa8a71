"""What several stages need of a job's pool: its data, the models in memory, the space, the points everybody tries."""

from dataclasses import dataclass
from pathlib import Path

import torch

from datagen.pool import BASE
from datagen.samples import DataSet
from datagen.storage import read
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.layout import Layout
from optimizer.merging.recipe import Coefficients, Recipe
from optimizer.search.bench import Bench
from optimizer.search.space import Space
from service.jobs.context import StageContext
from service.jobs.folders import base_folder, dataset_folder, model_folders

#: what the merge of all models at equal shares is called beside the models
UNIFORM = "uniform"


@dataclass(frozen=True)
class JobPool:
    """A job's pool, checked; nothing is loaded before it is asked for."""

    context: StageContext
    layout: Layout
    models: tuple[str, ...]

    @classmethod
    def of(cls, context: StageContext) -> "JobPool":
        folders = model_folders(context.request)
        return cls(context, check_pool(base_folder(context.request), folders), tuple(folders))

    @property
    def base(self) -> Path:
        return base_folder(self.context.request)

    def dataset(self) -> DataSet:
        return read(dataset_folder(self.context.request, self.context.settings))

    def bench(self) -> Bench:
        """The pool in memory. A GPU is too small for it and the engine together; on a CPU the engine only waits."""
        if torch.cuda.is_available():
            self.context.release_engine()
        return Bench.open(base_folder(self.context.request), model_folders(self.context.request), self.layout)

    def space(self) -> Space:
        return Space.of(self.layout, self.models, self.context.request.merge)

    def recipe(self, coefficients: Coefficients) -> Recipe:
        request = self.context.request
        return Recipe(
            base=base_folder(request),
            models=model_folders(request),
            method=request.merge.method,
            coefficients=coefficients,
            dtype=request.export.dtype,
        )

    def known_points(self) -> dict[str, Coefficients]:
        """The base, every parent and the uniform merge, as coefficients."""
        points: dict[str, dict[str, float]] = {BASE: {}}
        points |= {name: {name: 1.0} for name in self.models}
        points[UNIFORM] = dict.fromkeys(self.models, 1 / len(self.models))
        return {
            name: Coefficients.constant(self.models, self.layout.groups, by_model) for name, by_model in points.items()
        }
