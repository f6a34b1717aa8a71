"""Inside vLLM's worker: weights swapped in place, from checkpoints or from any stream of tensors.

Named to vLLM as `worker_extension_cls`: its methods become the worker's own, reached by `collective_rpc`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

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
        model: nn.Module = self.model_runner.get_model()
        if next(model.parameters()).device.type == "cpu":
            for module in {one for others in tied_modules(model).values() for one in others}:
                repack(module)

    def load_checkpoint(self, folder: str) -> None:
        """Replace all weights by those of a checkpoint folder."""
        self.reload(_tensors(Path(folder)))


def tied_modules(model: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    """Of every module that shares a parameter with others (a head tied to the embedding): the others."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.numel():
                owners.setdefault(id(parameter), []).append(module)
    shared: dict[nn.Module, list[nn.Module]] = {}
    for modules in owners.values():
        for module in modules:
            if others := [other for other in modules if other is not module]:
                shared.setdefault(module, []).extend(others)
    return shared


def repack(module: nn.Module) -> None:
    """Have vLLM make anew, from a module's parameters, the form that its kernels on a CPU compute with.

    Reloading forgets this for a head that is tied to the embedding: its parameter is new, what it computes with is not.
    """
    method: Any = getattr(module, "quant_method", None)
    if method is None or not hasattr(method, "process_weights_after_loading"):
        return
    if hasattr(module, "_already_called_process_weights_after_loading"):
        del module._already_called_process_weights_after_loading
    method.process_weights_after_loading(module)
    update: Any = getattr(module, "update_param_tp_status", None)
    if update is not None:
        update()


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as checkpoint:
            for name in checkpoint.keys():  # noqa: SIM118 - not a mapping
                yield name, checkpoint.get_tensor(name)
