"""Which candidates are worth generating with: scores of the search only promise, and generation is dear."""

from collections.abc import Mapping, Sequence

from optimizer.search.front import choose, fronts, hypervolume, pareto_front, scalarise
from optimizer.search.settings import SelectSettings
from optimizer.search.trials import TrialRecord

_POOL = 48  # candidates among which variety is measured; a hypervolume each
_ALIKE = 1e-3  # candidates whose scores differ less on every axis answer alike


def finalists(
    trials: Sequence[TrialRecord],
    count: int,
    rule: SelectSettings,
    references: Mapping[str, Mapping[str, float]],
) -> list[TrialRecord]:
    """Up to `count` good and different candidates, the most promising first.

    First the select rule's own choice on the search's scores, then the best balanced one, then whichever adds most
    hypervolume above zero to those taken. Zero as the reference keeps one-sided candidates out: who refuses
    everything adds nothing. Axes are scaled by the best value reached, since likelihoods and shares have other ranges.

    Args:
        trials: records of one study; only complete ones are considered.
        references: model of the pool → its scores on the search's objectives, for constraints relative to a model.

    Raises:
        SearchError: no complete trial, or a rule with an unknown axis or model.
    """
    complete = sorted((trial for trial in trials if trial.state == "complete"), key=lambda trial: trial.number)
    first = choose([trial.scores for trial in complete], rule, references).index
    axes = list(complete[0].scores)
    best = {axis: max(trial.scores[axis] for trial in complete) or 1.0 for axis in axes}
    points = [tuple(max(trial.scores[axis] / best[axis], 0.0) for axis in axes) for trial in complete]
    taken = [first]
    candidates = _distinct([i for layer in fronts(points) for i in layer], points, [])
    while len(taken) < count:
        left = _distinct(candidates, points, taken)[:_POOL]
        if not left:
            break
        if len(taken) == 1:
            taken.append(max(left, key=lambda i: scalarise(points[i])))
        else:
            taken.append(max(left, key=lambda i: _added(points, taken, i)))
    return [complete[i] for i in taken]


def _added(points: Sequence[tuple[float, ...]], taken: Sequence[int], index: int) -> tuple[float, float]:
    """What a point adds to the volume under those taken; its balance decides between points that add nothing."""
    chosen = [points[i] for i in (*taken, index)]
    kept = [chosen[i] for i in pareto_front(chosen)]
    return hypervolume(kept, (0.0,) * len(points[index])), scalarise(points[index])


def _distinct(candidates: Sequence[int], points: Sequence[tuple[float, ...]], others: Sequence[int]) -> list[int]:
    """Candidates in order, without those that score like one before them or like one of `others`."""
    kept: list[int] = []
    for i in candidates:
        if not any(_alike(points[i], points[j]) for j in (*others, *kept)):
            kept.append(i)
    return kept


def _alike(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) < _ALIKE for a, b in zip(one, other, strict=True))
