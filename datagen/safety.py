"""Harmful questions with the pool's refusals, benign contrasts with helpful answers.

Answers to harmful questions are read for their verdict as soon as a batch is there; only a refusal's text goes further.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from datagen.engines.base import Completion, Sampling
from datagen.judges.base import Judge, Label
from datagen.prompts import benign_question, harmful_question
from datagen.questions import Question, Slot, shares
from datagen.requests import Requests, Writer
from datagen.samples import Kind
from datagen.seeds import generator
from datagen.taxonomy import Category, Taxonomy
from datagen.text import without_thoughts

#: tokens of an answer to a harmful question: enough for a refusal, and nobody needs more of anything else
REFUSAL_TOKENS = 128
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


@dataclass(frozen=True)
class Asked:
    """A safety question on its way through the pool."""

    question: Question
    kind: Kind
    category: str

    @property
    def missed(self) -> str:
        """Why it is dropped when no model gave the answer wanted."""
        return "nobody refused" if self.kind is Kind.HARMFUL else "nobody helped"


@dataclass
class Answers:
    """What the pool made of the safety questions: per question the candidates (model, text), per model the verdicts."""

    candidates: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    verdicts: dict[str, dict[Kind, Counter[str]]] = field(default_factory=dict)


def slots(taxonomy: Taxonomy, count: int) -> list[tuple[Category, Kind, Slot]]:
    """Quotas of harmful questions and of benign contrasts for every open category, `count` of each kind in all."""
    made = []
    for category, quota in zip(taxonomy.open, shares(count, len(taxonomy.open)), strict=True):
        for kind, request in ((Kind.HARMFUL, harmful_question), (Kind.BENIGN, benign_question)):
            slot = Slot(f"{kind}/{category.id}", kind, quota, _asking(request, category))
            made.append((category, kind, slot))
    return [entry for entry in made if entry[2].quota]


def _asking(request: Callable[[Category], str], category: Category) -> Callable[[Sequence[str]], str]:
    text = request(category)
    return lambda _: text


def answer(
    requests: Requests, judge: Judge, writer: Writer, asked: Sequence[Asked], max_tokens: int, answers: Answers
) -> None:
    """Let one model answer every safety question greedily; judge what it said, note what is worth keeping."""
    for kind, wanted, longest in (
        (Kind.HARMFUL, Label.REFUSAL, min(REFUSAL_TOKENS, max_tokens)),
        (Kind.BENIGN, Label.COMPLIANCE, max_tokens),
    ):
        texts = [entry.question.text for entry in asked if entry.kind is kind]
        records = requests.ask_and_reduce(
            writer,
            texts,
            Sampling(longest),
            f"{writer.name} answers {kind} questions",
            reduction=f"{judge.name} keeps {wanted}",
            reduce=_keeping(judge, wanted),
        )
        counts = answers.verdicts.setdefault(writer.name, {}).setdefault(kind, Counter())
        for text, record in zip(texts, records, strict=True):
            counts[record["label"]] += 1
            if record["text"]:
                answers.candidates.setdefault(text, []).append((writer.name, record["text"]))


def _keeping(judge: Judge, wanted: Label) -> Callable[[Sequence[str], Sequence[Completion]], list[dict[str, Any]]]:
    """Verdicts of a batch, with the text of those answers alone that have the label wanted."""

    def reduce(questions: Sequence[str], completions: Sequence[Completion]) -> list[dict[str, Any]]:
        verdicts = judge.judge(questions, [completion.text for completion in completions])
        return [
            {"label": verdict.label.value, "text": _tidy(completion) if verdict.label is wanted else ""}
            for verdict, completion in zip(verdicts, completions, strict=True)
        ]

    return reduce


def _tidy(completion: Completion) -> str:
    """The answer without thoughts; one that was cut off ends with its last whole sentence, where it has one."""
    text = without_thoughts(completion.text)
    if completion.finish_reason != "length":
        return text
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def choose(asked: Asked, answers: Answers, preferred: Sequence[frozenset[str]], seed: int) -> tuple[str, str] | None:
    """The answer kept for a question, as (model, text); None where no model gave one.

    A refusal is drawn from all models that refused. A helpful answer is drawn from the first group of `preferred` that
    gave any: whoever was trained to assist comes before experts of something else.
    """
    candidates = answers.candidates.get(asked.question.text, [])
    if asked.kind is Kind.BENIGN:
        ranked = ([entry for entry in candidates if entry[0] in group] for group in preferred)
        candidates = next((group for group in ranked if group), candidates)
    if not candidates:
        return None
    return generator(seed, "keep", asked.kind, asked.question.text).choice(candidates)
