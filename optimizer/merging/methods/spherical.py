"""Interpolation on a sphere: slerp, nuslerp, multislerp, the Karcher mean.

All four are weighted sums of their vectors; the shares follow from the vectors' dot products (see `gram`). The vectors
themselves are summed, not their directions, so that the result's length lies between theirs.
"""

import math
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from optimizer.errors import RecipeError
from optimizer.merging.methods.base import Base, Block, Case, Look, Method, Parameter, block_dtype
from optimizer.merging.methods.gram import (
    cosines,
    gram,
    gram_by_column,
    gram_by_row,
    lengths,
    models_of,
    moves_of,
    shares_of_rows,
    sum_by_place,
    sum_of_moves,
    weighted_sum,
    with_base,
)

#: |cos| above which slerp is a straight line
STRAIGHT = 0.9995
#: sin² up to which float32 cannot tell two directions apart
SAME = 2.0**-24
#: length of a mean direction, relative to the weights, up to which it is rounding error in float32
CANCELLED = 1e-7


def arc_shares(cosine: Tensor, t: float, straight: Tensor) -> Tensor:
    """Shares of the two ends of an arc at t: sin((1−t)Ω)/sin Ω and sin(tΩ)/sin Ω; 1−t and t where `straight`.

    `cosine` and `straight` are [n], the result is [2, n]: exactly (1, 0) at t = 0 and (0, 1) at t = 1.
    """
    angle = torch.where(straight, 0.0, cosine).acos()
    sine = angle.sin()
    return torch.stack(
        [
            torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine),
            torch.where(straight, t, (t * angle).sin() / sine),
        ]
    )


def _slerp_facts(case: Case) -> Generator[Look, list[Any], Tensor]:
    return gram(case, with_base)


def _slerp_shares(case: Case, facts: Tensor) -> tuple[float, ...]:
    norms = lengths(facts)
    norms = torch.where(norms <= 1e-8, 1.0, norms)
    cosine = cosines(facts, norms)[0, 1]
    return tuple(arc_shares(cosine, case.shared["t"], cosine.abs() > STRAIGHT)[:, 0].tolist())


def _slerp(block: Block, case: Case, state: tuple[float, ...]) -> Tensor:
    return weighted_sum(block, (block.root, *block.models), state)


def _nuslerp_facts(case: Case) -> Generator[Look, list[Any], Tensor]:
    if case.shared["nuslerp_flatten"] or len(case.shape) < 2:
        return gram(case, moves_of)
    return (gram_by_column if case.shared["nuslerp_row_wise"] else gram_by_row)(case, moves_of)


def _nuslerp_shares(case: Case, facts: Tensor) -> tuple[float, ...] | Tensor:
    """[2, rows, 1 or columns], or two numbers where all vectors have the same shares."""
    first, second = case.each["weight"]
    total = first + second
    t = 0.5 if abs(total) < 1e-6 else second / total
    cosine = cosines(facts, lengths(facts).clamp(min=1e-7))[0, 1]
    shares = arc_shares(cosine, t, 1 - cosine.square() <= SAME)
    if bool((shares == shares[:, :1]).all()):
        return tuple(shares[:, 0].tolist())
    return shares.reshape(2, -1, case.shape[-1] if case.shared["nuslerp_row_wise"] else 1)


def _nuslerp(block: Block, case: Case, state: tuple[float, ...] | Tensor) -> Tensor:
    if not isinstance(state, Tensor):
        return sum_of_moves(block, state)
    dtype = block_dtype(block)
    shares = shares_of_rows(state, block, dtype)
    first, second = models_of(block)
    total = sum_by_place(first, second, shares)
    return total if block.base is None else total + block.base.to(dtype) * (1 - (shares[0] + shares[1]))


def _multislerp_facts(case: Case) -> Generator[Look, list[Any], Tensor]:
    return gram(case, moves_of)


def _multislerp_shares(case: Case, facts: Tensor) -> tuple[float, ...]:
    """(Σ w_i ‖x_i‖) · Σ w_i u_i / ‖Σ w_i u_i‖ with u_i = x_i / ‖x_i‖, as shares of the x_i.

    The step from the mean direction in its tangent space is Σ w_i (u_i − ⟨u_i, m⟩ m) = 0, as m is the direction of
    Σ w_i u_i; what is left of it is cos(eps), the length that mergekit guards its division with. Where the directions
    cancel each other out there is none to follow: the result is Σ w_i x_i.
    """
    eps = case.shared["eps"]
    weight = torch.tensor(case.each["weight"], dtype=torch.float64)
    if len(case.models) == 1:
        return (1.0,)
    if case.shared["normalize_weights"]:
        if abs(float(weight.sum())) < 1e-12:
            raise RecipeError(
                f"tensor {case.tensor}: multislerp weights {case.each['weight']} found, expected a sum other than 0",
                mend="change the weights, or set normalize_weights: false",
            )
        weight = weight / weight.sum()
    norms = lengths(facts)[:, 0]
    if not norms.any():
        return tuple(weight.tolist())
    share = weight / (norms + eps)
    mean = float((share @ facts[..., 0] @ share).clamp(min=0).sqrt())
    if mean < max(eps, CANCELLED * float(weight.abs().sum())):
        return tuple(weight.tolist())
    return tuple((share * (weight @ norms) / mean * math.cos(eps)).tolist())


