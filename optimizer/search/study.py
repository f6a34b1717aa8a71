"""The search: warm starts, then a sampler's proposals, scored one by one, killed and resumed at will.

Order of writing for every trial: Optuna knows the parameters → the record is kept → Optuna knows the scores. A record
is the truth; wherever a kill falls, the next run brings Optuna up to the records, scores the trial that was proposed
but not recorded once more with the same parameters, and goes on.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import OperationalError

from optimizer.errors import SearchError
from optimizer.merging.recipe import Coefficients
from optimizer.search.front import scalarise
from optimizer.search.objectives.base import Scores
from optimizer.search.samplers import ORIGIN, RepeatableSampler, resolve, scalarised, trial_seed
from optimizer.search.settings import SearchSettings
from optimizer.search.space import Space
from optimizer.search.storage import claim, create_storage, opened, owner_of, set_parameters
from optimizer.search.trials import TrialLog, TrialRecord

__all__ = ["Crew", "StudyPlan", "TrialLog", "TrialRecord", "create_storage", "run_study"]

_FINGERPRINT = "temper:fingerprint"
_VALUES = "values"  # user attribute of a warm start: one number a dimension
_OPEN = (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE)
_PATIENCE_SECONDS = 120.0

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: called with (done, total, unit, note); may raise to stop the search, which can then be resumed
Progress = Callable[[int, int, str, str], None]


@dataclass(frozen=True)
class StudyPlan:
    """What to search.

    Attributes:
        name: of the study in the database; one a job.
        space: coefficients ↔ the sampler's dimensions.
        axes: every one is maximised, in this order.
        warm: (origin, coefficients) of the first trials; origins are unique. Those already there are left alone, so
            a second run may bring more.
    """

    name: str
    space: Space
    axes: tuple[str, ...]
    settings: SearchSettings
    warm: tuple[tuple[str, Coefficients], ...] = ()


def _nobody(worker: str) -> bool:
    return False


@dataclass(frozen=True)
class Crew:
    """Who works on a study.

    Attributes:
        worker: a name of our own, unique among the threads and processes that run at the same time.
        alive: whether another worker still runs; the open trials of one that does not are taken over. By default
            nobody else is.
    """

    worker: str = "local"
    alive: Callable[[str], bool] = field(default=_nobody)


class _TakenError(Exception):
    """The trial belongs to another worker."""


def run_study(
    storage_url: str,
    plan: StudyPlan,
    evaluate: Callable[[Coefficients], Scores],
    trials: TrialLog,
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> None:
    """Run or resume a study until `plan.settings.trials` trials are finished, by us or by others of the crew.

    Optuna's tables must exist (`create_storage`). Whatever `evaluate`, `trials` or `progress` raise ends the run; the
    trial in hand is scored again on the next one.

    Raises:
        SearchError: the study exists with another space or other axes, a warm start does not fit the space, or
            `evaluate` returns other axes than planned.
    """
    with opened(storage_url) as storage:
        _Search(storage, plan, trials, crew or Crew()).run(evaluate, progress or _silent)


def _silent(done: int, total: int, unit: str, note: str) -> None:
    pass


@dataclass(frozen=True)
class _Candidate:
    """A trial to score. `origin` is that of its warm start, `values` has one entry a dimension of the space."""

    number: int
    origin: str | None
    values: list[float]


class _Search:
    """One worker's run of one study."""

    def __init__(self, storage: RDBStorage, plan: StudyPlan, trials: TrialLog, crew: Crew) -> None:
        self._storage = storage
        self._plan = plan
        self._trials = trials
        self._crew = crew
        settings = plan.settings
        self._names = [dimension.name for dimension in plan.space.dimensions]
        self._distributions: dict[str, BaseDistribution] = {
            dimension.name: FloatDistribution(dimension.low, dimension.high) for dimension in plan.space.dimensions
        }
        self._sampler = resolve(settings.sampler, len(self._names), settings.trials)
        self._scalarised = scalarised(self._sampler, len(plan.axes))
        self._study = _patiently(self._open)

    def run(self, evaluate: Callable[[Coefficients], Scores], progress: Progress) -> None:
        total = self._plan.settings.trials
        _patiently(self._catch_up)
        _patiently(self._enqueue)
        progress(self._finished(), total, "trials", "")
        while (trial := _patiently(self._next)) is not None:
            record = self._score(trial, evaluate)
            self._trials.record(record)
            _patiently(partial(self._tell, record))
            progress(self._finished(), total, "trials", _headline(record))

    # -- opening ------------------------------------------------------------------------------------------------------

    def _open(self) -> optuna.Study:
        plan = self._plan
        study = optuna.create_study(
            storage=self._storage,
            study_name=plan.name,
            directions=["maximize"] * (1 if self._scalarised else len(plan.axes)),
            sampler=RepeatableSampler(self._sampler, self._distributions, plan.settings.seed, self._claim),
            load_if_exists=True,
        )
        wanted = {
            "axes": list(plan.axes),
            "objectives": "scalarised" if self._scalarised else "all axes",
            "space": {d.name: [d.low, d.high] for d in plan.space.dimensions},
        }
        found = study.user_attrs.get(_FINGERPRINT)
        if found is None:
            study.set_user_attr(_FINGERPRINT, wanted)
        elif found != wanted:
            raise SearchError(
                f"study {plan.name!r} was begun with another plan: {_difference(found, wanted)}",
                mend="give the search a new name (a new job), or go back to the plan it was begun with",
            )
        return study

    def _catch_up(self) -> None:
        """Bring Optuna up to the records: tell what it was not told, add what its tables lost."""
        records = self._trials.finished()
        known = {trial.number: trial for trial in self._study.get_trials(deepcopy=False)}
        for number in range(len(known), max(records, default=-1) + 1):
            self._study.add_trial(self._restored(records.get(number)))
        for number, record in records.items():
            if number in known and not known[number].state.is_finished():
                self._tell(record)

    def _restored(self, record: TrialRecord | None) -> FrozenTrial:
        if record is None or record.state == "failed":
            return create_trial(state=TrialState.FAIL)
        values = self._plan.space.values(record.coefficients)
        return create_trial(
            state=TrialState.COMPLETE,
            params=dict(zip(self._names, values, strict=True)),
            distributions=self._distributions,
            values=self._told(record),
            user_attrs={ORIGIN: record.origin} if record.origin in dict(self._plan.warm) else None,
        )

    def _enqueue(self) -> None:
        """Ask for the warm starts that are not there yet. Two workers may both do so: `_surplus` drops doubles."""
        there = {trial.user_attrs.get(ORIGIN) for trial in self._study.get_trials(deepcopy=False)}
        origins = [origin for origin, _ in self._plan.warm]
        if len(set(origins)) < len(origins):
            raise SearchError(f"warm starts {origins} share a name", mend="give every warm start an origin of its own")
        for origin, coefficients in self._plan.warm:
            if origin not in there:
                values = self._plan.space.values(coefficients)
                if not all(map(math.isfinite, values)):
                    raise SearchError(f"warm start {origin!r} has a coefficient that is no finite number")
                given = dict(zip(self._names, values, strict=True))
                self._study.enqueue_trial(given, user_attrs={ORIGIN: origin, _VALUES: values})

    # -- the next trial -----------------------------------------------------------------------------------------------

    def _next(self) -> _Candidate | None:
        """A trial of ours to score, with all its parameters: one left behind, else a new one; None at the end."""
        while True:
            try:
                trial = self._left_behind()
                if trial is None:
                    if self._budget_spent():
                        return None
                    trial = self._study.ask()
            except _TakenError:
                continue
            if self._surplus(trial):
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                continue
            return _Candidate(trial.number, trial.user_attrs.get(ORIGIN), self._proposed(trial))

    def _proposed(self, trial: Trial) -> list[float]:
        """Values of all dimensions: those in the database, the warm start's, or now drawn by the sampler."""
        stored = trial.params
        if len(stored) < len(self._names):
            given = trial.user_attrs.get(_VALUES)
            stored = dict(zip(self._names, given, strict=True)) if given else self._drawn(trial)
            set_parameters(self._storage, trial._trial_id, stored, self._distributions)
        return [stored[name] for name in self._names]

    def _drawn(self, trial: Trial) -> dict[str, float]:
        frozen = trial._get_latest_trial()
        together = trial.relative_params
        return {
            name: together[name]
            if name in together
            else self._study.sampler.sample_independent(self._study, frozen, name, distribution)
            for name, distribution in self._distributions.items()
        }

    def _left_behind(self) -> Trial | None:
        """A trial that was proposed and has no record, whose owner is gone (or was us, before a kill)."""
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._held(owner_of(frozen.user_attrs)):
                record = self._trials.finished().get(frozen.number)
                if record is None:
                    return Trial(self._study, frozen._trial_id)
                self._tell(record)
        return None

    def _claim(self, trial: FrozenTrial) -> None:
        """Called by the sampler before anything is drawn for a trial, new or left behind."""
        owner = owner_of(trial.user_attrs)
        if owner == self._crew.worker:
            return
        if self._held(owner) or not claim(self._storage, trial._trial_id, self._crew.worker, owner):
            raise _TakenError

    def _held(self, owner: str | None) -> bool:
        """Whether a trial is in the hands of another worker that still runs."""
        return owner is not None and owner != self._crew.worker and self._crew.alive(owner)

    def _budget_spent(self) -> bool:
        under_way = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE))
        return len(under_way) >= self._plan.settings.trials

    def _surplus(self, trial: Trial) -> bool:
        """Whether workers at the same time asked for a warm start twice, or for more trials than wanted."""
        earlier = [
            other for other in self._study.get_trials(deepcopy=False, states=_OPEN) if other.number < trial.number
        ]
        origin = trial.user_attrs.get(ORIGIN)
        repeated = origin is not None and any(other.user_attrs.get(ORIGIN) == origin for other in earlier)
        return repeated or len(earlier) >= self._plan.settings.trials

    # -- scoring ------------------------------------------------------------------------------------------------------

    def _score(self, trial: _Candidate, evaluate: Callable[[Coefficients], Scores]) -> TrialRecord:
        plan = self._plan
        coefficients = plan.space.coefficients(trial.values)
        created_at = datetime.now(UTC)
        start = time.perf_counter()
        scores = evaluate(coefficients)
        seconds = time.perf_counter() - start
        if set(scores) != set(plan.axes):
            raise SearchError(f"the objectives scored {sorted(scores)}, the search is over {sorted(plan.axes)}")
        note = scores.invalid
        broken = [axis for axis in plan.axes if not math.isfinite(scores[axis].value)]
        if broken and not note:
            note = f"no finite score on {', '.join(broken)}"
        return TrialRecord(
            number=trial.number,
            origin=trial.origin or self._sampler,
            coefficients=coefficients,
            scores={axis: 0.0 if axis in broken else float(scores[axis].value) for axis in plan.axes},
            prompt_scores={axis: list(scores[axis].prompts) for axis in plan.axes},
            seconds=seconds,
            seed=trial_seed(plan.settings.seed, trial.number),
            state="invalid" if note else "complete",
            worker=self._crew.worker,
            created_at=created_at,
            note=note,
        )

    def _told(self, record: TrialRecord) -> list[float]:
        """What the sampler hears: an invalid candidate is as bad as can be on every axis, so it is dominated."""
        values = [record.scores[axis] if record.state == "complete" else 0.0 for axis in self._plan.axes]
        return [scalarise(values)] if self._scalarised else values

    def _tell(self, record: TrialRecord) -> None:
        if record.state == "failed":
            self._study.tell(record.number, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self._study.tell(record.number, self._told(record), skip_if_finished=True)

    def _finished(self) -> int:
        done = _patiently(lambda: self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        return min(len(done), self._plan.settings.trials)


def _patiently(action: Callable[[], T]) -> T:
    """Repeat a piece of database work while the database is away (a restart, a fail-over), with growing pauses."""
    waited, pause = 0.0, 0.1
    while True:
        try:
            return action()
        except (optuna.exceptions.StorageInternalError, OperationalError) as error:
            if waited >= _PATIENCE_SECONDS:
                raise SearchError(
                    f"the database of the search did not answer for {waited:.0f} s ({_cause(error)})",
                    mend="bring the database back and resume the job; no finished trial is lost",
                ) from error
            logger.warning("database of the search is away (%s), trying again in %.1f s", _cause(error), pause)
            time.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 10.0)


def _cause(error: Exception) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0]


def _headline(record: TrialRecord) -> str:
    if record.state != "complete":
        return f"{record.origin}: {record.state} ({record.note})"
    return f"{record.origin}: " + ", ".join(f"{axis} {value:.2f}" for axis, value in record.scores.items())


def _difference(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """The first keys that differ, shortened: a space may have hundreds of dimensions."""
    parts = []
    for key in wanted:
        if found.get(key) != wanted[key]:
            ours, theirs = json.dumps(wanted[key]), json.dumps(found.get(key))
            parts.append(f"{key} was {theirs[:160]}, now is {ours[:160]}")
    return "; ".join(parts)
