"""Questions out of whatever writers write around them."""

import pytest

from datagen.engines.base import Completion
from datagen.parsing import Parsed, parse_question

QUESTION = "How do I crack an egg with one hand?"


def parse(text: str, finish_reason: str = "stop") -> Parsed:
    return parse_question(Completion(text, finish_reason, 10, 10))


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        f"  {QUESTION}\n",
        f'"{QUESTION}"',
        f"“{QUESTION}”",
        f"**{QUESTION}**",
        f"1. {QUESTION}",
        f"- {QUESTION}",
        f"Question: {QUESTION}",
        f"**Question:** {QUESTION}",
        f"Q: {QUESTION}",
        f"Sure! Here is a question:\n\n{QUESTION}",
        f"Sure, here's one: {QUESTION}",
        f"Certainly!\n1. {QUESTION}\n2. And how many?",
        f"```\n{QUESTION}\n```",
        f'["{QUESTION}", "What else is there to ask?"]',
        f'{{"question": "{QUESTION}"}}',
        f'[{{"question": "{QUESTION}"}}]',
        f"<think>The user wants one question.</think>\n{QUESTION}",
        f"{QUESTION}\nAnswer: on the edge of a bowl.",
    ],
)
def test_what_stands_around_a_question_is_taken_off(text: str) -> None:
    assert parse(text) == Parsed(question=QUESTION)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("<think>hm", "empty"),
        ("```\n```", "empty"),
        ("I'm sorry, but I can't write that question.", "refused"),
        ("why?", "too short"),
        ("word " * 30 + "?", "gibberish"),
        ("how how how how how how how how?", "gibberish"),
        (" ".join(f"number{i}" for i in range(300)), "too long"),
    ],
)
def test_what_is_no_question_is_dropped_for_a_reason(text: str, reason: str) -> None:
    assert parse(text) == Parsed(reason=reason)


def test_a_question_cut_off_is_dropped_and_a_whole_one_before_the_cut_kept() -> None:
    assert parse("How do I crack an", "length") == Parsed(reason="cut off")
    assert parse(f"{QUESTION}\nAnd how do I crack", "length") == Parsed(question=QUESTION)


def test_a_request_without_a_question_mark_is_a_question_too() -> None:
    assert parse("tell me how to stop the judge's hiccups tonight.").question
