"""Substrings that tell groups of tensors apart, as mergekit's filters do: the first that fits decides. No torch."""

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import TypeVar

from optimizer.errors import RecipeError

Kind = TypeVar("Kind", bound=Hashable)
#: a tensor's name, without its layer's number if it has one
Pattern = tuple[str, ...]

_NUMBERED = re.compile(r"(.*?\.)\d+(\..+)$")


def find_filters(kinds: Mapping[str, Kind]) -> list[tuple[str | None, Kind]]:
    """(filter, kind) in order, so that the first filter that is part of a tensor's name leads to its kind; the last is
    None, for all that is left. `kinds` is by tensor name and the same in all layers of a stack.

    Taken greedily: of all runs of a name's segments that fit tensors of one kind only, the one that fits all of that
    kind, else the one that fits the most.

    Raises:
        RecipeError: no such list exists.
    """
    left = {_pattern(name): kind for name, kind in kinds.items()}
    words = sorted({word for pattern in left for word in _words(pattern)}, key=_plainness)
    found: list[tuple[str | None, Kind]] = []
    while len(set(left.values())) > 1:
        counts = Counter(left.values())
        word, fits, best = "", list[Pattern](), (False, 0)
        for other in words:
            found_here = [pattern for pattern in left if any(other in part for part in pattern)]
            if len({left[pattern] for pattern in found_here}) != 1:
                continue
            score = (len(found_here) == counts[left[found_here[0]]], len(found_here))
            if score > best:
                word, fits, best = other, found_here, score
        if not fits:
            break
        found.append((word, left[fits[0]]))
        left = {pattern: kind for pattern, kind in left.items() if pattern not in fits}
    found += [(None, kind) for kind in dict.fromkeys(left.values())]
    for name, kind in kinds.items():
        if next(other for word, other in found if word is None or word in name) != kind:
            raise RecipeError(
                f"tensor {name}: no filter tells it from others with another coefficient",
                mend="keep the recipe in Temper's own format",
            )
    return found


def _plainness(word: str) -> tuple[int, int, str]:
    """Of words that fit the same tensors, the first is taken: a whole segment, and the one that says most."""
    return word.count("."), -len(word), word


def _pattern(name: str) -> Pattern:
    numbered = _NUMBERED.match(name)
    return (numbered[1], numbered[2]) if numbered else (name,)


def _words(pattern: Pattern) -> Iterator[str]:
    """Runs of segments, bare and with the dots around them."""
    for part in pattern:
        segments = part.split(".")
        for begin in range(len(segments)):
            for end in range(begin + 1, len(segments) + 1):
                run = ".".join(segments[begin:end])
                if run.strip("."):
                    yield run
                    if begin:
                        yield f".{run}"
                    if end < len(segments):
                        yield f"{run}."
                        if begin:
                            yield f".{run}."
