"""Who proposes the next candidate: Optuna's samplers by name, made to repeat.

Every trial is proposed by a sampler seeded with (seed of the job, number of the trial) and fed from the database alone.
A search that was killed therefore goes on exactly as it would have without the kill, and workers never draw the same
random point twice.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optimizer.errors import SearchError

#: random trials before a model of the objective is trusted; finished warm starts count
_STARTUP = 10
_FULL_COVARIANCE = 200  # dimensions; beyond, CMA-ES learns the diagonal only: n² numbers are stored a generation
_POPULATION = 20  # Optuna's 50 would spend half of a usual budget on its first generation
_SIGMA = 1 / 6  # of the range, arXiv 2406.14563 (EvoMM)

#: user attribute of a trial that was given, not drawn: the name of its warm start
ORIGIN = "origin"

Space = dict[str, BaseDistribution]

# What Optuna 6 will drop (CMA-ES' x0 and sigma0) or calls experimental (QMC) is used knowingly: we ask for Optuna < 6.
for _announced in (optuna.exceptions.ExperimentalWarning, FutureWarning):
    warnings.filterwarnings("ignore", category=_announced, module=r"optuna\.|optimizer\.search\.samplers")


def resolve(sampler: str, dimensions: int, trials: int) -> str:
    """The sampler that `auto` stands for; any other name stands for itself.

    A Gaussian process finds most per trial, at half a second a trial in 60 dimensions; its cost grows with the cube of
    the trials. Evolution needs generations to pay off. TPE is the answer in between.
    """
    if sampler != "auto":
        return sampler
    if dimensions <= 100 and trials <= 150:
        return "gp"
    return "nsgaii" if trials >= 1000 else "tpe"


def scalarised(sampler: str, objectives: int) -> bool:
    """Whether the sampler sees one number, `front.scalarise`, in place of the axes.

    CMA-ES knows one objective only. The hypervolume improvement of a Gaussian process over three or more objectives
    takes seconds a trial (here, 24 dimensions and 4 objectives: over 8 s), more than scoring the candidate does.
    """
    return sampler == "cmaes" or (sampler == "gp" and objectives > 2)


def trial_seed(seed: int, number: int) -> int:
    """Seed of trial `number`, in 0 … 2³¹ − 1."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] & 0x7FFFFFFF)


class RepeatableSampler(BaseSampler):
    """One of Optuna's samplers, made anew for every trial, over a space that is known beforehand.

    Args:
        name: "tpe", "cmaes", "nsgaii", "gp", "random" or "qmc".
        space: parameter → distribution; the same for all trials.
        seed: of the job.
        on_trial: called with a trial before anything is drawn for it; may raise to give the trial up.

    Raises:
        SearchError: no sampler has this name.
    """

    def __init__(self, name: str, space: Space, seed: int, on_trial: Callable[[FrozenTrial], None]) -> None:
        if name not in _SAMPLERS:
            raise SearchError(f"sampler is {name!r}", mend="expected one of auto, " + ", ".join(_SAMPLERS))
        self._name = name
        self._space = space
        self._seed = seed
        self._on_trial = on_trial
        self._sampler: BaseSampler = optuna.samplers.RandomSampler(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._on_trial(trial)
        self._sampler = _SAMPLERS[self._name](study, self._space, self._seed, trial_seed(self._seed, trial.number))
        self._sampler.before_trial(study, trial)
        if isinstance(self._sampler, optuna.samplers.NSGAIISampler):
            # A warm start draws nothing, so nothing would put it into a generation: evolution would not know it.
            self._sampler.get_trial_generation(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return self._space

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        return dict(self._sampler.sample_relative(study, trial, search_space))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)


def _tpe(study: Study, space: Space, seed: int, own: int) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=own, n_startup_trials=_STARTUP)


def _gp(study: Study, space: Space, seed: int, own: int) -> BaseSampler:
    return optuna.samplers.GPSampler(
        seed=own, n_startup_trials=_STARTUP, deterministic_objective=True, warn_independent_sampling=False
    )


def _cmaes(study: Study, space: Space, seed: int, own: int) -> BaseSampler:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    warm = [trial for trial in done if ORIGIN in trial.user_attrs]
    best = max(warm, key=lambda trial: trial.values[0], default=None)  # where the first generation is drawn around
    return optuna.samplers.CmaEsSampler(
        x0=None if best is None else dict(best.params),
        sigma0=_SIGMA,  # Optuna scales every dimension to 0 … 1 first
        n_startup_trials=1,
        use_separable_cma=len(space) > _FULL_COVARIANCE,
        seed=own,
        warn_independent_sampling=False,
    )


def _nsgaii(study: Study, space: Space, seed: int, own: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=own)


def _random(study: Study, space: Space, seed: int, own: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=own)


def _qmc(study: Study, space: Space, seed: int, own: int) -> BaseSampler:
    # One sequence for the whole search: its scrambling has the job's seed, its position stands in the database.
    return optuna.samplers.QMCSampler(
        scramble=True, seed=seed, warn_independent_sampling=False, warn_asynchronous_seeding=False
    )


_SAMPLERS: Mapping[str, Callable[[Study, Space, int, int], BaseSampler]] = {
    "tpe": _tpe,
    "cmaes": _cmaes,
    "nsgaii": _nsgaii,
    "gp": _gp,
    "random": _random,
    "qmc": _qmc,
}
