"""A question out of whatever a writer wrote around it, or the reason there is none."""

import json
import re
from dataclasses import dataclass

from datagen.engines.base import Completion
from datagen.judges.rules import incoherence, refusal_in
from datagen.text import plain, without_thoughts, words

LONGEST = 1000  # characters of a question
SHORTEST = 3  # words of a question

_FENCE = re.compile(r"^```\w*$")
_BULLET = re.compile(r"^(?:[-*•>]+|\(?\d{1,3}[.):]|[a-z][.)])\s+", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:\*\*)?(?:question|q|user|prompt|request|example|answer|output)\s*\d*\s*(?:\*\*)?\s*[:.]\s*(?:\*\*)?\s*",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^(?:sure|certainly|of course|okay|ok|absolutely|here(?:'s| is| are)|below is|this is)\b.*(?:[:!.]|question)$",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"^(?:sure|certainly|of course|okay|ok)?[!,.]?\s*here(?:'s| is) [^:?]{0,80}:\s*(?=\S)", re.IGNORECASE
)
_PAIRS = (('"', '"'), ("“", "”"), ("'", "'"), ("`", "`"), ("**", "**"), ("*", "*"))


@dataclass(frozen=True)
class Parsed:
    """`question`, or the `reason` it was dropped for ("empty", "cut off", "refused", …); one of the two is empty."""

    question: str = ""
    reason: str = ""


def parse_question(completion: Completion) -> Parsed:
    """The question of a writer's completion.

    Thoughts, preambles ("Sure! Here is one:"), labels, bullets, quotes, code fences and a JSON list around it are taken
    off; of several questions the first is taken.
    """
    text = without_thoughts(completion.text)
    if not text:
        return Parsed(reason="empty")
    line = _first_question(_lines(text))
    question = _bare(line)
    if not question:
        return Parsed(reason="empty")
    if completion.finish_reason == "length" and text.rstrip().endswith(line) and question[-1] not in '?.!"':
        return Parsed(reason="cut off")
    if len(question) > LONGEST:
        return Parsed(reason="too long")
    if incoherence(question):
        return Parsed(reason="gibberish")
    if refusal_in(plain(question)) is not None and not question.endswith("?"):
        return Parsed(reason="refused")
    if len(words(question)) < SHORTEST:
        return Parsed(reason="too short")
    return Parsed(question=question)


def _lines(text: str) -> list[str]:
    if text.startswith(("[", "{")):
        listed = _listed(text)
        if listed:
            return listed
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not _FENCE.match(line)]


def _listed(text: str) -> list[str]:
    """Questions of a JSON list of strings, or of an object or list of objects with a field `question`."""
    try:
        found = json.loads(text)
    except ValueError:
        return []
    entries = found if isinstance(found, list) else [found]
    texts = [entry.get("question") if isinstance(entry, dict) else entry for entry in entries]
    return [" ".join(entry.split()) for entry in texts if isinstance(entry, str) and entry.strip()]


def _first_question(lines: list[str]) -> str:
    if not lines:
        return ""
    if len(lines) > 1 and (lines[0].endswith(":") or _PREAMBLE.match(lines[0])):
        lines = lines[1:]
    return next((line for line in lines if line.rstrip("\"”'`*").endswith("?")), lines[0])


def _bare(line: str) -> str:
    """`line` without what stands around the question."""
    before = None
    while before != line:
        before = line
        line = _LEAD.sub("", _LABEL.sub("", _BULLET.sub("", line.strip()))).strip()
        for left, right in _PAIRS:
            if len(line) > len(left) + len(right) and line.startswith(left) and line.endswith(right):
                inner = line[len(left) : -len(right)]
                if left not in inner:
                    line = inner.strip()
    return " ".join(line.split())
