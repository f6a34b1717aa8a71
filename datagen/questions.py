"""Writers asked for questions until every quota is full or their attempts are used up."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from datagen.engines.base import Completion, Sampling
from datagen.filters import Gate
from datagen.parsing import parse_question
from datagen.seeds import generator, seed_of
from datagen.tally import Tally

#: tokens a question may take
QUESTION_TOKENS = 160
_SURPLUS = 1.15  # more are asked for than wanted, so that one round usually does
_RATE = (1.05, 4.0)  # how many are asked for a missing one, after a round told how many survive
_FIRST_SHARE = 4  # the first round asks for a quarter where later ones show examples
_BARREN = 3  # rounds in a row without a new question after which a slot is given up


@dataclass(frozen=True)
class Question:
    """An accepted question and the seed that draws it again."""

    text: str
    seed: int


@dataclass
class Slot:
    """A quota to fill.

    Args:
        name: what the questions are for, in notes and seeds.
        kind: questions of one kind are compared with each other for near-duplicates.
        quota: questions wanted.
        request: what the writer is told, given in-context examples.
        examples: how many of its own earlier questions the writer is shown.
    """

    name: str
    kind: str
    quota: int
    request: Callable[[Sequence[str]], str]
    examples: int = 0
    accepted: list[Question] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    barren: int = 0

    def __post_init__(self) -> None:
        self.tally.wanted = self.quota

    def next_round(self, attempts: int) -> int:
        """How many requests to make now; 0 when full, given up or out of attempts."""
        missing = self.quota - len(self.accepted)
        room = attempts * self.quota - self.tally.generated
        if missing <= 0 or room <= 0 or self.barren >= _BARREN:
            return 0
        if not self.tally.generated:
            wanted = max(8, self.quota // _FIRST_SHARE) if self.examples else math.ceil(missing * _SURPLUS)
        else:
            survive = len(self.accepted) / self.tally.generated
            low, high = _RATE
            wanted = math.ceil(missing * min(max(1 / survive if survive else high, low), high))
        return min(wanted, room)


#: (prompts, sampling) → completions in order
Ask = Callable[[Sequence[str], Sampling], list[Completion]]


def fill(slots: Sequence[Slot], ask: Ask, gate: Gate, sampling: Sampling, attempts: int) -> None:
    """Fill every slot's quota as far as `attempts` × quota requests go; all slots share each round's requests.

    Every round is drawn with a seed of its own, made of `sampling.seed`; what it asks for follows from those before.
    """
    round_number = 0
    while True:
        asked = [slot for slot in slots for _ in range(slot.next_round(attempts))]
        if not asked:
            return
        seed = seed_of(sampling.seed, "round", round_number, *(slot.name for slot in slots))
        shown = [_examples(slot, seed, index) for index, slot in enumerate(asked)]
        prompts = [slot.request(examples) for slot, examples in zip(asked, shown, strict=True)]
        drawn = Sampling(sampling.max_tokens, sampling.temperature, sampling.top_p, seed)
        before = {id(slot): len(slot.accepted) for slot in slots}
        completions = ask(prompts, drawn)
        for index, (slot, completion) in enumerate(zip(asked, completions, strict=True)):
            _take(slot, completion, [prompts[index], *shown[index]], gate, seed + index)
        for slot in {id(slot): slot for slot in asked}.values():
            slot.barren = slot.barren + 1 if len(slot.accepted) == before[id(slot)] else 0
        round_number += 1


def _examples(slot: Slot, seed: int, index: int) -> list[str]:
    if not slot.examples or not slot.accepted:
        return []
    pool = [question.text for question in slot.accepted]
    return generator(seed, "examples", index).sample(pool, min(slot.examples, len(pool)))


def _take(slot: Slot, completion: Completion, shown: Sequence[str], gate: Gate, seed: int) -> None:
    parsed = parse_question(completion)
    if parsed.reason:
        slot.tally.drop(parsed.reason)
    elif len(slot.accepted) >= slot.quota:
        slot.tally.drop("surplus")
    elif reason := gate.turn_away(slot.kind, parsed.question, shown):
        slot.tally.drop(reason)
    else:
        slot.tally.keep()
        slot.accepted.append(Question(parsed.question, seed))


def shares(count: int, parts: int) -> list[int]:
    """`count` in `parts` whole shares that differ by one at most, the larger first."""
    return [count // parts + (index < count % parts) for index in range(parts)]
