"""The models of a pool as owners of tokens: who has which, and what that means for a common vocabulary."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from optimizer.errors import PoolError, RecipeError
from optimizer.merging.checkpoint.source import Reader
from optimizer.merging.vocabulary.embeddings import Embeddings
from optimizer.merging.vocabulary.orders import Ruling
from optimizer.merging.vocabulary.request import BASE, UNION, TokenizerRequest, TokenRule
from optimizer.merging.vocabulary.tokens import TOKENIZER_JSON, Tokens, read_pool, read_tokens
from optimizer.merging.vocabulary.union import Addition

#: tokens named in a note
SHOWN = 4


@dataclass(frozen=True)
class Member:
    """A model with its tokens; those of a model without tokenizer are the first model's."""

    key: str
    embeddings: Embeddings
    tokens: Tokens

    @property
    def rows(self) -> int:
        """Tokens that the embeddings have room for."""
        return self.embeddings.rows

    def row(self, text: str) -> int:
        """Where the token's row lies, -1 where there is none; some tokenizers know tokens beyond the embeddings."""
        number = self.tokens.ids.get(text, -1)
        return number if number < self.rows else -1

    def own_rows(self, core: Tokens, ids: Mapping[str, int], count: int) -> Tensor:
        """[count]: `row` of every token of the result, whose tokens are `ids`. With the core's own vocabulary every row
        stays where it is, also one whose id no token has."""
        own = torch.full((count,), -1, dtype=torch.int64)
        if self.tokens.same(core):
            kept = min(count, self.rows, count if core.opaque else core.size)
            own[:kept] = torch.arange(kept)
            return own
        found = [(at, row) for text, at in ids.items() if (row := self.row(text)) >= 0]
        if found:
            at, rows = torch.tensor(found, dtype=torch.int64).T
            own[at] = rows
        return own


def read_members(
    pool: Mapping[str, Reader], source: str, folders: Mapping[str, Path]
) -> tuple[Tokens, tuple[Member, ...]]:
    """The tokenizer that the result's is made from, and every model.

    Raises:
        PoolError: the source has no tokenizer; a model's cannot be compared with it; a model has no token embedding, or
            no tokenizer and too few rows for the first model's.
        CheckpointError: a tokenizer that cannot be read safely.
    """
    found = read_pool({key: reader.folder for key, reader in pool.items()})
    first = next(iter(pool))
    named = first if source in (BASE, UNION) else source
    core = found[named] if named in pool else read_tokens(folders[named])
    if core is None:
        having = next((key for key, tokens in found.items() if tokens is not None), None)
        raise PoolError(
            f"tokenizer source {source}: no tokenizer in {pool[named].folder if named in pool else folders[named]}",
            mend=f"tokenizer source: {having}" if having else "add tokenizer files to a model's folder",
        )
    shared = found[first] or core
    members = tuple(Member(key, Embeddings.of(reader), found[key] or shared) for key, reader in pool.items())
    for member in members:
        if not member.embeddings.names:
            raise PoolError(
                f"{member.key} ({member.embeddings.reader.folder}): no token embedding found",
                mend="leave the tokenizer block out: the vocabulary of this architecture cannot be changed",
            )
        _check_comparable(member, core)
        if found[member.key] is None and member.rows < shared.size:
            raise PoolError(
                f"{member.key} has no tokenizer, and {member.rows:,} rows are too few for the {shared.size:,} tokens "
                f"of {shared.folder}",
                mend="add its tokenizer files to its folder",
            )
    return core, members


def _check_comparable(member: Member, core: Tokens) -> None:
    theirs = member.tokens
    if (theirs.opaque or core.opaque) and not theirs.same(core):
        lacking, other = (theirs, core) if theirs.opaque else (core, theirs)
        raise PoolError(
            f"tokenizer of {lacking.folder}: no {TOKENIZER_JSON}, so it cannot be compared with that of {other.folder}",
            mend="save it with one (transformers: AutoTokenizer.from_pretrained, then save_pretrained)",
        )