def _multislerp(block: Block, case: Case, state: tuple[float, ...]) -> Tensor:
    return sum_of_moves(block, state)


def _karcher_facts(case: Case) -> Generator[Look, list[Any], Tensor]:
    return gram(case, models_of)


def _karcher_shares(case: Case, facts: Tensor) -> tuple[float, ...]:
    """Shares of the models in their mean direction, times the mean of their lengths.

    Models no longer than `tol` have no direction; they count in the mean length alone.
    """
    norms = lengths(facts)[:, 0]
    if len(case.models) == 1:
        return (1.0,)
    tol = case.shared["tol"]
    valid = [i for i, norm in enumerate(norms.tolist()) if not norm <= tol]
    shares = torch.zeros(len(case.models), dtype=torch.float64)
    if valid:
        cosine = cosines(facts, torch.where(norms == 0, 1.0, norms).unsqueeze(-1))[..., 0]
        mean = karcher_mean(cosine[valid][:, valid], int(case.shared["max_iter"]), tol)
        shares[valid] = mean / norms[valid] * (norms.sum() / len(case.models))
    return tuple(shares.tolist())


def karcher_mean(cosine: Tensor, max_iter: int, tol: float) -> Tensor:
    """The point of the unit sphere with the least sum of squared angles to unit vectors u_i, as shares of these: [n].

    Fixed-point iteration m ← exp_m(mean of log_m(u_i)) (Karcher 1977, "Riemannian center of mass and mollifier
    smoothing", DOI 10.1002/cpa.3160300502), with log_m(u) = Ω/sin Ω · (u − cos Ω · m) and exp_m(v) = cos‖v‖ m +
    sin‖v‖ v/‖v‖, from the direction of Σ u_i, until the step is shorter than `tol`. A vector opposite to m has no
    unique logarithm and is passed over.

    Args:
        cosine: ⟨u_i, u_j⟩, [n, n], float64.
    """

    def length(shares: Tensor) -> float:
        return float((shares @ cosine @ shares).clamp(min=0).sqrt())

    count = cosine.shape[0]
    mean = torch.full((count,), 1 / count, dtype=torch.float64)
    if length(mean) < max(tol, CANCELLED):
        mean = torch.zeros(count, dtype=torch.float64)
        mean[0] = 1.0
    mean = mean / length(mean)
    for _ in range(max_iter):
        toward = (cosine @ mean).clamp(-1, 1)
        angle = toward.acos()
        passed = (angle < tol) | ((toward < 0) & (1 - toward.square() <= SAME))
        pull = torch.where(passed, 0.0, angle / angle.sin()) / count
        step = pull - (pull @ toward) * mean
        size = length(step)
        if size < tol:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * step
        mean = mean / length(mean)
    return mean


def _karcher(block: Block, case: Case, state: tuple[float, ...]) -> Tensor:
    return weighted_sum(block, block.models, state)


WEIGHT = Parameter("weight", per_model=True, low=-100, high=100, meaning="the model's share of the arc")

ROWS = (
    Method(
        "slerp",
        "Shoemake 1985, Animating rotation with quaternion curves, DOI 10.1145/325165.325242",
        (Parameter("t", low=0, high=1, meaning="where on the arc: 0 is the base, 1 the model"),),
        _slerp,
        models=(1, 1),
        prepare=_slerp_facts,
        weigh=_slerp_shares,
        coefficient="t",
        affine=True,
    ),
    Method(
        "nuslerp",
        "slerp at t = w_2 / (w_1 + w_2), of the task vectors where there is a base",
        (
            WEIGHT,
            Parameter("nuslerp_flatten", 1.0, boolean=True, meaning="the tensor is one vector"),
            Parameter(
                "nuslerp_row_wise",
                0.0,
                boolean=True,
                meaning="not flattened, the vectors lie along the first axis, else along the last",
            ),
        ),
        _nuslerp,
        models=(2, 2),
        base=Base.OPTIONAL,
        prepare=_nuslerp_facts,
        depends=("nuslerp_flatten", "nuslerp_row_wise"),
        weigh=_nuslerp_shares,
        affine=True,
    ),
    Method(
        "multislerp",
        "the direction of Σ w_i x_i/‖x_i‖ with the length Σ w_i ‖x_i‖, of the task vectors where there is a base",
        (
            WEIGHT,
            Parameter("normalize_weights", 1.0, boolean=True, meaning="divide the weights by their sum"),
            Parameter("eps", 1e-8, low=0, high=1, meaning="added to lengths that divide"),
        ),
        _multislerp,
        base=Base.OPTIONAL,
        prepare=_multislerp_facts,
        weigh=_multislerp_shares,
        affine=True,
    ),
    Method(
        "karcher",
        "Karcher 1977, DOI 10.1002/cpa.3160300502: the mean on the sphere of directions, with the mean length",
        (
            Parameter("max_iter", 10.0, low=0, high=10_000, meaning="most steps of the iteration"),
            Parameter("tol", 1e-5, low=0, high=1, meaning="a shorter step ends the iteration"),
        ),
        _karcher,
        base=Base.UNUSED,
        prepare=_karcher_facts,
        weigh=_karcher_shares,
        affine=True,
    ),
)
