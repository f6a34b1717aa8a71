"""What a worker keeps at hand while it runs one job: the engine that writes text, and the stage's clock."""

import logging
import os
import signal
import time
from pathlib import Path

from datagen.engines.vllm import VllmEngine

log = logging.getLogger(__name__)

#: merges are put together inside the engine's worker
EXTENSION = "optimizer.merging.vllm_worker.MergeWorker"


class Desk:
    """Lives from the first to the last stage of a job, so that the engine starts once."""

    def __init__(self) -> None:
        self._engine: VllmEngine | None = None
        self._began, self._before = time.monotonic(), 0.0

    def begin(self, before: float) -> None:
        """Start a stage's clock at the `before` seconds that it ran already."""
        self._began, self._before = time.monotonic(), before

    def spent(self) -> float:
        """Seconds in this stage, over all starts."""
        return self._before + time.monotonic() - self._began

    def engine(self, model: Path, max_model_len: int | None) -> VllmEngine:
        if self._engine is None:
            self._engine = VllmEngine(model, max_model_len=max_model_len, worker_extension=EXTENSION)
        return self._engine

    def release(self) -> None:
        """Stop the engine, if there is one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def interrupt(self) -> None:
        """Kill the engine under a stage that waits for it and would not hear of a cancel before it answers."""
        if self._engine is not None:
            log.info("stopping the engine, since the job was stopped")
            try:
                os.kill(self._engine.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


class Meter:
    """How long the rest takes, from the pace since the unit last changed."""

    def __init__(self) -> None:
        self._unit: tuple[str, int] | None = None
        self._start = (0.0, 0)
        self._last = 0

    def eta(self, done: int, total: int, unit: str) -> float | None:
        """Seconds until `total`; None while nothing is known."""
        moment = time.monotonic()
        if self._unit != (unit, total) or done < self._last:
            self._unit, self._start = (unit, total), (moment, done)
        self._last = done
        began, first = self._start
        if done <= first or total <= done:
            return 0.0 if total <= done else None
        return round((moment - began) / (done - first) * (total - done), 1)
