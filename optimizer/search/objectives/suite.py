"""All objectives of a data set, scored together: one list of batches, made once, run for every candidate."""

from collections.abc import Callable, Sequence
from typing import Protocol

from datagen.samples import DataSet, Split
from optimizer.errors import SearchError
from optimizer.search.batches import Item
from optimizer.search.objectives.base import AxisScores, Scores
from optimizer.search.objectives.likelihood import likelihoods
from optimizer.search.objectives.margin import margins
from optimizer.search.scoring import AnswerScore, Scorer


class Objective(Protocol):
    """One axis: what is to be scored, and what the scores of the answers mean."""

    @property
    def axis(self) -> str: ...

    @property
    def items(self) -> Sequence[Item]: ...

    def score(self, answers: Sequence[Sequence[AnswerScore]]) -> AxisScores:
        """From the scores of every item's answers."""

    def fault(self, answers: Sequence[Sequence[AnswerScore]]) -> str:
        """Why the candidate is broken; empty if it is not."""


#: what a suite is made of, in the order of its axes
OBJECTIVES: tuple[Callable[[DataSet, Split, Scorer], Sequence[Objective]], ...] = (margins, likelihoods)


class Objectives:
    """The axes "refusal", "compliance" and every domain of a data set, on one split."""

    def __init__(self, objectives: Sequence[Objective], scorer: Scorer) -> None:
        """
        Raises:
            SearchError: an axis without prompts, or a domain that is called like another axis.
        """
        self.axes = tuple(objective.axis for objective in objectives)
        empty = [objective.axis for objective in objectives if not objective.items]
        if empty or len(set(self.axes)) != len(self.axes):
            raise SearchError(
                f"axes {list(self.axes)}: {empty or 'nothing'} without prompts, expected every axis once with prompts",
                mend="generate more data, or rename a domain model that is called refusal or compliance",
            )
        self._objectives = tuple(objectives)
        self._scorer = scorer
        self._prepared = scorer.prepare([item for objective in objectives for item in objective.items])

    @classmethod
    def of(cls, dataset: DataSet, split: Split, scorer: Scorer) -> "Objectives":
        """Every objective in `OBJECTIVES`; tokenising and batching happen here and never again."""
        return cls([objective for build in OBJECTIVES for objective in build(dataset, split, scorer)], scorer)

    @property
    def tokens(self) -> int:
        """Tokens a candidate costs, padding included."""
        return sum(batch.input_ids.numel() for batch in self._prepared.batches)

    def score(self) -> Scores:
        """Scores of the weights that the scorer's model has now."""
        answers = iter(self._scorer.score(self._prepared))
        axes: dict[str, AxisScores] = {}
        faults: list[str] = []
        for objective in self._objectives:
            own = [next(answers) for _ in objective.items]
            axes[objective.axis] = objective.score(own)
            faults.append(objective.fault(own))
        return Scores(axes, "; ".join(filter(None, faults)))
