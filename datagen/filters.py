"""Questions that are too alike: dropped where nearly the same, kept in one cluster where akin.

Likeness of two questions is the Jaccard index of their word trigrams. MinHash finds the candidates (so a set of 100,000
takes minutes), the exact index decides.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from datasketch import MinHash, MinHashLSH

from datagen.text import words

#: likeness from which a question is a near-duplicate of an earlier one and dropped: twenty words with one exchanged
NEAR_DUPLICATE = 0.7
#: likeness from which two questions share a cluster and so a split: ten words with one exchanged in the middle; a
#: common frame ("what is the best way to") is not enough
SAME_CLUSTER = 0.45

#: bands × rows of MinHash values; a pair of likeness s becomes a candidate with probability 1 − (1 − s^rows)^bands:
#: 0.9995 at 0.45, 0.08 at 0.1
_BANDS, _ROWS = 80, 3
_PERMUTATIONS = _BANDS * _ROWS


def shingles(text: str) -> frozenset[str]:
    """Word trigrams of `text` in plain form, the ends marked so that short questions have some too."""
    tokens = ["^", *words(text), "$"]
    return frozenset(" ".join(tokens[i : i + 3]) for i in range(max(1, len(tokens) - 2)))


def likeness(first: frozenset[str], second: frozenset[str]) -> float:
    """Jaccard index, 0 … 1."""
    return len(first & second) / (len(first | second) or 1)


class Neighbours:
    """Texts added so far, asked for those alike."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = MinHashLSH(params=(_BANDS, _ROWS), num_perm=_PERMUTATIONS)
        self._shingles: list[frozenset[str]] = []

    def alike(self, text: str) -> list[int]:
        """Numbers of the added texts whose likeness to `text` reaches the threshold, ascending."""
        own, sketch = _sketch(text)
        found = sorted(self._index.query(sketch))
        return [number for number in found if likeness(own, self._shingles[number]) >= self._threshold]

    def add(self, text: str) -> None:
        """Texts are numbered from 0 in the order in which they are added."""
        own, sketch = _sketch(text)
        self._index.insert(len(self._shingles), sketch)
        self._shingles.append(own)


@lru_cache(maxsize=16)  # a text is looked up, then added
def _sketch(text: str) -> tuple[frozenset[str], MinHash]:
    own = shingles(text)
    sketch = MinHash(num_perm=_PERMUTATIONS)
    sketch.update_batch([shingle.encode() for shingle in own])
    return own, sketch


class Gate:
    """Lets a question in once.

    Exact duplicates are turned away whichever kind they were written for, near-duplicates within one kind: a benign
    contrast may well be close to a harmful question.
    """

    def __init__(self, near_duplicate: float = NEAR_DUPLICATE) -> None:
        self._threshold = near_duplicate
        self._seen: set[str] = set()
        self._neighbours: dict[str, Neighbours] = {}

    def turn_away(self, kind: str, question: str, examples: Sequence[str] = ()) -> str | None:
        """Why `question` is dropped; None lets it in, and keeps out its like from then on.

        Args:
            examples: questions its writer was shown; a copy of one is an echo.
        """
        exact = " ".join(words(question))
        own = shingles(question)
        if any(likeness(own, shingles(example)) >= self._threshold for example in examples):
            return "echo"
        if exact in self._seen:
            return "duplicate"
        neighbours = self._neighbours.setdefault(kind, Neighbours(self._threshold))
        if neighbours.alike(question):
            return "near-duplicate"
        neighbours.add(question)
        self._seen.add(exact)
        return None


def clusters(texts: Sequence[str], threshold: float = SAME_CLUSTER) -> list[int]:
    """Cluster of every text: texts alike, and those alike to these, share one. Numbered by first appearance."""
    parent = list(range(len(texts)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for first, second in _pairs(texts, threshold):
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(number), len(numbers)) for number in range(len(texts))]


def _pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int]]:
    neighbours = Neighbours(threshold)
    for number, text in enumerate(texts):
        for other in neighbours.alike(text):
            yield number, other
        neighbours.add(text)
