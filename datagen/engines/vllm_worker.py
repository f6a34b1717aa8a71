"""Inside vLLM's worker: weights swapped in place, from checkpoints or from any stream of tensors.

Named to vLLM as `worker_extension_cls`: its methods become the worker's own, reached by `collective_rpc`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from datagen.engines.fit import weight_files


class WeightSwapper:
    """Methods for vLLM's worker class, which provides `model_runner`."""

    model_runner: Any

    def reload(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Replace all weights by `tensors`, named and shaped as in a checkpoint of the same architecture.

        The caller resets the prefix cache afterwards: what it holds was computed with the old weights.
        """
        # vLLM caches rotary tables and the like per module: only its own reload path leaves them intact on a CPU
        self.model_runner.reload_weights(weights_iterator=tensors, is_checkpoint_format=True)

    def load_checkpoint(self, folder: str) -> None:
        """Replace all weights by those of a checkpoint folder."""
        self.reload(_tensors(Path(folder)))


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as checkpoint:
            for name in checkpoint.keys():  # noqa: SIM118 - not a mapping
                yield name, checkpoint.get_tensor(name)
