"""A pool in memory, with everything needed to score any merge of it: no checkpoint is written in a trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from optimizer.merging.checkpoint.source import Checkpoint
from optimizer.merging.layout import Layout
from optimizer.merging.recipe import Coefficients
from optimizer.merging.resident import ResidentMerge
from optimizer.search.objectives.base import Scores
from optimizer.search.objectives.suite import Objectives
from optimizer.search.scoring import Scorer


@dataclass(frozen=True)
class Bench:
    """The resident merge and the scorer that reads its model's weights."""

    resident: ResidentMerge
    scorer: Scorer

    @classmethod
    def open(cls, base: Path, models: Mapping[str, Path], layout: Layout) -> "Bench":
        """Load a pool that `check_pool` accepted.

        On CUDA candidates are held in bfloat16, what they are exported in; on a CPU in float32, which most CPUs
        compute faster and which costs nothing against the stacks of the pool. Stacks that do not fit into the GPU
        beside the model and its gradients stay in the host's memory: candidates are merged there and cross over.
        """
        disable_progress_bar()  # of loading; the job has its own
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, use_safetensors=True, local_files_only=True)
        model.to(device).requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        stacks = device if device.type == "cpu" or _fits(base, len(models), device) else torch.device("cpu")
        return cls(ResidentMerge(model, base, models, layout, stacks), Scorer(model, tokenizer))

    def score(self, coefficients: Coefficients, objectives: Objectives) -> Scores:
        """Write the candidate into the model in place and score it."""
        self.resident.apply(coefficients)
        return objectives.score()


def _fits(base: Path, models: int, device: torch.device) -> bool:
    """Whether the stacks of base and models fit beside a gradient of the model's size and what scoring needs."""
    size = sum(info.end - info.begin for info in Checkpoint(base).infos.values())
    free, whole = torch.cuda.mem_get_info(device)
    return (models + 2) * size + whole // 20 < free
