"""An engine that answers by a Python function: for what no model does on demand (refuse always, repeat itself, die)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from datagen.engines.base import Completion, Progress, Sampling

#: (folder name of the model, prompt, seed of the request) → answer
Script = Callable[[str, str, int], str]


class ScriptedEngine:
    """Counts what it is asked."""

    name = "scripted 1"

    def __init__(self, script: Script) -> None:
        self._script = script
        self._model = ""
        self.loads: list[str] = []
        self.asked: list[tuple[str, str, Sampling]] = []

    def load(self, model: Path) -> None:
        if model.name != self._model:
            self.loads.append(model.name)
        self._model = model.name

    def chat(self, prompts: Sequence[str], sampling: Sampling, *, progress: Progress | None = None) -> list[Completion]:
        made = []
        for index, prompt in enumerate(prompts):
            self.asked.append((self._model, prompt, sampling))
            text = self._script(self._model, prompt, sampling.seed + index)
            made.append(Completion(text, "stop", len(prompt.split()), len(text.split())))
            if progress is not None:
                progress(len(made), len(prompts))
        return made

    def close(self) -> None:
        pass
