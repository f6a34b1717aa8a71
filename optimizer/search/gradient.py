"""Descent on all coefficients at once.

For a merge that is linear in λ, ∂L/∂λ_{t,g} = Σ_{θ in g} ⟨∂L/∂θ, τ_t⟩: one backward pass gives the gradient of every
coefficient, whatever their number (`ResidentMerge.collect_gradient`). The loss is the answer-only cross-entropy of
arXiv 2406.14563 on what the merge should say: kept refusals, helpful answers, the experts' answers.
"""

import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from datagen.samples import DataSet, Kind, Split
from optimizer.errors import SearchError
from optimizer.merging.recipe import Coefficients
from optimizer.merging.resident import ResidentMerge
from optimizer.search.batches import Batches, Item
from optimizer.search.scoring import Scorer
from optimizer.search.settings import GradientSettings
from optimizer.search.space import Space

#: called with (done, total, unit, note); may raise to stop the descent, which can then be resumed
Progress = Callable[[int, int, str, str], None]

#: steps between two looks at the SELECTION split
LOOK_EVERY = 5
#: looks in a row that gain less than `GAIN` on the best loss, after which the descent ends
PATIENCE = 4
GAIN = 0.01
#: at most this many SELECTION rows of an axis are looked at
LOOK_ROWS = 128
#: pull towards the start, a share of the learning rate (decoupled weight decay)
PULL = 0.02
#: the learning rate falls linearly to this share of itself
LAST_RATE = 0.1
_BETAS = (0.9, 0.99)
_EPSILON = 1e-8


@dataclass(frozen=True)
class DescentPlan:
    """What to descend on.

    Attributes:
        start: where from; the nearest point of `space` is taken.
        weights: axis → weight of its mean loss; axes that are not named weigh 1.
        seed: of the minibatches.
        others: further starts to choose from; whichever has the least loss on the SELECTION split is taken.
    """

    space: Space
    start: Coefficients
    settings: GradientSettings
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    others: tuple[Coefficients, ...] = ()


@dataclass
class _State:
    """Everything the next step depends on; one JSON file, so floats come back bit for bit."""

    problem: str
    start: list[float]
    values: list[float]
    first: list[float]
    second: list[float]
    best: list[float]
    best_loss: float = math.inf
    step: int = 0
    stale: int = 0
    losses: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def save(self, file: Path) -> None:
        part = file.with_name(file.name + ".part")
        with part.open("w") as stream:
            json.dump(asdict(self), stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)


def descend(
    resident: ResidentMerge,
    scorer: Scorer,
    dataset: DataSet,
    plan: DescentPlan,
    state_file: Path,
    progress: Progress | None = None,
) -> Coefficients:
    """Adam on the values of `plan.space`, projected on its bounds.

    Minibatches are drawn from the SEARCH split, seeded by step; every `LOOK_EVERY` steps the loss is taken on the
    SELECTION split, and the best point seen there, the start included, is returned. The state is written before every
    step: killed anywhere and called again, the descent goes on and ends where it would have ended.

    `resident` must hold the model that `scorer` scores; its weights are left at the last point that was tried.

    Raises:
        SearchError: an axis has no rows in a split, `plan.weights` names no axis, or `state_file` is of another
            descent.
    """
    return _Descent(resident, scorer, dataset, plan).run(state_file, progress or _silent)


def axis_rows(dataset: DataSet, split: Split, scorer: Scorer) -> dict[str, list[Item]]:
    """Every axis with its questions and the one answer worth imitating of each, complete with its end of turn."""
    rows = {
        "refusal": dataset.of(split, Kind.HARMFUL),
        "compliance": dataset.of(split, Kind.BENIGN),
        **{domain: dataset.of(split, Kind.DOMAIN, domain) for domain in dataset.domains},
    }
    empty = [axis for axis, own in rows.items() if not own]
    if empty:
        raise SearchError(
            f"no rows of {', '.join(empty)} in the {split} split, expected some of every axis",
            mend="generate more data",
        )
    answer = scorer.conversation.answer
    return {axis: [scorer.item(row.prompt, [answer(row.answer)]) for row in own] for axis, own in rows.items()}


class Loss:
    """Σ_axes w_a · mean over rows of the mean token cross-entropy of the answer, in nats a token.

    Laid out once for one list of rows; evaluated on the weights the model has.
    """

    def __init__(self, rows: Mapping[str, Sequence[Item]], weights: Mapping[str, float], scorer: Scorer) -> None:
        self._scorer = scorer
        self._axes = tuple(rows)
        self._prepared: Batches = scorer.prepare([item for own in rows.values() for item in own])
        axis_of = [a for a, own in enumerate(rows.values()) for _ in own]
        size = torch.tensor([len(own) for own in rows.values()], device=scorer.device)
        weight = torch.tensor([weights.get(axis, 1.0) for axis in rows], dtype=torch.float64, device=scorer.device)
        self._axis_of = torch.tensor(axis_of, device=scorer.device)
        #: [answers]: what a token of the answer contributes to its axis' mean
        self._share = 1 / (size[self._axis_of].double() * self._prepared.lengths)
        self._weight = weight

    def backward(self) -> float:
        """Add the gradient to the model's parameters, batch by batch; returns the loss."""
        total = 0.0
        for batch in self._prepared.batches:
            by_axis = self._by_axis(self._scorer.token_log_p(batch), batch.owners)
            loss = by_axis @ self._weight
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    @torch.no_grad()
    def value(self) -> tuple[float, dict[str, float]]:
        """The loss, and that of every axis without its weight."""
        by_axis = torch.zeros(len(self._axes), dtype=torch.float64, device=self._scorer.device)
        for batch in self._prepared.batches:
            by_axis += self._by_axis(self._scorer.token_log_p(batch), batch.owners)
        return float(by_axis @ self._weight), dict(zip(self._axes, by_axis.tolist(), strict=True))

    def _by_axis(self, log_p: Tensor, owners: Tensor) -> Tensor:
        """The batch's part of every axis' mean loss [axes], float64."""
        zeros = torch.zeros(len(self._axes), dtype=torch.float64, device=log_p.device)
        return zeros.index_add(0, self._axis_of[owners], -log_p.double() * self._share[owners])