def check_opaque(members: Sequence[Member], request: TokenizerRequest) -> int:
    """Number of rows where one tokenizer, whose tokens are not read, is copied whole.

    Raises:
        PoolError: the embeddings differ in size, or single tokens are asked for.
    """
    sizes = {member.rows for member in members}
    if len(sizes) > 1 or request.tokens:
        found = "rules about tokens" if request.tokens else f"embeddings of {', '.join(map(str, sorted(sizes)))} rows"
        raise PoolError(
            f"{found} with a tokenizer that has no {TOKENIZER_JSON}: its tokens are not known",
            mend="save it with one (transformers: AutoTokenizer.from_pretrained, then save_pretrained)",
        )
    return sizes.pop()


def additions_to(core: Tokens, members: Sequence[Member], request: TokenizerRequest) -> list[Addition]:
    """Tokens that the result has beyond the core's: of a union those of every model, in the order of the pool and of
    their ids; then those that only rules name."""
    new: dict[str, Addition] = {}
    for member in members if request.source == UNION else ():
        for text in sorted(member.tokens.ids.keys() - core.ids.keys() - new.keys(), key=member.tokens.ids.__getitem__):
            if member.row(text) >= 0:
                new[text] = Addition(text, member.tokens)
    for text in request.tokens:
        if text not in core.ids and text not in new:
            new[text] = Addition(text, next((m.tokens for m in members if m.row(text) >= 0), None))
    return list(new.values())


def rulings_of(request: TokenizerRequest, members: Sequence[Member], ids: Mapping[str, int]) -> list[Ruling]:
    """The rules of a request by position.

    Raises:
        RecipeError: a rule names a token that its model does not have.
    """
    keys = [member.key for member in members]
    rulings = []
    for text, rule in request.tokens.items():
        pick = None if rule.model is None else (keys.index(rule.model), _picked(text, rule, members))
        rulings.append(Ruling(ids[text], pick, rule.force))
    return rulings


def _picked(text: str, rule: TokenRule, members: Sequence[Member]) -> int:
    member = next(member for member in members if member.key == rule.model)
    wanted = text if rule.token is None else rule.token
    row = wanted if isinstance(wanted, int) else member.row(wanted)
    if not 0 <= row < member.rows:
        near = difflib.get_close_matches(str(wanted), list(member.tokens.ids), n=1) if isinstance(wanted, str) else []
        raise RecipeError(
            f"token {text!r}: {wanted!r} is not among the {member.rows:,} rows of {member.key}",
            mend=f"did you mean {near[0]!r}?" if near else "name a model that has the token, or kind: zero",
        )
    return row


def losses(members: Sequence[Member], ids: Mapping[str, int]) -> list[str]:
    """What every model has and the result has not, a line each."""
    lines = []
    for member in members:
        tokens = member.tokens
        padding = member.rows - tokens.size
        if tokens.opaque:
            continue
        if padding > 0:
            lines.append(f"{member.key}: its last {padding:,} rows have no token and are left out")
        if gone := sorted(tokens.ids.keys() - ids.keys(), key=tokens.ids.__getitem__):
            lines.append(f"{member.key}: {_some(gone)} not in this vocabulary, left out")
        if beyond := [text for text, number in tokens.ids.items() if number >= member.rows]:
            lines.append(f"{member.key}: {_some(beyond)} without a row in its embeddings")
    return lines


def orphans(own: Sequence[Tensor], rulings: Sequence[Ruling], ids: Mapping[str, int]) -> list[str]:
    """A line about tokens that no model has a row for and no rule speaks of."""
    lacking = (torch.stack(list(own)) < 0).all(0)
    lacking[[ruling.row for ruling in rulings]] = False
    rows = set(torch.nonzero(lacking).flatten().tolist())
    texts = [text for text, row in ids.items() if row in rows]
    return [f"no model has {_some(texts)}: zeros"] if texts else []


def _some(texts: Sequence[str]) -> str:
    shown = ", ".join(repr(text) for text in texts[:SHOWN])
    return shown if len(texts) <= SHOWN else f"{shown} and {len(texts) - SHOWN:,} more tokens"
