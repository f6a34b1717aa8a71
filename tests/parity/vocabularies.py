"""Recipes that change the vocabulary. Rows are compared by token: mergekit adds tokens in the order of a set."""

from tests.parity.cases import BASE, Case, write

AB = {"a": {"weight": 0.5}, "b": {"weight": 0.25}}


def think(rule: object) -> dict[str, object]:
    """A rule for <|think|>, which only model b has."""
    return {"tokenizer": {"source": "union", "tokens": {"<|think|>": rule}}}


def arithmetic(name: str, pool: str = "vocabularies", **rest: object) -> Case:
    """Task arithmetic of models a and b with the vocabulary that `rest` asks for."""
    return Case(f"vocabulary: {name}", write("task_arithmetic", AB, **BASE, **rest), pool)


MODEL_TOKEN = {"kind": "model_token", "model": "POOL/a"}
VOCABULARIES = [
    arithmetic("base", tokenizer_source="base"),
    arithmetic("union", tokenizer_source="union"),
    arithmetic("path", tokenizer_source="POOL/b"),
    arithmetic("section without a word", tokenizer={}),
    arithmetic("union of tied models", "vocabularies-tied", tokenizer_source="union"),
    arithmetic("base of tied models", "vocabularies-tied", tokenizer={"source": "base"}),
    arithmetic("path in the section", tokenizer={"source": "POOL/a"}),
    arithmetic("padded to a multiple", tokenizer={"source": "union", "pad_to_multiple_of": 32}),
    arithmetic("multiple that already holds", tokenizer={"source": "base", "pad_to_multiple_of": 4}),
    arithmetic("padded embeddings", "padded", tokenizer_source="union"),
    arithmetic("zero", **think({"source": {"kind": "zero"}})),
    arithmetic("source of a token", **think({"source": "POOL/b"})),
    arithmetic("forced", **think({"source": "POOL/b", "force": True})),
    arithmetic("another model's token", **think({"source": {**MODEL_TOKEN, "token": "<|tool|>"}})),
    arithmetic("another model's token by number", **think({"source": {**MODEL_TOKEN, "token_id": 7}, "force": True})),
    Case(
        "vocabulary: union without a base",
        write("linear", {"b": {"weight": 0.5}, "a": {"weight": 0.5}}, tokenizer_source="union"),
        "vocabularies",
    ),
    Case(
        "vocabulary: union under ties",
        write("ties", {"a": {"weight": 0.5, "density": 0.5}, "b": {"weight": 0.5}}, **BASE, tokenizer_source="union"),
        "vocabularies",
    ),
]

TEMPLATES = [
    arithmetic("template of the base", "chatty"),
    arithmetic("most common template", "chatty", chat_template="auto"),
    arithmetic("template by name", "chatty", chat_template="chatml"),
    arithmetic("template as text", "chatty", chat_template="{% for m in messages %}[{{ m['content'] }}]{% endfor %}"),
    arithmetic("most common template of a union", tokenizer_source="union", chat_template="auto"),
]
