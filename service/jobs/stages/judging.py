"""Models and candidates that answer for real: the engine gets their weights, a judge reads the answers."""

from collections.abc import Mapping
from pathlib import Path

from datagen.judges.rules import RulesJudge
from datagen.pool import BASE
from datagen.samples import Sample
from optimizer.merging.recipe import Coefficients, recipe_to_json
from optimizer.search.evaluation import JudgedScores, judged
from service.jobs.context import StageContext
from service.jobs.folders import base_folder, model_folders
from service.jobs.stages.pool import JobPool


def judge_all(
    context: StageContext, pool: JobPool, points: Mapping[str, Coefficients], samples: list[Sample]
) -> dict[str, JudgedScores]:
    """Judge every point by name; parents are loaded from their folders, everything else is merged inside the engine.

    What has been judged is kept in a file: a killed stage goes on with the next point.
    """
    folders: dict[str, Path] = {BASE: base_folder(context.request), **model_folders(context.request)}
    found: dict[str, JudgedScores] = {}
    for number, (name, coefficients) in enumerate(points.items()):
        kept = context.folder / f"judged-{context.stage}-{name}.json"
        if kept.exists():
            found[name] = JudgedScores.model_validate_json(kept.read_text())
            continue
        engine = context.engine(folders[BASE])
        if name in folders:
            engine.load(folders[name])
        else:
            engine.call("load_recipe", recipe_to_json(pool.recipe(coefficients)))

        def progress(done: int, total: int, unit: str, _note: str, number: int = number, name: str = name) -> None:
            context.progress(number * total + done, len(points) * total, unit, name)

        found[name] = judged(engine, RulesJudge(), samples, context.request.data.max_tokens, progress)
        part = kept.with_suffix(".part")
        part.write_text(found[name].model_dump_json())
        part.replace(kept)
    return found
