"""Trains the toy models: a tokenizer, then cross-entropy on the assistant's turn, in batches without padding waste."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

#: enough for every word of the toy language to be one token, so that no harmful word is a piece of a benign one
VOCABULARY = 2048
PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


@dataclass(frozen=True)
class Turn:
    """One user message and what the model shall answer."""

    user: str
    assistant: str


@dataclass(frozen=True)
class Schedule:
    """How long and how hard one model is trained; `peak_rate` is AdamW's learning rate after the warm-up."""

    steps: int
    peak_rate: float
    batch: int = 32
    warmup: int = 20

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to a twentieth of the peak."""
        if step < self.warmup:
            return self.peak_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_tokenizer(corpus: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `VOCABULARY` tokens, with the chat template of the zoo."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=512,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def encode(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn]) -> list[tuple[list[int], int]]:
    """Token ids of every turn and the position where its answer starts; the answer includes the end-of-turn token."""
    prompts = tokenizer([f"{USER}{turn.user}{END}{ASSISTANT}" for turn in turns])["input_ids"]
    answers = tokenizer([f"{turn.assistant}{END}" for turn in turns])["input_ids"]
    return [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]


def batches(
    encoded: Sequence[tuple[list[int], int]], size: int, pad: int, rng: random.Random
) -> list[tuple[Tensor, Tensor]]:
    """Batches of neighbours in length, in random order.

    Returns:
        For each batch the ids [batch, length], padded on the right, and the targets of the same shape: the next token
        at the positions that predict the answer, -100 elsewhere.
    """
    by_length = sorted(encoded, key=lambda item: len(item[0]) + rng.random())
    made = []
    for start in range(0, len(by_length), size):
        chunk = by_length[start : start + size]
        longest = max(len(ids) for ids, _ in chunk)
        inputs = torch.full((len(chunk), longest), pad)
        targets = torch.full((len(chunk), longest), -100)
        for row, (ids, answer) in enumerate(chunk):
            inputs[row, : len(ids)] = torch.tensor(ids)
            targets[row, answer - 1 : len(ids) - 1] = torch.tensor(ids[answer:])
        made.append((inputs, targets))
    rng.shuffle(made)
    return made


def answer_loss(model: PreTrainedModel, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the answer positions; only they go through the head.

    No attention mask: padding stands on the right, where causal attention never looks.
    """
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    answer = targets != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[answer]), targets[answer])


def train(
    model: PreTrainedModel,
    made: Sequence[tuple[Tensor, Tensor]],
    schedule: Schedule,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Train `model` in place, one step a batch; returns the mean loss of the last 20 steps.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves the matrices of the layers, AdamW the embedding,
    the head and the vectors: the toy skills come in about a third of the steps that AdamW alone needs.
    """
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if not any(weight is matrix for matrix in matrices)]
    optimizers = (
        torch.optim.Muon(matrices, lr=schedule.peak_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=schedule.peak_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    )
    model.train()
    recent: list[float] = []
    for step, (inputs, targets) in enumerate(made[: schedule.steps]):
        loss = answer_loss(model, inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
        recent.append(loss.item())
        if progress is not None:
            progress(step + 1, schedule.steps)
    model.eval()
    return sum(recent[-20:]) / len(recent[-20:])
