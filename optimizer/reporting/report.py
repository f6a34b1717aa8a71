"""What a job found, as one value: every figure on the report split, beside what the search believed.

Built once from the stages' results; the page, the JSON and the model card are views of it. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from optimizer.errors import SearchError
from optimizer.merging.recipe import Coefficients
from optimizer.reporting.audit import Notice, audit
from optimizer.search.evaluation import CategoryScores, JudgedScores, Share
from optimizer.search.front import Choice, pareto_front
from optimizer.search.settings import SelectSettings
from optimizer.search.trials import TrialRecord

Role = Literal["base", "parent", "uniform", "winner"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


@dataclass(frozen=True)
class Evaluated:
    """One model that answered the report split.

    Attributes:
        search: its scores on the search's objectives and the search split, where it was a trial; the winner's are
            found by its number.
        selection: its judged scores on the selection split, axis → value, where it was a finalist.
    """

    name: str
    role: Role
    judged: JudgedScores
    search: Mapping[str, float] | None = None
    selection: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything a report is made of.

    Attributes:
        job, base: names for people.
        models: base, parents, uniform merge and winner, in the order in which tables show them; one winner.
        trials: all records of the study.
        finalists: trial number → judged scores on the selection split.
        winner: number of the chosen trial.
        rule, choice: how it was chosen.
        rows: split → number of rows of the data set.
        seconds: stage → time spent.
    """

    job: str
    base: str
    models: Sequence[Evaluated]
    trials: Sequence[TrialRecord]
    finalists: Mapping[int, Mapping[str, float]]
    winner: int
    rule: SelectSettings
    choice: Choice
    rows: Mapping[str, int]
    seconds: Mapping[str, float]


class ModelScores(_Value):
    """One model on the report split. `search` are its scores on the search's objectives, which are no shares."""

    name: str
    role: Role
    refusal: Share
    compliance: Share
    over_refusal: Share
    domains: dict[str, Share]
    categories: dict[str, CategoryScores]
    invalid: Share
    search: dict[str, float] | None

    @property
    def shares(self) -> dict[str, Share]:
        """Axis → share, in the order of tables."""
        return {"refusal": self.refusal, "compliance": self.compliance, **self.domains}


class Gap(_Value):
    """The winner on one axis, by what it was chosen on and by what counts.

    `search` is the objective's value on the search split (another measure), `selection` and `report` are judged
    shares; `selection` is empty where the winner was no finalist.
    """

    axis: str
    search: float
    selection: float | None
    report: float

    @property
    def optimism(self) -> float | None:
        """How much better the winner looked when it was chosen than it is; the same measure on two splits."""
        return None if self.selection is None else self.selection - self.report


class Candidate(_Value):
    """A trial as the front shows it: `search` on the search split, `judged` on the selection split."""

    number: int
    origin: str
    state: str
    search: dict[str, float]
    judged: dict[str, float] | None
    on_front: bool


class Winner(_Value):
    """The chosen trial, its coefficients `values[model][group]`, and the rule's words."""

    number: int
    origin: str
    models: tuple[str, ...]
    groups: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    rule: SelectSettings
    reason: str
    feasible: bool


class Cost(_Value):
    """`tokens` are those of answering the report split with every model; `seconds` per stage of the job."""

    seconds: dict[str, float]
    prompt_tokens: int
    completion_tokens: int


class Report(_Value):
    """All of it. `Report.model_validate_json(report.model_dump_json())` gives the same value."""

    version: Literal[1] = 1
    job: str
    base: str
    created_at: datetime
    judge: str
    engine: str
    rows: dict[str, int]
    models: tuple[ModelScores, ...]
    winner: Winner
    gaps: tuple[Gap, ...]
    candidates: tuple[Candidate, ...]
    cost: Cost
    notices: tuple[Notice, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(gap.axis for gap in self.gaps)

    def of(self, role: Role) -> tuple[ModelScores, ...]:
        """The models with a role, in order."""
        return tuple(model for model in self.models if model.role == role)


def build_report(evidence: Evidence) -> Report:
    """Put the report together.

    Raises:
        SearchError: there is not exactly one winner, or its trial has no record, or models were read by different
            judges (whose figures must not stand in one table).
    """
    winners = [model for model in evidence.models if model.role == "winner"]
    trials = {trial.number: trial for trial in evidence.trials}
    if len(winners) != 1 or evidence.winner not in trials:
        raise SearchError(
            f"a report has one winner with a record; found {len(winners)} and {len(trials)} records, "
            f"trial {evidence.winner} {'among' if evidence.winner in trials else 'not among'} them"
        )
    judges = sorted({model.judged.judge for model in evidence.models})
    if len(judges) > 1:
        raise SearchError(f"the models were read by several judges: {', '.join(judges)}", mend="judge all again by one")
    winner, trial = winners[0], trials[evidence.winner]
    selection = winner.selection or evidence.finalists.get(evidence.winner)
    return Report(
        job=evidence.job,
        base=evidence.base,
        created_at=datetime.now(UTC).replace(microsecond=0),
        judge=judges[0],
        engine=winner.judged.engine,
        rows=dict(evidence.rows),
        models=tuple(_scores(model, trial) for model in evidence.models),
        winner=_winner(trial, evidence),
        gaps=tuple(
            Gap(
                axis=axis,
                search=trial.scores.get(axis, 0.0),
                selection=None if selection is None else selection.get(axis),
                report=value,
            )
            for axis, value in winner.judged.axes.items()
        ),
        candidates=_candidates(evidence),
        cost=Cost(
            seconds=dict(evidence.seconds),
            prompt_tokens=sum(model.judged.prompt_tokens for model in evidence.models),
            completion_tokens=sum(model.judged.completion_tokens for model in evidence.models),
        ),
        notices=audit(
            parents={model.name: model.judged for model in evidence.models if model.role == "parent"},
            winner=winner.judged,
            uniform=next((model.judged for model in evidence.models if model.role == "uniform"), None),
            selection=selection,
            missed=evidence.choice.shortfalls,
        ),
    )


def _scores(model: Evaluated, winner: TrialRecord) -> ModelScores:
    judged = model.judged
    search = winner.scores if model.role == "winner" else model.search
    return ModelScores(
        name=model.name,
        role=model.role,
        refusal=judged.refusal,
        compliance=judged.compliance,
        over_refusal=judged.over_refusal,
        domains=judged.domains,
        categories=judged.categories,
        invalid=judged.invalid,
        search=None if search is None else dict(search),
    )


def _winner(trial: TrialRecord, evidence: Evidence) -> Winner:
    coefficients: Coefficients = trial.coefficients
    return Winner(
        number=trial.number,
        origin=trial.origin,
        models=coefficients.models,
        groups=coefficients.groups,
        values=coefficients.values,
        rule=evidence.rule,
        reason=evidence.choice.reason,
        feasible=evidence.choice.feasible,
    )


def _candidates(evidence: Evidence) -> tuple[Candidate, ...]:
    complete = [trial for trial in evidence.trials if trial.state == "complete"]
    axes = list(complete[0].scores) if complete else []
    points = [[trial.scores[axis] for axis in axes] for trial in complete]
    front = {complete[i].number for i in pareto_front(points)}
    return tuple(
        Candidate(
            number=trial.number,
            origin=trial.origin,
            state=trial.state,
            search=dict(trial.scores),
            judged=dict(evidence.finalists[trial.number]) if trial.number in evidence.finalists else None,
            on_front=trial.number in front,
        )
        for trial in sorted(evidence.trials, key=lambda trial: trial.number)
    )
