"""Weights into a result: as a plain weighted sum, or after the models have elected a sign for every number.

The election is TIES (arXiv 2306.01708, section 4.2 and 4.3, with the weights of mergekit): the sign with the larger
mass of weighted task vectors wins, those of the other sign are left out.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimizer.merging.methods.affine import affine_sum, share_out, task_vectors
from optimizer.merging.methods.base import Block, Case, block_dtype
from optimizer.merging.methods.bits import INTEGERS
from optimizer.merging.methods.sparsify import Sparsity


class Shares(NamedTuple):
    """Of every model: the factor of its task vector, and of that the part which is not the model's own weight."""

    shares: tuple[float, ...]
    units: tuple[float, ...]


def share(case: Case, facts: Any) -> Shares:
    """`weigh` of the plain sum."""
    sparsity: Sparsity = facts
    scale = case.shared["lambda"]
    weights = zip(share_out(case), sparsity.scales, strict=True)
    return Shares(tuple(weight * factor for weight, factor in weights), tuple(scale * x for x in sparsity.scales))


def add_up(block: Block, case: Case, state: Any) -> Tensor:
    """θ_b + Σ_t share_t τ_t."""
    shares: Shares = state
    return affine_sum(block, shares.shares)


def slopes(block: Block, case: Case, state: Any) -> list[Tensor]:
    """∂θ/∂weight_t of `add_up`."""
    shares: Shares = state
    return [tau if unit == 1 else tau.mul_(unit) for tau, unit in zip(task_vectors(block), shares.units, strict=True)]


class Election(NamedTuple):
    """Of every model: the factor of its task vector as it votes, and its weight; and what the sum is scaled by."""

    votes: tuple[float, ...]
    weights: tuple[float, ...]
    scale: float
    normalize: bool


def call(case: Case, facts: Any) -> Election:
    """`weigh` of the election."""
    sparsity: Sparsity = facts
    weights = case.each["weight"]
    votes = tuple(weight * factor for weight, factor in zip(weights, sparsity.scales, strict=True))
    return Election(votes, weights, case.shared["lambda"], bool(case.shared["normalize"]))


def elect(block: Block, case: Case, state: Any) -> Tensor:
    """θ_b + λ Σ_{t agrees} w_t τ_t, with `normalize` over Σ_{t agrees} w_t.

    A model agrees where w_t τ_t has the sign of Σ_t w_t τ_t; a sum of 0 counts as positive, a number of 0 agrees with
    nobody. A model with all the weight is not voted about: the result is the affine sum, with its laws.
    """
    election: Election = state
    voters = [i for i, vote in enumerate(election.votes) if vote != 0]
    if len(voters) < 2:
        return affine_sum(block, alone(election))
    dtype = block_dtype(block)
    integer = INTEGERS[dtype]
    base = block.root.to(dtype)
    votes = [(block.models[i].to(dtype) - base).mul_(election.votes[i]) for i in voters]
    outcome = votes[0] + votes[1]
    for vote in votes[2:]:
        outcome += vote
    sign = outcome.view(integer).bitwise_and_(torch.iinfo(integer).min)
    total = torch.zeros_like(base)
    for vote in votes:
        vote.view(integer).bitwise_xor_(sign)  # those who agree are positive now
        total += vote.clamp_min_(0)
    if election.normalize:
        total /= _weight_of(votes, [election.weights[i] for i in voters])
    if election.scale != 1:
        total *= election.scale
    total.view(integer).bitwise_xor_(sign)
    return total.add_(base)


def alone(election: Election) -> list[float]:
    """The weights of the affine sum that is left where at most one model votes."""
    return [
        0.0 if vote == 0 else election.scale * (vote / weight if election.normalize else vote)
        for vote, weight in zip(election.votes, election.weights, strict=True)
    ]


def _weight_of(votes: list[Tensor], weights: list[float]) -> Tensor:
    """Σ w_t over the positive votes, 1 where there is none (or where they cancel out). Overwrites the votes."""
    total = torch.zeros_like(votes[0])
    for vote, weight in zip(votes, weights, strict=True):
        total.add_(vote.sign_(), alpha=weight)
    if min(weights) > 0:
        return total.clamp_min_(min(weights))  # what is divided is 0 where nobody agrees
    return total.masked_fill_(total == 0, 1)
