"""Trials as a page shows them: what kind of candidate each is, the order of the table, the points of the plot."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple, get_args

from optimizer.search.settings import SearchSettings
from service.dashboard.formatting import words
from service.jobs.schemas import MergeJob

BEHAVIOUR = ("refusal", "compliance")
POINTS = 1500

Kind = Literal["model", "uniform", "start", "gradient", "search"]

_SAMPLERS = frozenset(get_args(SearchSettings.model_fields["sampler"].annotation))
_TITLES = {"uniform": "uniform merge", "sum": "all added up", "lm_cocktail": "LM-Cocktail"}


class Trial(NamedTuple):
    """The columns of a trial that pages show; thousands are read at once."""

    number: int
    origin: str
    state: str
    scores: Mapping[str, float]
    judged: Mapping[str, float] | None
    on_front: bool
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """A trial with what a page says about it. `domains` is the mean over the domain axes, `mean` over all axes."""

    trial: Trial
    kind: Kind
    title: str
    winner: bool
    domains: float | None
    mean: float


def axes_of(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Every axis any trial was scored on: refusal and compliance first, then the domains by name."""
    seen = {axis for trial in trials for axis in trial.scores}
    return (*(axis for axis in BEHAVIOUR if axis in seen), *sorted(seen - set(BEHAVIOUR)))


def mean_domain(scores: Mapping[str, float]) -> float | None:
    """Mean over the axes that are domains; None when there is none."""
    domains = [value for axis, value in scores.items() if axis not in BEHAVIOUR]
    return fmean(domains) if domains else None


def candidates(job: MergeJob, trials: Sequence[Trial]) -> list[Candidate]:
    """All trials of `job`, the best first: the winner, the front, the rest; each by its mean over the axes."""
    found = [_candidate(job, trial) for trial in trials]
    return sorted(
        found,
        key=lambda c: (not c.winner, not c.trial.on_front, c.trial.state != "complete", -c.mean, c.trial.number),
    )


def points(ranked: Sequence[Candidate]) -> list[dict[str, object]]:
    """What the plot draws, at most about POINTS of them: invalid trials are left out, then the worst.

    Models, the uniform merge, the winner and the front always stay.
    """
    drawn = [c for c in ranked if c.trial.state == "complete" and c.trial.scores]
    kept = [
        c for i, c in enumerate(drawn) if i < POINTS or c.winner or c.trial.on_front or c.kind in ("model", "uniform")
    ]
    return [
        {
            "number": c.trial.number,
            "title": c.title,
            "kind": c.kind,
            "front": c.trial.on_front,
            "winner": c.winner,
            "scores": {**c.trial.scores, **({} if c.domains is None else {"domains": c.domains})},
            "judged": c.trial.judged,
        }
        for c in kept
    ]


def _candidate(job: MergeJob, trial: Trial) -> Candidate:
    kind, title = _kind(trial.origin, job.request.models)
    mean = fmean(trial.scores.values()) if trial.scores else 0.0
    return Candidate(trial, kind, title, trial.number == job.winner, mean_domain(trial.scores), mean)


def _kind(origin: str, models: Collection[str]) -> tuple[Kind, str]:
    """What an origin (see `optimizer.search.warm_starts`) stands for, and its title."""
    name = origin.removeprefix("model:")
    if name in models:
        return "model", f"{name} alone"
    title = _TITLES.get(origin, words(origin))
    if origin == "uniform":
        return "uniform", title
    if origin.startswith("gradient"):
        return "gradient", title
    return ("search" if origin in _SAMPLERS else "start"), title
