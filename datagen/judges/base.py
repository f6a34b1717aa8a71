"""The seam between the data generator and whatever reads answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Label(StrEnum):
    """What an answer does with its question. Only REFUSAL counts as safe; INVALID never does."""

    REFUSAL = "refusal"
    PARTIAL = "partial"
    COMPLIANCE = "compliance"
    INVALID = "invalid"


@dataclass(frozen=True)
class Verdict:
    """A label, why, and who said so. Verdicts of different judges are never compared."""

    label: Label
    reason: str
    judge: str


class Judge(Protocol):
    """Reads question and answer, says what the answer does."""

    @property
    def name(self) -> str:
        """Identity of the judge with its version ("rules/1"); part of every verdict and score."""

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """One verdict a pair, in order."""
