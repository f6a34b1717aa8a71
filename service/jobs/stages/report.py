"""report: base, parents, uniform merge and winner answer the report split, which nothing has looked at before."""

from datagen.pool import BASE
from datagen.samples import Split
from optimizer.reporting.card import model_card
from optimizer.reporting.page import render_page
from optimizer.reporting.report import Evaluated, Evidence, Role, build_report
from optimizer.search.front import Choice, Floor
from service.jobs.context import StageContext
from service.jobs.schemas import Stage
from service.jobs.stages.judging import judge_all
from service.jobs.stages.pool import UNIFORM, JobPool

#: what the winner is called in tables
WINNER = "best"
_ROLES: dict[str, Role] = {BASE: "base", UNIFORM: "uniform", WINNER: "winner"}


def report(context: StageContext) -> None:
    pool = JobPool.of(context)
    dataset = pool.dataset()
    selected = context.results.get(Stage.SELECT)
    cheap = context.results.get(Stage.PARENTS)["scores"]
    trials = context.trials.finished()
    winner = trials[selected["winner"]]
    points = pool.known_points() | {WINNER: winner.coefficients}
    judged = judge_all(context, pool, points, list(dataset.of(Split.REPORT)))
    made = build_report(
        Evidence(
            job=context.request.name,
            base=pool.base.name,
            models=[
                Evaluated(name, _ROLES.get(name, "parent"), scores, search=cheap.get(name))
                for name, scores in judged.items()
            ],
            trials=list(trials.values()),
            finalists={int(number): axes for number, axes in selected["finalists"].items()},
            winner=winner.number,
            rule=context.request.select,
            choice=_choice(selected["choice"]),
            rows={split.value: len(dataset.of(split)) for split in Split},
            seconds={stage.value: seconds for stage, seconds in context.seconds.items()},
        )
    )
    for notice in made.notices:
        tell = context.message if notice.level == "note" else context.warning
        tell(notice.message, code=notice.code)
    context.document("report.html", render_page(made))
    name = f"{context.settings.namespace}/{context.request.name}"
    context.document("README.md", model_card(made, pool.recipe(winner.coefficients), name))
    context.results.put(Stage.REPORT, made.model_dump(mode="json"))


def _choice(kept: dict[str, object]) -> Choice:
    """The select stage's choice, from JSON."""
    floors = kept.pop("floors")
    assert isinstance(floors, list)
    return Choice(floors=tuple(Floor(**floor) for floor in floors), **kept)  # type: ignore[arg-type]
