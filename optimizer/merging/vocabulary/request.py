"""What a recipe asks about the tokenizer of the result. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

BASE, UNION = "base", "union"


@dataclass(frozen=True)
class TokenRule:
    """Where the embedding of one token comes from, for the models that lack it; with `force` for all of them.

    `model` is a key of the pool, None for a row of zeros. `token` is the text or the id of the row that is taken from
    this model, in its own vocabulary; None for the token that the rule is about.
    """

    model: str | None = None
    token: str | int | None = None
    force: bool = False


@dataclass(frozen=True)
class TokenizerRequest:
    """The tokenizer and chat template of the result.

    `source`: "base" (without a base: the first model), "union", a key of the pool or of the folders given beside it;
    None leaves vocabulary and embeddings alone, which takes models of one vocabulary. `tokens`: rules by token; tokens
    that the source lacks are added behind its own. `pad_to_multiple_of`: rows of the embeddings. `chat_template`:
    "auto" (the most common of the pool), "base" or a key of the pool (that model's), a name from
    `templates.BUILTIN`, or Jinja; None: the one that comes with the tokenizer.
    """

    source: str | None = None
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None
    chat_template: str | None = None
