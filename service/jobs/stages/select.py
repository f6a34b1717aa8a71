"""select: the finalists generate on the selection split, are judged, and the job's rule picks one."""

from dataclasses import asdict

from datagen.samples import Split
from optimizer.search.finalists import finalists
from optimizer.search.front import choose
from service.jobs.context import StageContext
from service.jobs.schemas import Stage
from service.jobs.stages.judging import judge_all
from service.jobs.stages.pool import JobPool


def select(context: StageContext) -> None:
    pool = JobPool.of(context)
    request = context.request
    samples = list(pool.dataset().of(Split.SELECTION))
    cheap = context.results.get(Stage.PARENTS)["scores"]
    chosen = finalists(list(context.trials.finished().values()), request.search.finalists, request.select, cheap)
    references = {name: point for name, point in pool.known_points().items() if name in pool.models}
    candidates = {f"trial-{trial.number}": trial.coefficients for trial in chosen}
    found = judge_all(context, pool, references | candidates, samples)
    judged = [found[name].axes for name in candidates]
    context.trials.judge({trial.number: axes for trial, axes in zip(chosen, judged, strict=True)})
    choice = choose(judged, request.select, {name: found[name].axes for name in references})
    winner = chosen[choice.index].number
    context.choose(winner)
    (context.message if choice.feasible else context.warning)(f"trial {winner}: {choice.reason}")
    context.results.put(
        Stage.SELECT,
        {
            "winner": winner,
            "choice": asdict(choice),
            "finalists": {str(trial.number): axes for trial, axes in zip(chosen, judged, strict=True)},
        },
    )
