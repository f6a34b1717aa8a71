"""How likely the expert's own answers are: the axis of a domain."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from datagen.samples import DataSet, Kind, Split
from optimizer.search.batches import Item
from optimizer.search.objectives.base import AxisScores
from optimizer.search.scoring import AnswerScore, Scorer


@dataclass(frozen=True)
class Likelihood:
    """value = mean over prompts of exp(mean token log p of the answer), the end of turn included.

    That is the geometric mean probability of the answer's tokens: 1 where the candidate is certain of the expert's
    answer, 1 / vocabulary where it knows nothing. A prompt's score is the exponent, in nats a token: minus the
    answer-only cross-entropy of arXiv 2406.14563.
    """

    axis: str
    items: tuple[Item, ...]

    def score(self, answers: Sequence[Sequence[AnswerScore]]) -> AxisScores:
        """`answers[i]`: the one answer of prompt i."""
        means = tuple(answer.mean for (answer,) in answers)
        return AxisScores(math.fsum(math.exp(mean) for mean in means) / len(means), means, "nats/token")

    def fault(self, answers: Sequence[Sequence[AnswerScore]]) -> str:
        """Nothing: not to know a domain does not make a model a broken one."""
        return ""


def likelihoods(dataset: DataSet, split: Split, scorer: Scorer) -> list[Likelihood]:
    """One axis a domain of the data set, sorted by name."""
    return [
        Likelihood(
            domain,
            tuple(
                scorer.item(row.prompt, [scorer.conversation.answer(row.answer)])
                for row in dataset.of(split, Kind.DOMAIN, domain)
            ),
        )
        for domain in dataset.domains
    ]
