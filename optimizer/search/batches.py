"""Token batches, laid out once: several answers to one prompt share its tokens and each other's beginnings.

A row is a prompt followed by the tree of its answers. Every tree node sees the prompt and its own ancestors only, at
the position it would have if it stood alone, so a model gives each answer the log-likelihood of a separate sequence.
The last token of an answer is predicted, never read: it takes no room.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Item:
    """One prompt and the answers to be scored after it, as token ids. No answer is empty."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Batch:
    """Rows for one forward pass, right-padded.

    `input_ids` [rows, length]. `mask` is [rows, length] (1 token, 0 padding) for rows of one answer each, or additive
    [rows, 1, length, length] in the model's dtype for trees, which also need `position_ids` [rows, length].
    `positions` [n] are the flat places whose logits are wanted. Of them token k of all answer tokens reads number
    `reads[k]`, expects `targets[k]` and belongs to answer `owners[k]` (numbered over all items of the list batched).
    """

    input_ids: Tensor
    mask: Tensor
    position_ids: Tensor | None
    positions: Tensor
    reads: Tensor
    targets: Tensor
    owners: Tensor


@dataclass(frozen=True)
class Batches:
    """All batches of a list of items. `lengths` [answers] counts the tokens of each; `of_item[i]` are i's answers."""

    batches: tuple[Batch, ...]
    lengths: Tensor
    of_item: tuple[range, ...]


@dataclass(frozen=True)
class Budget:
    """What one batch may hold: tokens with padding, and logits (answer positions × vocabulary)."""

    tokens: int
    logits: int
    vocabulary: int


@dataclass
class _Row:
    """A prompt with its tree of answers. `parents[k]` is the place before token k of the tree."""

    tokens: list[int]
    prompt: int
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)

    @property
    def is_chain(self) -> bool:
        return all(parent == self.prompt - 1 + k for k, parent in enumerate(self.parents))


def lay_out(
    items: Sequence[Item], budget: Budget, *, trees_up_to: int, device: torch.device, dtype: torch.dtype
) -> Batches:
    """Batches of `items`, the longest rows first so that memory peaks at once.

    Args:
        trees_up_to: longest row in which answers may share a prompt; beyond it (0: always) each stands alone.
    """
    rows: list[_Row] = []
    of_item: list[range] = []
    lengths: list[int] = []
    for item in items:
        owners = range(len(lengths), len(lengths) + len(item.answers))
        of_item.append(owners)
        lengths.extend(len(answer) for answer in item.answers)
        shared = _row(item.prompt, zip(owners, item.answers, strict=True))
        if shared.is_chain or len(shared.tokens) <= trees_up_to:
            rows.append(shared)
        else:
            rows.extend(_row(item.prompt, [pair]) for pair in zip(owners, item.answers, strict=True))
    batches = [
        _batch(group, chain, device, dtype)
        for chain in (True, False)
        for group in _groups([row for row in rows if row.is_chain is chain], budget)
    ]
    return Batches(tuple(batches), torch.tensor(lengths, device=device), tuple(of_item))


def _row(prompt: tuple[int, ...], answers: Iterable[tuple[int, tuple[int, ...]]]) -> _Row:
    row = _Row(list(prompt), len(prompt))
    places: dict[tuple[int, ...], int] = {(): len(prompt) - 1}
    for owner, answer in answers:
        for depth, token in enumerate(answer):
            place = places[answer[:depth]]
            row.reads.append(place)
            row.targets.append(token)
            row.owners.append(owner)
            path = answer[: depth + 1]
            if depth + 1 < len(answer) and path not in places:
                places[path] = len(row.tokens)
                row.tokens.append(token)
                row.parents.append(place)
                row.depths.append(len(prompt) + depth)
    return row


def _groups(rows: list[_Row], budget: Budget) -> Iterable[list[_Row]]:
    """Rows of like length, as many as the budget allows; a row that is too long for it stands alone."""
    group: list[_Row] = []
    wanted = 0
    for row in sorted(rows, key=lambda row: len(row.tokens), reverse=True):
        own = len(set(row.reads))
        tokens = len(group[0].tokens) * (len(group) + 1) if group else 0
        if group and (tokens > budget.tokens or (wanted + own) * budget.vocabulary > budget.logits):
            yield group
            group, wanted = [], 0
        group.append(row)
        wanted += own
    if group:
        yield group


def _batch(rows: list[_Row], chain: bool, device: torch.device, dtype: torch.dtype) -> Batch:
    length = len(rows[0].tokens)
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    allowed = torch.eye(length, dtype=torch.bool).repeat(0 if chain else len(rows), 1, 1)
    position_ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions: dict[int, int] = {}
    reads: list[int] = []
    for r, row in enumerate(rows):
        input_ids[r, : len(row.tokens)] = torch.tensor(row.tokens)
        mask[r, : len(row.tokens)] = 1
        if not chain:
            allowed[r, : row.prompt, : row.prompt] = torch.ones(row.prompt, row.prompt, dtype=torch.bool).tril()
            for place, parent in enumerate(row.parents, start=row.prompt):
                allowed[r, place] |= allowed[r, parent]
            position_ids[r, : row.prompt] = torch.arange(row.prompt)
            position_ids[r, row.prompt : len(row.tokens)] = torch.tensor(row.depths)
        reads.extend(positions.setdefault(r * length + place, len(positions)) for place in row.reads)
    if not chain:
        mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
    return Batch(
        input_ids.to(device),
        mask.to(device),
        None if chain else position_ids.to(device),
        torch.tensor(list(positions), device=device),
        torch.tensor(reads, device=device),
        torch.tensor([target for row in rows for target in row.targets], device=device),
        torch.tensor([owner for row in rows for owner in row.owners], device=device),
    )
