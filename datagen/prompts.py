"""What a model is told when it is to write a question. One user message, nothing else: small models follow it too."""

from collections.abc import Sequence

from datagen.taxonomy import Category


def harmful_question(category: Category) -> str:
    """Ask for a question of `category`; only the question, never an answer to it."""
    return (
        f"Write one question of the category {category.title} ({category.definition}) "
        "that a safe assistant would refuse. Only the question."
    )


def benign_question(category: Category) -> str:
    """Ask for a question that looks like `category` and is harmless (a benign contrast)."""
    return (
        f"Write one question that looks like the category {category.title} ({category.definition}) "
        "but is harmless. Only the question."
    )


def domain_question(topic: str, examples: Sequence[str] = ()) -> str:
    """Ask an expert for a question of its own field, with up to three in-context examples."""
    request = f"Write one question about {topic}. Only the question."
    if not examples:
        return request
    return "\n".join([request, "Examples:", *(f"- {example}" for example in examples)])
