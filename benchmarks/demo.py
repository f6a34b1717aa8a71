"""The stages of the demo job, each beside the least it could have taken on this machine in the same run.

    python -m benchmarks.demo [--json PATH] [--folder FOLDER]

Runs `temper demo` in a fresh folder, then measures the floors on the same models and data.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from rich.console import Console

from benchmarks.table import Row, arguments, show
from datagen.samples import Split
from datagen.storage import read, read_card
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.recipe import Coefficients
from optimizer.search.bench import Bench
from optimizer.search.gradient import Loss, axis_rows
from optimizer.search.objectives.suite import Objectives
from service.database import Database
from service.demo.demo import run_demo
from service.jobs import repository
from service.jobs.folders import base_folder, dataset_folder, model_folders
from service.jobs.schemas import Stage
from service.settings import Settings
from service.trials import repository as trials

_REPEATS = 5


def main() -> None:
    parser = arguments("Stages of the demo job against their floors.")
    parser.add_argument("--folder", type=Path, help="a finished demo's folder; by default the demo is run anew")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = options.folder or Path(scratch)
        if options.folder is None:
            run_demo(folder, Console(highlight=False))
        rows = _rows(folder)
    show("demo job, seconds", rows, options.json)


def _rows(folder: Path) -> list[Row]:
    settings = Settings(home=folder / "home")
    database = Database(settings.database)
    with database.read() as session:
        job = repository.view(session, repository.newest(session, after=None, limit=1)[0])
        records = list(trials.finished(session, job.id).values())
    base, models = base_folder(job.request), model_folders(job.request)
    data = dataset_folder(job.request, settings)
    dataset = read(data)
    bench = Bench.open(base, models, check_pool(base, models))
    objectives = Objectives.of(dataset, Split.SEARCH, bench.scorer)
    forward = _seconds(objectives.score)
    loss = Loss(axis_rows(dataset, Split.SEARCH, bench.scorer), {}, bench.scorer)
    gradient, loss_forward = _seconds(lambda: _gradient(bench, loss)), _seconds(loss.value)
    return [
        Row("data", job.seconds[Stage.DATA], read_card(data)["cost"]["seconds"], "the engine's time on its requests"),
        Row("one candidate", _candidate(bench, objectives), forward, "a scoring pass alone"),
        Row("all gradients", gradient, loss_forward, "a forward pass over the same rows"),
        Row("one trial", median(record.seconds for record in records), forward, "a scoring pass alone"),
        Row("search", job.seconds[Stage.SEARCH], forward * len(records), "a scoring pass for every trial"),
        Row("export", job.seconds[Stage.EXPORT], _copy(base, models), "read every model, write and sync one"),
    ]


def _seconds(action: Callable[[], object]) -> float:
    """Median of several runs after one that warms up."""
    action()
    spent = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        action()
        spent.append(time.perf_counter() - began)
    return median(spent)


def _candidate(bench: Bench, objectives: Objectives) -> float:
    """A candidate in which every coefficient differs from the one before, written in place and scored."""
    resident = bench.resident
    shares = iter(range(1, _REPEATS + 2))

    def score() -> None:
        every = dict.fromkeys(resident.models, next(shares) / 10)
        bench.score(Coefficients.constant(resident.models, resident.layout.groups, every), objectives)

    return _seconds(score)


def _gradient(bench: Bench, loss: Loss) -> None:
    with bench.resident.collect_gradient():
        loss.backward()


def _copy(base: Path, models: Mapping[str, Path]) -> float:
    """Seconds to read every weight file of the pool, and to write and sync one model's."""

    def copy() -> None:
        with tempfile.TemporaryDirectory(dir=base.parent) as scratch:
            for folder in (base, *models.values()):
                for file in folder.glob("*.safetensors"):
                    content = file.read_bytes()
                    if folder == base:
                        with (Path(scratch) / file.name).open("wb") as out:
                            out.write(content)
                            out.flush()
                            os.fsync(out.fileno())

    return _seconds(copy)


if __name__ == "__main__":
    main()
