"""Where a search begins: points that people would try by hand. Imports no torch."""

import math
from collections.abc import Mapping

from optimizer.errors import SearchError
from optimizer.merging.recipe import Coefficients
from optimizer.search.objectives.base import Scores
from optimizer.search.space import Space


def warm_starts(
    space: Space, losses: Mapping[str, float] | None = None, *, temperature: float = 1.0
) -> list[tuple[str, Coefficients]]:
    """(origin, coefficients), the same λ in every group, clipped to the bounds, no point twice.

    - `model:NAME`: one expert alone, λ = 1
    - `uniform`: λ = 1/n each
    - `sum`: λ = 1 each, all task vectors added up
    - `lm_cocktail`: λ = softmax(−loss / T) (arXiv 2311.13534, as arXiv 2406.14563 uses it with T = 1), given `losses`

    Args:
        losses: model → its own loss on the data, see `parent_loss`.

    Raises:
        SearchError: `losses` lacks a model, or has one that is not finite.
    """
    models = space.models
    starts = {f"model:{model}": {model: 1.0} for model in models}
    starts["uniform"] = dict.fromkeys(models, 1 / len(models))
    if losses is not None:
        starts["lm_cocktail"] = cocktail({model: losses.get(model, math.nan) for model in models}, temperature)
    starts["sum"] = dict.fromkeys(models, 1.0)
    points: dict[tuple[float, ...], tuple[str, Coefficients]] = {}
    for origin, by_model in starts.items():
        values = space.values(Coefficients.constant(models, space.groups, by_model))
        points.setdefault(tuple(values), (origin, space.coefficients(values)))
    return list(points.values())


def cocktail(losses: Mapping[str, float], temperature: float = 1.0) -> dict[str, float]:
    """λ = softmax(−loss / temperature): positive, sum 1; equal losses give equal weights.

    Raises:
        SearchError: a loss is not finite, or the temperature not positive.
    """
    odd = {model: loss for model, loss in losses.items() if not math.isfinite(loss)}
    if odd or temperature <= 0:
        raise SearchError(
            f"losses {odd or dict(losses)} at temperature {temperature:g}, expected finite losses and one above 0",
            mend="score every model of the pool first",
        )
    least = min(losses.values())
    shares = {model: math.exp((least - loss) / temperature) for model, loss in losses.items()}
    total = math.fsum(shares.values())
    return {model: share / total for model, share in shares.items()}


def parent_loss(scores: Scores) -> float:
    """Loss of a model from its scores: the mean over axes of −log(value), at most 20 nats an axis.

    A value is a probability (of the right kind of opening, of the expert's tokens), so this is a cross-entropy.
    """
    return math.fsum(-math.log(max(axis.value, math.exp(-20.0))) for axis in scores.values()) / len(scores)
