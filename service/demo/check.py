"""Does a pulled checkpoint do what its report says? Asked with transformers, not with the engine that was measured."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from datagen.engines.base import Completion, Progress, Sampling
from datagen.errors import EngineError
from datagen.judges.rules import RulesJudge
from datagen.samples import DataSet, Split
from optimizer.reporting.report import ModelScores
from optimizer.search.evaluation import JudgedScores, judged

_BATCH = 64

disable_progress_bar()  # loading has a bar of its own otherwise, in the middle of ours


class GreedyTransformers:
    """An engine for one purpose: greedy answers by the library that users load checkpoints with."""

    name = f"transformers {transformers.__version__}"

    def load(self, model: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype="auto", local_files_only=True).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left", local_files_only=True)

    @torch.inference_mode()
    def chat(self, prompts: Sequence[str], sampling: Sampling, *, progress: Progress | None = None) -> list[Completion]:
        """Answers in order.

        Raises:
            EngineError: `sampling` is not greedy.
        """
        if sampling.temperature:
            raise EngineError(f"temperature {sampling.temperature:g} asked of an engine that is greedy")
        answers: list[Completion] = []
        for start in range(0, len(prompts), _BATCH):
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + _BATCH]]
            inputs = self._tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            output = self._model.generate(**inputs, max_new_tokens=sampling.max_tokens, do_sample=False)
            width = inputs["input_ids"].shape[1]
            texts = self._tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
            answers += [Completion(text.strip(), "stop", width, output.shape[1] - width) for text in texts]
            if progress is not None:
                progress(len(answers), len(prompts))
        return answers

    def close(self) -> None:
        """Free the model."""
        del self._model, self._tokenizer


def score_pulled(
    folder: Path, dataset: DataSet, max_tokens: int, progress: Callable[[int, int, str, str], None] | None = None
) -> JudgedScores:
    """A pulled checkpoint on the report split, answered and judged again."""
    engine = GreedyTransformers()
    engine.load(folder)
    return judged(engine, RulesJudge(), dataset.of(Split.REPORT), max_tokens, progress)


def differences(scores: JudgedScores, reported: ModelScores, tolerance: float = 0.02) -> dict[str, tuple[float, float]]:
    """Axes on which a repeated measurement is further than `tolerance` from the report: (measured, reported).

    Two libraries may round a tie between two tokens differently; a wrong checkpoint is off by much more.
    """
    reported_axes = {axis: share.value for axis, share in reported.shares.items()}
    return {
        axis: (value, reported_axes[axis])
        for axis, value in scores.axes.items()
        if abs(value - reported_axes[axis]) > tolerance
    }