class _Descent:
    def __init__(self, resident: ResidentMerge, scorer: Scorer, dataset: DataSet, plan: DescentPlan) -> None:
        self._resident, self._scorer, self._plan = resident, scorer, plan
        self._rows = axis_rows(dataset, Split.SEARCH, scorer)
        strangers = set(plan.weights) - set(self._rows)
        if strangers:
            raise SearchError(
                f"weights of {', '.join(sorted(strangers))}", mend="expected names among " + ", ".join(self._rows)
            )
        look = {axis: own[:LOOK_ROWS] for axis, own in axis_rows(dataset, Split.SELECTION, scorer).items()}
        self._look = Loss(look, plan.weights, scorer)
        self._starts = [plan.space.values(start) for start in (plan.start, *plan.others)]
        self._problem = self._digest(look)

    def run(self, state_file: Path, progress: Progress) -> Coefficients:
        steps = self._plan.settings.steps
        state = self._resume(state_file)
        while True:
            if state.step % LOOK_EVERY == 0 or state.step == steps:
                self._judge(state)
            state.save(state_file)
            progress(state.step, steps, "steps", self._note(state))
            if state.step >= steps or state.stale >= PATIENCE:
                break
            self._advance(state)
        progress(steps, steps, "steps", self._note(state))
        return self._plan.space.coefficients(state.best)

    def _resume(self, state_file: Path) -> _State:
        if not state_file.exists():
            start = self._best_start()
            zeros = [0.0] * len(start)
            return _State(self._problem, start, list(start), zeros, list(zeros), list(start))
        state = _State(**json.loads(state_file.read_text()))
        if state.problem != self._problem:
            raise SearchError(
                f"{state_file.name} is the state of another descent (other data, start, space, settings or seed)",
                mend=f"remove {state_file} to start over",
            )
        return state

    def _best_start(self) -> list[float]:
        """Of the starts the one with the least loss on the SELECTION split, the first of equals."""
        if len(self._starts) == 1:
            return self._starts[0]
        losses = []
        for start in self._starts:
            self._apply(start)
            loss, _ = self._look.value()
            losses.append(loss if math.isfinite(loss) else math.inf)
        return self._starts[losses.index(min(losses))]

    def _judge(self, state: _State) -> None:
        """Look at the SELECTION split once a step; a state read back after its look is not judged twice."""
        if state.losses and state.losses[-1][0] == state.step:
            return
        self._apply(state.values)
        loss, by_axis = self._look.value()
        state.losses.append((state.step, by_axis))
        state.stale = 0 if loss < state.best_loss * (1 - GAIN) else state.stale + 1
        if loss < state.best_loss:
            state.best, state.best_loss = list(state.values), loss

    def _advance(self, state: _State) -> None:
        """One step of Adam (Kingma and Ba, arXiv 1412.6980) with a decoupled pull to the start."""
        self._apply(state.values)
        loss = Loss(self._minibatch(state.step), self._plan.weights, self._scorer)
        with self._resident.collect_gradient() as collected:
            loss.backward()
        gradient = self._plan.space.pull_back(collected.tolist())
        if not all(map(math.isfinite, gradient)):
            raise SearchError(
                f"the gradient at step {state.step} is not finite", mend="lower search.gradient.learning_rate"
            )
        settings = self._plan.settings
        state.step += 1
        rate = settings.learning_rate * (1 - (1 - LAST_RATE) * (state.step - 1) / settings.steps)
        moved = []
        for d, slope in enumerate(gradient):
            state.first[d] += (1 - _BETAS[0]) * (slope - state.first[d])
            state.second[d] += (1 - _BETAS[1]) * (slope * slope - state.second[d])
            first = state.first[d] / (1 - _BETAS[0] ** state.step)
            second = state.second[d] / (1 - _BETAS[1] ** state.step)
            pull = PULL * (state.values[d] - state.start[d])
            moved.append(state.values[d] - rate * (first / (math.sqrt(second) + _EPSILON) + pull))
        state.values = self._plan.space.clip(moved)

    def _minibatch(self, step: int) -> dict[str, list[Item]]:
        draw = random.Random(f"{self._plan.seed}:{step}")
        size = self._plan.settings.batch
        return {axis: draw.sample(own, min(size, len(own))) for axis, own in self._rows.items()}

    def _apply(self, values: Sequence[float]) -> None:
        self._resident.apply(self._plan.space.coefficients(values))

    def _note(self, state: _State) -> str:
        return f"loss {sum(state.losses[-1][1].values()):.3f} nats/token on {len(self._rows)} axes"

    def _digest(self, look: Mapping[str, Sequence[Item]]) -> str:
        """Of all that a resumed descent must share with the one that was interrupted."""
        plan = self._plan
        parts = (plan.space, self._starts, plan.settings, sorted(plan.weights.items()), plan.seed, self._rows, look)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def _silent(done: int, total: int, unit: str, note: str) -> None:
    pass
