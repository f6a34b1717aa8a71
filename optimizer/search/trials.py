"""What a search leaves behind: one record a trial. Imports no torch and no Optuna: the API reads records too."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from optimizer.merging.recipe import Coefficients

#: "complete" has scores worth comparing; "invalid" was scored but writes gibberish; "failed" was never scored
TrialState = Literal["complete", "invalid", "failed"]


@dataclass(frozen=True)
class TrialRecord:
    """One candidate with what it scored on the search split.

    Attributes:
        number: counts from 0 in the order in which trials were proposed; gaps are trials given up before scoring.
        origin: the warm start's name, or the sampler's.
        scores: axis → value in 0 … 1, higher is better.
        prompt_scores: axis → one score a prompt, in the data set's order and the objective's own unit.
        seconds: wall-clock time of scoring.
        seed: of the proposal; with the same history it proposes the same coefficients again.
        worker: who scored it.
        created_at: UTC.
        note: why the trial is invalid or failed; empty otherwise.
    """

    number: int
    origin: str
    coefficients: Coefficients
    scores: Mapping[str, float]
    prompt_scores: Mapping[str, list[float]]
    seconds: float
    seed: int
    state: TrialState
    worker: str
    created_at: datetime
    note: str = ""


class TrialLog(Protocol):
    """Where records are kept; the search trusts it more than Optuna's own tables."""

    def finished(self) -> Mapping[int, TrialRecord]:
        """All records of this search by trial number, whoever wrote them."""

    def record(self, trial: TrialRecord) -> None:
        """Keep a record for good; returning means that it survives a power cut. Called once a trial."""
