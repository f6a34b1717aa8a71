"""The seam between the data generator and whatever writes text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy.

    `seed` seeds the whole request list: request i is drawn with seed + i, so a list repeats whatever its batching.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One answer. `finish_reason` is "stop" or "length"; token counts are what cost accounting adds up."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


#: called with (requests finished, requests in all)
Progress = Callable[[int, int], None]


class Engine(Protocol):
    """Writes text with one model at a time; changing the model swaps weights, it does not start a new engine."""

    @property
    def name(self) -> str:
        """Name and version of the engine, for provenance ("vllm 0.32.0")."""

    def load(self, model: Path) -> None:
        """Answer with the checkpoint folder `model` from now on. Loading the model that is loaded costs nothing.

        Raises:
            EngineError: `model` does not have the architecture the engine was started with.
        """

    def chat(self, prompts: Sequence[str], sampling: Sampling, *, progress: Progress | None = None) -> list[Completion]:
        """Answer each prompt, a user message of its own conversation, in order."""

    def close(self) -> None:
        """Stop the engine and free its memory. Closing twice is fine."""
