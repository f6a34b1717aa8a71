"""export: the winner as a checkpoint folder, streamed, hashed, and published under its final name at once."""

import shutil

from optimizer.merging.merge import write_merge
from service.jobs.context import StageContext
from service.jobs.schemas import Stage
from service.jobs.stages.pool import JobPool


def export(context: StageContext) -> None:
    pool = JobPool.of(context)
    winner = context.trials.finished()[context.results.get(Stage.SELECT)["winner"]]
    folder = context.folder / "export"
    if folder.exists():  # whole, but not published before a kill; writing it again is cheaper than trusting it
        shutil.rmtree(folder)
    recipe = pool.recipe(winner.coefficients)
    write_merge(
        recipe, folder, context.request.export, card=context.read_document("README.md"), progress=context.progress
    )
    context.results.put(Stage.EXPORT, {"artifact": context.publish(folder)})
