"""search: warm starts, descents on all coefficients, then the sampler; a trial is a row as soon as it is finished."""

from functools import partial

from datagen.samples import DataSet, Split
from optimizer.merging.recipe import Coefficients
from optimizer.search.bench import Bench
from optimizer.search.gradient import DescentPlan, descend
from optimizer.search.objectives.suite import Objectives
from optimizer.search.scalarisation import scalarisations
from optimizer.search.space import Space
from optimizer.search.study import Crew, StudyPlan, run_study
from optimizer.search.warm_starts import warm_starts
from service.jobs.context import StageContext
from service.jobs.schemas import Stage
from service.jobs.stages.pool import JobPool


def search(context: StageContext) -> None:
    pool = JobPool.of(context)
    dataset, bench, space = pool.dataset(), pool.bench(), pool.space()
    losses = context.results.get(Stage.PARENTS)["losses"]
    warm = warm_starts(space, {name: losses[name] for name in pool.models})
    warm += _descents(context, dataset, bench, space, tuple(coefficients for _, coefficients in warm))
    objectives = Objectives.of(dataset, Split.SEARCH, bench.scorer)
    run_study(
        context.settings.database,
        StudyPlan(context.job_id, space, objectives.axes, context.request.search, tuple(warm)),
        partial(bench.score, objectives=objectives),
        context.trials,
        context.progress,
        Crew(context.worker),
    )
    trials = context.trials.finished()
    complete = sum(trial.state == "complete" for trial in trials.values())
    context.message(f"{len(trials)} trials, {complete} complete")
    context.results.put(Stage.SEARCH, {"trials": len(trials), "complete": complete})


def _descents(
    context: StageContext, dataset: DataSet, bench: Bench, space: Space, starts: tuple[Coefficients, ...]
) -> list[tuple[str, Coefficients]]:
    """One descent for each weighting of the axes: (origin, coefficients).

    The first begins at the best of `starts`, the others where the first ended.
    """
    settings = context.request.search
    found: list[tuple[str, Coefficients]] = []
    if settings.gradient.steps == 0:
        return found
    for name, weights in scalarisations(dataset.domains).items():
        start, *others = [found[0][1]] if found else starts
        plan = DescentPlan(space, start, settings.gradient, weights, settings.seed, tuple(others))

        def progress(done: int, total: int, unit: str, note: str, name: str = name) -> None:
            context.progress(done, total, f"gradient {unit} ({name})", note)

        state = context.folder / f"descent-{name}.json"
        found.append((f"gradient:{name}", descend(bench.resident, bench.scorer, dataset, plan, state, progress)))
    return found
