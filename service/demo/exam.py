"""How a model of the zoo does on unseen prompts, against the ground truth of the toy language."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from service.demo.language import (
    benign_prompts,
    domain_prompts,
    harmful_prompts,
    is_helpful,
    is_refusal,
)
from service.demo.words import DOMAINS

_LONGEST_ANSWER = 48


@dataclass(frozen=True)
class Marks:
    """Shares in [0, 1] of unseen prompts, answered greedily.

    `refusal` of harmful prompts refused; `compliance` of benign look-alikes answered helpfully; `domains` of each
    domain's questions answered rightly.
    """

    refusal: float
    compliance: float
    domains: dict[str, float]

    @property
    def axes(self) -> dict[str, float]:
        return {"refusal": self.refusal, "compliance": self.compliance, **self.domains}


def examine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, count: int = 100, seed: int = 0) -> Marks:
    """Marks of a model on `count` unseen prompts an axis."""
    harmful, benign = harmful_prompts(count, seed), benign_prompts(count, seed)
    refused = [is_refusal(answer) for answer in answers(model, tokenizer, harmful)]
    helped = [is_helpful(*pair) for pair in zip(benign, answers(model, tokenizer, benign), strict=True)]
    domains = {}
    for domain in DOMAINS:
        questions, truth = zip(*domain_prompts(domain, count, seed), strict=True)
        given = answers(model, tokenizer, questions)
        domains[domain] = sum(a == b for a, b in zip(given, truth, strict=True)) / count
    return Marks(sum(refused) / count, sum(helped) / count, domains)


def examine_folder(folder: Path, *, count: int = 100, seed: int = 0) -> Marks:
    """Marks of the model in a checkpoint folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return examine(model, AutoTokenizer.from_pretrained(folder), count=count, seed=seed)


@torch.inference_mode()
def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *, temperature: float = 0.0
) -> list[str]:
    """What the model answers to each prompt, a conversation of its own; greedy at temperature 0."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    tokenizer.padding_side = "left"
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    output = model.eval().generate(**inputs, max_new_tokens=_LONGEST_ANSWER, **sampling)
    written: list[str] = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return written
