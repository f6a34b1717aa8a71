"""How refusals and helpful answers begin, learnt from the data. Token ids in, token ids out; imports no torch.

An opening stands for the event "the answer starts like this". Common openings must not carry a question's topic, so
they are beginnings that many answers share, not the first tokens of single answers: of "sure, here is how to bake …"
and "sure, here is how to pick …" the opening is "sure, here is how to".
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datagen.samples import DataSet, Kind, Split
from optimizer.errors import SearchError
from optimizer.search.conversation import Conversation

Tokens = tuple[int, ...]

#: longest opening, in tokens
LENGTH = 8
#: most openings of a side that all prompts share
COUNT = 3
#: an opening is common when this share of the answers (and at least two) begin with it
SUPPORT = 0.1
#: share of the answers that the data's own openings must account for, or generic ones are added
COVERAGE = 0.8

#: what instruction-tuned models commonly say, after the data's own openings
GENERIC_REFUSALS = ("I can't", "I cannot", "I'm sorry", "Sorry")
GENERIC_COMPLIANCES = ("Sure", "Here", "To")


@dataclass(frozen=True)
class Openings:
    """Beginnings of refusals and of compliances. No opening begins with another one, of either side.

    The events are therefore disjoint: their probabilities add up to that of refusing, and of complying.
    """

    refusals: tuple[Tokens, ...]
    compliances: tuple[Tokens, ...]

    @classmethod
    def of(cls, dataset: DataSet, conversation: Conversation) -> "Openings":
        """The openings of the SEARCH split's kept refusals and benign answers, completed by generic ones.

        Raises:
            SearchError: one side has no opening that tells it from the other.
        """
        refusing, complying = (
            [conversation.opening(row.answer) for row in dataset.of(Split.SEARCH, kind)]
            for kind in (Kind.HARMFUL, Kind.BENIGN)
        )
        refusals = side(refusing, complying, [conversation.opening(text) for text in GENERIC_REFUSALS])
        compliances = side(complying, refusing, [conversation.opening(text) for text in GENERIC_COMPLIANCES])
        openings = cls(tuple(_apart(refusals, compliances)), tuple(_apart(compliances, refusals)))
        if not openings.refusals or not openings.compliances:
            raise SearchError(
                "the kept refusals and the benign answers of the search split begin alike: "
                f"{[conversation.text(o) for o in refusals]} and {[conversation.text(o) for o in compliances]}",
                mend="look at the data set: benign answers that refuse, or refusals that do not, were kept",
            )
        return openings

    def refusals_with(self, answer: Tokens) -> tuple[Tokens, ...]:
        """`refusals`, and the beginning of this prompt's own kept refusal unless they cover it."""
        return (*self.refusals, *self._own(answer))

    def compliances_with(self, answer: Tokens) -> tuple[Tokens, ...]:
        """`compliances`, and the beginning of this prompt's own helpful answer unless they cover it.

        A benign question's answer mostly opens with its topic, which no common opening can foresee.
        """
        return (*self.compliances, *self._own(answer))

    def _own(self, answer: Tokens) -> Iterable[Tokens]:
        own = answer[:LENGTH]
        if own and not any(_nested(own, opening) for opening in (*self.refusals, *self.compliances)):
            yield own


def side(answers: Sequence[Tokens], others: Sequence[Tokens], generic: Sequence[Tokens]) -> list[Tokens]:
    """At most `COUNT` openings: the most common of `answers`, then `generic` ones where those leave many uncovered.

    An opening that is common among the `others`, the answers of the other side, tells nothing and is left out ("I" of
    "I cannot" and "I can").
    """
    chosen = [opening for opening in common(answers) if _begin(others, opening) < _need(others)][:COUNT]
    covered = sum(_begin(answers, opening) for opening in chosen)
    if not answers or covered < COVERAGE * len(answers):
        for opening in generic:
            if len(chosen) < COUNT and opening and not any(_nested(opening, other) for other in chosen):
                chosen.append(opening)
    return chosen


def common(answers: Sequence[Tokens]) -> list[Tokens]:
    """Beginnings that enough answers share, the most common first; none begins with another.

    Every answer votes for its longest beginning (of at most `LENGTH` tokens) that `SUPPORT` of the answers share; a
    beginning is kept when as many vote for it. Of two that are nested the shorter stays, for it is both.
    """
    need = _need(answers)
    beginnings = Counter(answer[:n] for answer in answers for n in range(1, min(len(answer), LENGTH) + 1))
    votes: Counter[Tokens] = Counter()
    for answer in answers:
        shared = [n for n in range(1, min(len(answer), LENGTH) + 1) if beginnings[answer[:n]] >= need]
        if shared:
            votes[answer[: shared[-1]]] += 1
    kept: list[Tokens] = []
    for opening in sorted((o for o, count in votes.items() if count >= need), key=len):
        if not any(_nested(opening, other) for other in kept):
            kept.append(opening)
    return sorted(kept, key=lambda o: (-beginnings[o], o))


def _need(answers: Sequence[Tokens]) -> int:
    """How many of the answers make a beginning common."""
    return max(2, math.ceil(SUPPORT * len(answers)))


def _begin(answers: Sequence[Tokens], opening: Tokens) -> int:
    return sum(answer[: len(opening)] == opening for answer in answers)


def _apart(own: Sequence[Tokens], other: Sequence[Tokens]) -> list[Tokens]:
    """The openings of `own` that no opening of the other side begins with."""
    return [opening for opening in own if not _begin(other, opening)]


def _nested(a: Tokens, b: Tokens) -> bool:
    """Whether one of the two begins with the other."""
    n = min(len(a), len(b))
    return a[:n] == b[:n]
