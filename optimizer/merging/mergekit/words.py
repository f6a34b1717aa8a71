"""What a recipe asks about the tokenizer, in the terms of `vocabulary`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.checkpoint.source import Reader
from optimizer.merging.mergekit.schema import MergekitRecipe, TokenizerBlock, TokenOf, ZeroRow
from optimizer.merging.mergekit.schema import TokenRule as Rule
from optimizer.merging.vocabulary.plan import NamedReader, Vocabulary, plan_vocabulary
from optimizer.merging.vocabulary.request import TokenizerRequest, TokenRule


def vocabulary_of(
    recipe: MergekitRecipe, readers: Mapping[ModelReference, Reader], folder: Callable[[ModelReference], Path]
) -> Vocabulary:
    """The vocabulary of the result; without a tokenizer block, one model's as it is.

    Args:
        readers: every model of the recipe.
        folder: where a model lies that is there for its tokenizer alone.

    Raises:
        RecipeError, PoolError, CheckpointError: see `plan_vocabulary`.
    """
    block = recipe.tokenizer
    if recipe.tokenizer_source is not None:
        block = TokenizerBlock(recipe.tokenizer_source)
    pool = {str(reference): reader for reference, reader in readers.items()}
    root = None if recipe.base_model is None else NamedReader(str(recipe.base_model), readers[recipe.base_model])
    if block is None:
        return plan_vocabulary(root, pool, TokenizerRequest(chat_template=recipe.chat_template))
    request = TokenizerRequest(
        str(block.source),
        {token: _rule(rule) for token, rule in block.tokens.items() if rule.source is not None},
        block.pad_to_multiple_of,
        recipe.chat_template,
    )
    beside = {}
    if isinstance(block.source, ModelReference) and block.source not in readers:
        beside = {str(block.source): folder(block.source)}
    return plan_vocabulary(root, pool, request, beside)


def _rule(rule: Rule) -> TokenRule:
    if isinstance(rule.source, TokenOf):
        token = rule.source.token_id if rule.source.token is None else rule.source.token
        return TokenRule(str(rule.source.model), token, rule.force)
    if rule.source is None or isinstance(rule.source, ZeroRow):
        return TokenRule(None, None, rule.force)
    return TokenRule(str(rule.source), None, rule.force)
