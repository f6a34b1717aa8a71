"""Log-likelihoods of answers: one forward pass a prompt, only answer positions through the head."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimizer.errors import SearchError
from optimizer.search.batches import Batch, Batches, Budget, Item, lay_out
from optimizer.search.conversation import Conversation

#: nats a token by which an answer in a tree may differ from itself alone, and from itself beside another sibling; a
#: leak between siblings is looked for sharply, since weights may be small where the check is made
_TREE_TOLERANCE = (1e-3, 1e-5)
_NARROW_TREE_TOLERANCE = (0.1, 1e-3)
#: logits of one batch: half a gigabyte in float32
_LOGITS = 1 << 27
_HOPELESS = -1e6


@dataclass(frozen=True)
class AnswerScore:
    """log p(answer | prompt) in nats, summed over its `tokens`."""

    log_p: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.log_p / self.tokens


class Scorer:
    """Scores answers with the weights that `model` has at the moment.

    The forward pass is the model's own; only the input of its head is cut down to the positions that are read. What an
    architecture does to hidden states before or to logits after the head (soft capping, scales) therefore stays.

    Args:
        model: a causal language model of transformers; set to evaluation mode.
        tokenizer: with a chat template.
        token_budget: tokens of a batch, padding included.
        max_tokens: longest prompt with its answer; an answer beyond it is cut. The model's own limit holds as well.
        device: where the model is, if it should be elsewhere than now.

    Raises:
        SearchError: the tokenizer cannot render a conversation.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        token_budget: int = 4096,
        max_tokens: int = 2048,
        device: torch.device | str | None = None,
    ) -> None:
        self.model = (model if device is None else model.to(device)).eval()
        self.conversation = Conversation(tokenizer)
        self.token_budget = token_budget
        self._config: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
        self._head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        self.device = self._head.weight.device
        self.vocabulary = int(self._head.weight.shape[0])
        limit = getattr(self._config, "max_position_embeddings", None)
        self.max_tokens = min(max_tokens, limit) if isinstance(limit, int) else max_tokens
        self._trees_up_to = self._longest_tree()

    def item(self, question: str, answers: Sequence[tuple[int, ...]]) -> Item:
        """One question with tokenised answers, cut to `max_tokens`.

        Raises:
            SearchError: the question leaves no room for an answer, or an answer is empty.
        """
        prompt = self.conversation.prompt(question)
        room = self.max_tokens - len(prompt)
        if room < 1 or not all(answers):
            raise SearchError(
                f"the question {question[:60]!r} takes {len(prompt)} of {self.max_tokens} tokens and its answers "
                f"{[len(answer) for answer in answers]}, expected room for at least one token of each",
                mend="leave out questions this long and empty answers",
            )
        return Item(prompt, tuple(answer[:room] for answer in answers))

    def prepare(self, items: Sequence[Item]) -> Batches:
        """Lay items out in batches on the model's device; done once, scored many times."""
        return self._lay_out(items, self._trees_up_to)

    @torch.no_grad()
    def score(self, prepared: Batches) -> list[list[AnswerScore]]:
        """For every item the scores of its answers, in order. Independent of how items were batched."""
        total = torch.zeros(len(prepared.lengths), dtype=torch.float64, device=self.device)
        for batch in prepared.batches:
            total.index_add_(0, batch.owners, self.token_log_p(batch).double())
        # NaN and infinities of a broken candidate become a number that SQL and JSON carry
        total = total.nan_to_num(nan=_HOPELESS, posinf=_HOPELESS, neginf=_HOPELESS).clamp_min(_HOPELESS)
        scores = [AnswerScore(p, n) for p, n in zip(total.tolist(), prepared.lengths.tolist(), strict=True)]
        return [[scores[answer] for answer in answers] for answers in prepared.of_item]

    def token_log_p(self, batch: Batch) -> Tensor:
        """log p of every answer token of the batch [tokens], float32, differentiable."""
        with self._answer_positions(batch.positions) as cut:
            extra = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
            output = self.model(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False, **extra)
        logits = output.logits.flatten(0, -2)
        if not cut:  # an architecture that applies its head by other means than calling it
            logits = logits[batch.positions]
        logits = logits.float()  # [positions, vocabulary]
        log_p: Tensor = logits[batch.reads, batch.targets] - logits.logsumexp(-1)[batch.reads]
        return log_p

    @contextmanager
    def _answer_positions(self, positions: Tensor) -> Iterator[list[bool]]:
        """While active, the head sees the hidden states of `positions` alone; what is yielded fills when it has."""
        cut: list[bool] = []

        def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            cut.append(True)
            hidden, *others = arguments
            return hidden.flatten(0, -2)[positions][None], *others

        handle = self._head.register_forward_pre_hook(select)
        try:
            yield cut
        finally:
            handle.remove()

    def _lay_out(self, items: Sequence[Item], trees_up_to: int) -> Batches:
        budget = Budget(self.token_budget, _LOGITS, self.vocabulary)
        dtype = next(self.model.parameters()).dtype
        return lay_out(items, budget, trees_up_to=trees_up_to, device=self.device, dtype=dtype)

    def _longest_tree(self) -> int:
        """Longest row in which this model reads trees rightly; 0 if it does not.

        A tree needs attention that takes a mask of one's own and positions out of order, and nothing recurrent beside
        it. Whether that works is not looked up but tried: in a small tree an answer must score as it does alone,
        whatever its sibling says. A sliding window would be measured over the tree, so rows stay within it.
        """
        attention = getattr(self._config, "_attn_implementation", None)
        if attention not in ("sdpa", "eager") or getattr(self.model, "_is_stateful", False):
            return 0
        prompt, sibling, other, answer = (
            tuple((31 * k + 3) % self.vocabulary for k in range(start, start + 4)) for start in (0, 4, 8, 12)
        )
        (alone,) = self.score(self._lay_out([Item(prompt, (answer,))], 0))[0]
        (_, tree), (_, changed) = self.score(
            self._lay_out([Item(prompt, (sibling, answer)), Item(prompt, (other, answer))], self.max_tokens)
        )
        near, leak = _TREE_TOLERANCE if next(self.model.parameters()).dtype.itemsize >= 4 else _NARROW_TREE_TOLERANCE
        # written so that NaN fails it
        if not (abs(alone.mean - tree.mean) <= near and abs(changed.mean - tree.mean) <= leak):
            return 0
        windows = [getattr(self._config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        return min(self.max_tokens, *(w for w in windows if isinstance(w, int) and w > 0), self.max_tokens)
