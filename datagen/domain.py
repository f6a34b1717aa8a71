"""Experts question themselves about their topics and answer."""

from collections.abc import Callable, Sequence

from datagen.engines.base import Sampling
from datagen.filters import Gate
from datagen.judges.base import Judge, Label
from datagen.pool import Member
from datagen.prompts import domain_question
from datagen.questions import QUESTION_TOKENS, Question, Slot, fill, shares
from datagen.requests import Requests, Writer
from datagen.seeds import seed_of
from datagen.settings import DataSettings
from datagen.text import without_thoughts


def write_questions(
    requests: Requests, writer: Writer, expert: Member, quota: int, settings: DataSettings, gate: Gate
) -> list[Slot]:
    """One slot a topic, filled by the expert itself; it is shown questions of its own that were accepted before."""
    topics = expert.topics or (expert.name,)
    slots = [
        Slot(f"{expert.name}/{topic}", f"domain/{expert.name}", share, _asking(topic), settings.domain.examples)
        for topic, share in zip(topics, shares(quota, len(topics)), strict=True)
        if share
    ]
    sampling = Sampling(
        min(QUESTION_TOKENS, settings.max_tokens),
        settings.temperature,
        seed=seed_of(settings.seed, "domain", expert.name),
    )
    note = f"{expert.name} writes questions"
    fill(slots, lambda prompts, drawn: requests.ask(writer, prompts, drawn, note), gate, sampling, settings.attempts)
    return slots


def _asking(topic: str) -> Callable[[Sequence[str]], str]:
    return lambda examples: domain_question(topic, examples)


def answer_questions(
    requests: Requests, judge: Judge, writer: Writer, slots: Sequence[Slot], max_tokens: int
) -> list[tuple[Question, str]]:
    """The expert's greedy answers; questions it refuses or answers with gibberish are dropped and counted."""
    asked = [(slot, question) for slot in slots for question in slot.accepted]
    texts = [question.text for _, question in asked]
    completions = requests.ask(writer, texts, Sampling(max_tokens), f"{writer.name} answers its questions")
    answers = [without_thoughts(completion.text) for completion in completions]
    kept = []
    for (slot, question), answer, verdict in zip(asked, answers, judge.judge(texts, answers), strict=True):
        if verdict.label is Label.INVALID:
            slot.tally.lose("incoherent answer" if answer else "empty answer")
        elif verdict.label is Label.REFUSAL:
            slot.tally.lose("expert refused")
        else:
            kept.append((question, answer))
    return kept
