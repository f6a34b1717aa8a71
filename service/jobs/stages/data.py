"""data: questions, answers, verdicts, splits; a data set, made once per content."""

from collections import Counter

from datagen.judges.rules import RulesJudge
from datagen.pipeline import generate
from datagen.samples import DataSet, Kind, Split
from datagen.storage import read_card
from service.jobs.context import StageContext
from service.jobs.folders import base_folder, data_pool, dataset_folder
from service.jobs.schemas import Stage

#: share of the questions asked for below which a shortfall is worth a warning
ENOUGH = 0.9


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
    _tell_shortfalls(context, dataset, read_card(folder)["shortfalls"])
    counts = {split.value: len(dataset.of(split)) for split in Split}
    context.results.put(Stage.DATA, {"dataset": folder.name, "counts": counts})
    context.message(f"data set {folder.name[:12]}: " + ", ".join(f"{n} for {split}" for split, n in counts.items()))


def _tell_shortfalls(context: StageContext, dataset: DataSet, shortfalls: list[str]) -> None:
    """A few questions less are news; many less are a warning."""
    data = context.request.data
    wanted = {Kind.HARMFUL: data.safety.count, Kind.BENIGN: data.safety.count, Kind.DOMAIN: data.domain.count}
    kept = Counter(sample.kind for sample in dataset.samples)
    tell = context.message if all(kept[kind] >= ENOUGH * count for kind, count in wanted.items()) else context.warning
    for shortfall in shortfalls:
        tell(shortfall)
