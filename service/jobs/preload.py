"""The stages, imported beside everything else: torch takes seconds, and a worker has other things to do meanwhile."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from importlib import import_module

from service.jobs.runner import StageFunction, Stages
from service.jobs.schemas import Stage


class Preloaded(Mapping[Stage, StageFunction]):
    """`STAGES` of a module whose import begins now; who asks for a stage waits for it, and gets its error."""

    def __init__(self, module: str) -> None:
        self._stages: Future[Stages] = Future()
        threading.Thread(target=self._load, args=[module], name="preload", daemon=True).start()

    def _load(self, module: str) -> None:
        try:
            self._stages.set_result(import_module(module).STAGES)
        except BaseException as error:  # noqa: BLE001 - told to whoever asks for a stage
            self._stages.set_exception(error)

    def __getitem__(self, stage: Stage) -> StageFunction:
        return self._stages.result()[stage]

    def __iter__(self) -> Iterator[Stage]:
        return iter(Stage)

    def __len__(self) -> int:
        return len(Stage)
