"""Requests to the engine, each batch answered once and kept: killed at any point, a run asks only for what is missing.

A batch is a file named by what decides its answers: model, engine, sampling, prompts. It appears under its name only
when it is whole.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datagen.engines.base import Completion, Engine, Sampling

#: requests sent together; what a kill loses at most
BATCH = 512

#: called with (done, total, unit, note); may raise to cancel
Progress = Callable[[int, int, str, str], None]


@dataclass(frozen=True)
class Writer:
    """A model as a source of text: who it is, where its folder is and exactly which content it has."""

    name: str
    path: Path
    revision: str
    template: str


@dataclass
class Cost:
    """What the batches cost when they were generated, in whichever run that was."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Requests:
    """Asks the engine, or the batches under `folder` where they hold the answers already.

    Args:
        expected: about how many requests the whole run makes, for progress.
    """

    def __init__(self, folder: Path, engine: Engine, progress: Progress, expected: int) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._engine = engine
        self._progress = progress
        self._expected = expected
        self.done = 0
        self.cost = Cost()

    @property
    def engine_name(self) -> str:
        return self._engine.name

    def ask(self, writer: Writer, prompts: Sequence[str], sampling: Sampling, note: str) -> list[Completion]:
        """Answers of `writer`, in order. Request i is drawn with seed + i, whatever the batches."""
        records = self._batches(writer, prompts, sampling, note, "", lambda _, completions: map(asdict, completions))
        return [Completion(**record) for record in records]

    def ask_and_reduce(
        self,
        writer: Writer,
        prompts: Sequence[str],
        sampling: Sampling,
        note: str,
        *,
        reduction: str,
        reduce: Callable[[Sequence[str], Sequence[Completion]], Sequence[dict[str, Any]]],
    ) -> list[dict[str, Any]]:
        """Like `ask`, but only what `reduce` makes of a batch is kept and returned; the answers go no further.

        Args:
            reduction: identity of `reduce`, part of the batch's name.
            reduce: (prompts, completions) → one JSON object a prompt.
        """
        return self._batches(writer, prompts, sampling, note, reduction, reduce)

    def _batches(
        self,
        writer: Writer,
        prompts: Sequence[str],
        sampling: Sampling,
        note: str,
        reduction: str,
        reduce: Callable[[Sequence[str], Sequence[Completion]], Any],
    ) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        for start in range(0, len(prompts), BATCH):
            batch = list(prompts[start : start + BATCH])
            drawn = replace(sampling, seed=sampling.seed + start) if sampling.temperature > 0 else sampling
            file = self._folder / f"{self._key(writer, batch, drawn, reduction)}.json"
            stored = _read(file)
            if stored is None:
                stored = self._generate(writer, batch, drawn, note, reduce)
                write_atomically(file, json.dumps(stored, ensure_ascii=False).encode())
            self._count(stored["cost"], note)
            records += stored["records"]
        return records

    def _generate(
        self,
        writer: Writer,
        batch: Sequence[str],
        sampling: Sampling,
        note: str,
        reduce: Callable[[Sequence[str], Sequence[Completion]], Any],
    ) -> dict[str, Any]:
        self._report(0, note)
        self._engine.load(writer.path)
        began = time.monotonic()
        completions = self._engine.chat(batch, sampling, progress=lambda done, _: self._report(done, note))
        cost = Cost(
            requests=len(batch),
            prompt_tokens=sum(completion.prompt_tokens for completion in completions),
            completion_tokens=sum(completion.completion_tokens for completion in completions),
            seconds=round(time.monotonic() - began, 3),
        )
        return {"cost": asdict(cost), "records": list(reduce(batch, completions))}

    def _key(self, writer: Writer, batch: Sequence[str], sampling: Sampling, reduction: str) -> str:
        described = [writer.revision, self._engine.name, asdict(sampling), reduction, list(batch)]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:40]

    def _count(self, cost: dict[str, Any], note: str) -> None:
        self.cost.requests += cost["requests"]
        self.cost.prompt_tokens += cost["prompt_tokens"]
        self.cost.completion_tokens += cost["completion_tokens"]
        self.cost.seconds += cost["seconds"]
        self.done += cost["requests"]
        self._report(0, note)

    def _report(self, beyond: int, note: str) -> None:
        done = self.done + beyond
        self._progress(done, max(done, self._expected), "requests", note)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return stored


def write_atomically(file: Path, content: bytes) -> None:
    """`content` under the name of `file` for its owner alone: whole and on disk, or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
