"""data: questions, answers, verdicts, splits; a data set, made once per content."""

from datagen.judges.rules import RulesJudge
from datagen.pipeline import generate
from datagen.samples import Split
from datagen.storage import read_card
from service.jobs.context import StageContext
from service.jobs.folders import base_folder, data_pool, dataset_folder
from service.jobs.schemas import Stage


def make_data(context: StageContext) -> None:
    request = context.request
    folder = dataset_folder(request, context.settings)
    dataset = generate(
        data_pool(request),
        request.data,
        engine=context.engine(base_folder(request)),
        judge=RulesJudge(),
        folder=folder,
        progress=context.progress,
    )
    card = read_card(folder)
    for shortfall in card["shortfalls"]:
        context.warning(shortfall)
    counts = {split.value: len(dataset.of(split)) for split in Split}
    context.results.put(Stage.DATA, {"dataset": folder.name, "counts": counts})
    context.message(f"data set {folder.name[:12]}: " + ", ".join(f"{n} for {split}" for split, n in counts.items()))
