"""What several readers of generated text need: thoughts removed, plain letters, words."""

import re
import unicodedata

_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*", re.DOTALL | re.IGNORECASE)
_LATE_CLOSE = re.compile(r".*</(think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"'})
_WORD = re.compile(r"\w+(?:'\w+)*")


def without_thoughts(text: str) -> str:
    """`text` without a reasoning model's blocks of thought, also one that the template opened or that never closed."""
    text = _THOUGHT.sub("", text)
    text = _LATE_CLOSE.sub("", text)
    return _OPEN_THOUGHT.sub("", text).strip()


def plain(text: str) -> str:
    """Lower case, compatibility forms unified, straight quotes, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold().split())


def words(text: str) -> list[str]:
    """The words of `text` in plain form, without punctuation."""
    return _WORD.findall(plain(text))
