"""The arithmetic family that drops numbers: what stays × how the rest is combined × how the loss is made up for."""

from typing import Any

from optimizer.merging.methods.affine import INT8_MASK, LAMBDA, WEIGHT
from optimizer.merging.methods.base import Method, Parameter
from optimizer.merging.methods.consensus import Shares, add_up, call, elect, share, slopes
from optimizer.merging.methods.sparsify import (
    Rule,
    check_probabilities,
    drop_at_random,
    drop_by_rank,
    preparing,
    sparsify,
    trim,
    trim_with_outliers,
)

DENSITY = Parameter("density", 1.0, per_model=True, low=0, high=1, meaning="share of the numbers that stay")
GAMMA = Parameter("gamma", 0.01, per_model=True, low=0, high=1, meaning="share of the largest numbers, dropped too")
EPSILON = Parameter("epsilon", 0.15, per_model=True, low=0, high=0.5, meaning="how far probabilities are from density")
BY_PROBABILITY = Parameter(
    "rescale_by_probability",
    0.0,
    boolean=True,
    meaning="rescale divides by the probability to stay, as in the paper, instead of keeping the L1 norm, as mergekit",
)


def _shares(state: Any) -> tuple[float, ...]:
    found: Shares = state
    return found.shares


def _row(
    name: str, source: str, rule: Rule, own: tuple[Parameter, ...] = (), *, votes: bool, normalize: bool, rescale: bool
) -> Method:
    """`votes`: a sign is elected; `normalize` and `rescale`: defaults of the parameters."""
    parameters = (
        WEIGHT,
        DENSITY,
        *own,
        Parameter("normalize", float(normalize), boolean=True, meaning="divide by the weights that went in"),
        Parameter("rescale", float(rescale), boolean=True, meaning="make up for what is dropped"),
        LAMBDA,
        INT8_MASK,
    )
    shared = [parameter.name for parameter in (DENSITY, *own)]
    return Method(
        name,
        source,
        parameters,
        elect if votes else add_up,
        prepare=preparing(rule),
        depends=(*shared, "rescale"),
        sparsify=sparsify,
        weigh=call if votes else share,
        slopes=None if votes else slopes,
        shares=None if votes else _shares,
        check=check_probabilities if EPSILON in own else None,
    )


TIES, DARE, DELLA, CRUMBS = "arXiv 2306.01708", "arXiv 2311.03099", "arXiv 2406.11617", "arXiv 2312.06795"
AT_RANDOM, BY_RANK = (BY_PROBABILITY,), (EPSILON, BY_PROBABILITY)

ROWS = (
    _row("ties", TIES, trim, votes=True, normalize=True, rescale=False),
    _row("dare_linear", DARE, drop_at_random, AT_RANDOM, votes=False, normalize=False, rescale=True),
    _row("dare_ties", f"{DARE}, {TIES}", drop_at_random, AT_RANDOM, votes=True, normalize=False, rescale=True),
    _row("della", f"{DELLA}, {TIES}", drop_by_rank, BY_RANK, votes=True, normalize=True, rescale=True),
    _row("della_linear", DELLA, drop_by_rank, BY_RANK, votes=False, normalize=False, rescale=True),
    _row("breadcrumbs", CRUMBS, trim_with_outliers, (GAMMA,), votes=False, normalize=False, rescale=False),
    _row(
        "breadcrumbs_ties",
        f"{CRUMBS}, {TIES}",
        trim_with_outliers,
        (GAMMA,),
        votes=True,
        normalize=False,
        rescale=False,
    ),
)
