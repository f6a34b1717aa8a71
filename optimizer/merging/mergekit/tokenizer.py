"""The `tokenizer:` block of a recipe."""

from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.mergekit.document import Cursor
from optimizer.merging.mergekit.references import read_reference
from optimizer.merging.mergekit.schema import TokenizerBlock, TokenOf, TokenRule, ZeroRow

KINDS = ("zero", "model_token")


def read_source(place: Cursor) -> str | ModelReference:
    """ "base", "union" or a model. Raises RecipeError for anything else."""
    if not isinstance(place.value, dict) and place.word() in ("base", "union"):
        return place.word()
    return read_reference(place)


def read_tokenizer(place: Cursor) -> TokenizerBlock:
    """The block, its defaults filled in.

    Raises:
        RecipeError: an unknown key, a rule that names no row, or an ill-typed value.
    """
    fields = place.fields(("source", "tokens", "pad_to_multiple_of"))
    return TokenizerBlock(
        read_source(fields["source"]) if "source" in fields else "union",
        {token: _rule(rule) for token, rule in fields["tokens"].entries().items()} if "tokens" in fields else {},
        fields["pad_to_multiple_of"].whole(1) if "pad_to_multiple_of" in fields else None,
    )


def _rule(place: Cursor) -> TokenRule:
    fields = place.fields(("source", "force"))
    force = fields["force"].flag() if "force" in fields else False
    if "source" not in fields:
        return TokenRule(None, force)
    source = fields["source"]
    if not isinstance(source.value, dict) or "kind" not in source.value:
        return TokenRule(read_reference(source), force)
    inner = source.fields(("kind", "model", "token", "token_id"))
    if inner["kind"].choice(KINDS) == "zero":
        return TokenRule(ZeroRow(), force)
    if "model" not in inner or ("token" in inner) == ("token_id" in inner):
        raise source.error("expected `model` and one of `token`, `token_id`")
    model = read_reference(inner["model"])
    if "token" in inner:
        return TokenRule(TokenOf(model, token=inner["token"].word()), force)
    return TokenRule(TokenOf(model, token_id=inner["token_id"].whole(0)), force)
