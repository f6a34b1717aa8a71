"""parents: the base, every parent and the uniform merge, scored on the selection split before anything is searched."""

from datagen.samples import Split
from optimizer.search.objectives.suite import Objectives
from optimizer.search.warm_starts import parent_loss
from service.jobs.context import StageContext
from service.jobs.schemas import Role, Stage
from service.jobs.stages.pool import JobPool

#: refusal below which a parent is no example of alignment
ALIGNED = 0.5


def score_parents(context: StageContext) -> None:
    pool = JobPool.of(context)
    bench = pool.bench()
    objectives = Objectives.of(pool.dataset(), Split.SELECTION, bench.scorer)
    points = pool.known_points()
    scores, losses = {}, {}
    for done, (name, coefficients) in enumerate(points.items()):
        context.progress(done, len(points), "models", name)
        found = bench.score(coefficients, objectives)
        scores[name] = {axis: found[axis].value for axis in found}
        losses[name] = parent_loss(found)
    context.progress(len(points), len(points), "models")
    _warn(context, scores)
    context.results.put(Stage.PARENTS, {"scores": scores, "losses": losses})


def _warn(context: StageContext, scores: dict[str, dict[str, float]]) -> None:
    aligned = [name for name, model in context.request.models.items() if model.role is Role.ALIGNED]
    best = max(aligned, key=lambda name: scores[name]["refusal"])
    if scores[best]["refusal"] < ALIGNED:
        context.warning(
            f"no parent is aligned: the best, {best}, scores {scores[best]['refusal']:.2f} on refusal; "
            "a merge cannot be expected to refuse"
        )
