"""Which chat template a merge carries. Imports no torch."""

import difflib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.compatibility import chat_template
from optimizer.merging.vocabulary.request import BASE

#: name → the token that ends a turn, None where it is the tokenizer's own end token
BUILTIN: Mapping[str, str | None] = {
    "alpaca": None,
    "chatml": "<|im_end|>",
    "exaone": "[|endofturn|]",
    "llama3": "<|eot_id|>",
    "mistral": None,
}
AUTO = "auto"
#: characters; the longest templates of published models, with all their tools, have some 20,000
MAX_TEMPLATE = 256 << 10


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}`, by which transformers finds what an assistant said."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own form)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class Template(NamedTuple):
    """`text` of the template; `model`: whose it is, None for one of no model; `end`: the token that ends its turns."""

    text: str
    model: str | None = None
    end: str | None = None


def choose_template(wanted: str, folders: Mapping[str, Path], base: str) -> Template | None:
    """The template that `wanted` (see `TokenizerRequest`) names among the models of a pool; `base` is one of them.

    "auto" counts equal templates; the first of the most common ones in the order of the pool wins. None: it was asked
    for a model's and there is none.

    Raises:
        RecipeError: neither a name, nor a model, nor Jinja that can be parsed; or too long.
        CheckpointError: a model's template cannot be read safely.
    """
    if wanted == AUTO:
        found = {key: text.strip() for key, folder in folders.items() if (text := chat_template(folder)) is not None}
        if not found:
            return None
        common = max(Counter(found.values()).items(), key=lambda item: item[1])[0]
        key = next(key for key, text in found.items() if text == common)
        return Template(_parsed(common, f"chat template of {key}"), key)
    if wanted in folders or wanted == BASE:
        key = base if wanted == BASE else wanted
        text = chat_template(folders[key])
        return None if text is None else Template(_parsed(text, f"chat template of {key}"), key)
    if wanted in BUILTIN:
        text = (Path(__file__).parent / "templates" / f"{wanted}.jinja").read_text(encoding="utf-8")
        return Template(text, None, BUILTIN[wanted])
    if "{" not in wanted:
        names = [AUTO, BASE, *BUILTIN, *folders]
        near = difflib.get_close_matches(wanted, names, n=1)
        raise RecipeError(
            f"chat_template {wanted[:80]!r} found, expected {AUTO}, {BASE}, {', '.join(BUILTIN)}, a model of the "
            "recipe, or a Jinja template",
            mend=f"did you mean {near[0]!r}?" if near else None,
        )
    return Template(_parsed(wanted, "chat_template"))


def _parsed(text: str, what: str) -> str:
    """The text itself, if it is a template of sensible size. It is not rendered here."""
    if len(text) > MAX_TEMPLATE:
        raise RecipeError(f"{what}: {len(text):,} characters, at most {MAX_TEMPLATE:,}", mend="give a shorter template")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    try:
        environment.parse(text)  # compiling would compute constants: {{ 'a' * 10**10 }}
    except TemplateSyntaxError as error:
        raise RecipeError(f"{what}: {error.message}, line {error.lineno}", mend="correct the Jinja template") from None
    except (TemplateError, RecursionError, MemoryError, OverflowError, SyntaxError, ValueError) as error:
        raise RecipeError(f"{what}: not a template ({error})", mend="correct the Jinja template") from None
    return text
