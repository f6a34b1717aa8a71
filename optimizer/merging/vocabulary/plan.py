"""One vocabulary for models that have several: how many rows, which tokens, whose row where, which files."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from optimizer.errors import PoolError, RecipeError
from optimizer.merging.checkpoint.header import language_config
from optimizer.merging.checkpoint.source import Reader, TensorSource
from optimizer.merging.companions import companions_of, tokenizer_files
from optimizer.merging.vocabulary.embeddings import Embeddings
from optimizer.merging.vocabulary.files import Target, chat_files, translated
from optimizer.merging.vocabulary.members import (
    additions_to,
    check_opaque,
    losses,
    orphans,
    read_members,
    rulings_of,
)
from optimizer.merging.vocabulary.orders import Order, arrange
from optimizer.merging.vocabulary.request import BASE, UNION, TokenizerRequest
from optimizer.merging.vocabulary.rows import Column, Flat, VocabularyRows
from optimizer.merging.vocabulary.tokens import read_pool
from optimizer.merging.vocabulary.union import extend

MAX_MULTIPLE = 1 << 16


class NamedReader(NamedTuple):
    """A model and the key by which a recipe calls it."""

    key: str
    reader: Reader


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a merge's result.

    `size` is the number of rows of its embeddings, padding included. `companions` are the files beside the weights: a
    file to copy, or content. `special_ids` are the entries of config.json that hold ids of tokens, None where the
    result has no such token. `notes` are remarks for the user, a line each: what is left out or made up. `pool` and
    `orders`, by model, are empty where no tensor is changed.
    """

    size: int
    companions: Mapping[str, Path | bytes]
    special_ids: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pool: Mapping[str, Embeddings] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(default_factory=dict)

    def operand(self, model: str, name: str, tensor: TensorSource) -> TensorSource:
        """A tensor of a model with its rows in the order of this vocabulary; any tensor that has no row for every token
        is returned as it is, and so is one that has this order already.

        The dtype is the model's own where every row is a copy; float32 where some row is an average.

        Raises:
            PoolError: rows are to be taken from a model without such a tensor, or with another width.
        """
        if model not in self.orders or all(name not in other.names for other in self.pool.values()):
            return tensor
        order, keys = self.orders[model], list(self.pool)
        own = keys.index(model)
        sources = {own: tensor} | {at: self.pool[keys[at]].tensor(name) for at in sorted(order.models - {own})}
        for at, source in sources.items():
            if source.shape[1:] != tensor.shape[1:]:
                raise PoolError(
                    f"tensor {name}: rows of {list(source.shape[1:])} numbers in {keys[at]}, "
                    f"of {list(tensor.shape[1:])} in {model}",
                    mend="merge models of one width",
                )
        if len(tensor.shape) == 1:
            return Flat(VocabularyRows({at: Column(source) for at, source in sources.items()}, order, self.size))
        rows = VocabularyRows(sources, order, self.size)
        return tensor if rows.straight == own and tensor.shape[0] == self.size else rows

    def configure(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The content of config.json with this size and these ids of special tokens."""
        changed = {key: self.special_ids.get(key, value) for key, value in config.items()}
        inner = config.get("text_config")
        if isinstance(inner, dict):
            changed["text_config"] = {key: self.special_ids.get(key, value) for key, value in inner.items()}
        if self.orders:
            place = changed["text_config"] if isinstance(inner, dict) and "vocab_size" in inner else changed
            place["vocab_size"] = self.size
        return changed


def plan_vocabulary(
    base: NamedReader | None,
    models: Mapping[str, Reader],
    request: TokenizerRequest,
    folders: Mapping[str, Path] | None = None,
) -> Vocabulary:
    """Decide, from headers and tokenizer files alone, what the result's vocabulary is.

    Tokens of the source keep their ids; those of the other models follow in the order of the pool (base first) and of
    their ids, then those that only the rules name. Rows without a token (a padded vocabulary) are left out, which a
    note says; `pad_to_multiple_of` adds new ones, the mean of the others.

    Args:
        models: every model of the merge once; the base may be among them.
        folders: tokenizers that `request.source` may name beside the models.

    Raises:
        RecipeError: the request names what there is not, or a number out of range.
        PoolError: the tokenizers cannot be brought together.
        CheckpointError: a tokenizer that cannot be read safely.
    """
    pool = {**({base.key: base.reader} if base else {}), **models}
    if not pool:
        raise RecipeError("a tokenizer of no models found, expected one model or more")
    _check(request, pool, folders or {})
    if request.source is None:
        return _untouched(pool, request)
    core, members = read_members(pool, request.source, folders or {})
    if core.opaque:
        additions, ids, count = [], {}, check_opaque(members, request)
    else:
        additions = additions_to(core, members, request)
        ids = {**core.ids, **{addition.text: core.size + i for i, addition in enumerate(additions)}}
        count = core.size + len(additions)
    own = [member.own_rows(core, ids, count) for member in members]
    rulings = rulings_of(request, members, ids)
    orders = dict(zip(pool, arrange(own, 0 if base else None, rulings), strict=True))

    files, remarks = extend(core, additions) if additions else (tokenizer_files(core.folder), ())
    tokens = {member.key: member.tokens for member in members}
    target = Target(core, ids)
    donor = request.source if request.source in pool else members[0].key
    folders_of = {key: reader.folder for key, reader in pool.items()}
    companions, more = chat_files({**files}, request.chat_template, folders_of, tokens, target, donor)
    special = translated(language_config(pool[donor].config), target.translator(tokens[donor]))
    notes = (*remarks, *more, *losses(members, ids), *orphans(own, rulings, ids))
    multiple = request.pad_to_multiple_of or 1
    embeddings = {member.key: member.embeddings for member in members}
    return Vocabulary(-(-count // multiple) * multiple, companions, special, notes, embeddings, orders)


def _check(request: TokenizerRequest, pool: Mapping[str, Reader], folders: Mapping[str, Path]) -> None:
    known = (BASE, UNION, *pool, *folders)
    if request.source is not None and request.source not in known:
        raise _no_such("tokenizer source", request.source, known)
    if request.source is None and (request.tokens or request.pad_to_multiple_of is not None):
        raise RecipeError("token rules or padding found without a tokenizer source", mend="add source: union, or base")
    multiple = request.pad_to_multiple_of
    if multiple is not None and (type(multiple) is not int or not 1 <= multiple <= MAX_MULTIPLE):
        raise RecipeError(f"pad_to_multiple_of is {multiple!r}, expected a whole number from 1 to {MAX_MULTIPLE:,}")
    for text, rule in request.tokens.items():
        if not text:
            raise RecipeError("a rule for a token without text found", mend="name the token")
        if rule.model is not None and rule.model not in pool:
            raise _no_such(f"token {text!r}: model", rule.model, tuple(pool))


def _no_such(what: str, found: str, known: Sequence[str]) -> RecipeError:
    near = difflib.get_close_matches(found, known, n=1)
    mend = f"did you mean {near[0]!r}?" if near else "name one of these, or add the model to the recipe"
    return RecipeError(f"{what} {found!r} found, expected one of {', '.join(known)}", mend=mend)


def _untouched(pool: Mapping[str, Reader], request: TokenizerRequest) -> Vocabulary:
    """No tokenizer asked for: the files of one model, as they are but for a chat template that is asked for."""
    places = {key: reader.folder for key, reader in pool.items()}
    first, *rest = places.values()
    rows = Embeddings.of(next(iter(pool.values()))).rows
    if request.chat_template is None:
        return Vocabulary(rows, companions_of(first, rest))
    tokens = read_pool(places)
    donor = next((key for key, found in tokens.items() if found is not None), next(iter(pool)))
    core = tokens[donor]
    target = Target(core, {} if core is None else core.ids)
    files = tokenizer_files(places[donor])
    companions, notes = chat_files(files, request.chat_template, places, tokens, target, donor)
    return Vocabulary(rows, companions, notes=tuple(notes))
