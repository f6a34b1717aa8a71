"""Vocabularies: every token has the row that mergekit gives it."""

import json
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from tests.parity.cases import Case
from tests.parity.compare import differences, load
from tests.parity.conftest import Bench
from tests.parity.vocabularies import TEMPLATES, VOCABULARIES

WIDE = ("model.embed_tokens.weight", "lm_head.weight")


def vocabulary(folder: Path) -> dict[str, int]:
    """Token → row."""
    found: dict[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return found


def template(folder: Path) -> str | None:
    """The chat template, which has a file of its own or stands in the tokenizer's configuration."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text()
    found: str | None = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
    return found


def said(text: str | None) -> str | None:
    """What a template makes of a talk: a built-in one is called the same in mergekit and written differently."""
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}, {"role": "user", "content": "?"}]
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return None if text is None else jinja.from_string(text).render(messages=talk, add_generation_prompt=True)


@pytest.mark.parametrize("case", VOCABULARIES, ids=lambda case: case.name)
def test_every_token_has_the_row_that_mergekit_gives_it(case: Case, bench: Bench) -> None:
    theirs = bench.peers(case)
    ours = bench.tempers(case)
    rows, other_rows = vocabulary(ours), vocabulary(theirs)
    assert rows.keys() == other_rows.keys()
    merged, other = load(ours), load(theirs)
    order = sorted(rows)
    for name in WIDE:
        if name in other:
            padding, other_padding = merged[name][len(rows) :], other[name][len(other_rows) :]
            assert not differences({"padding": padding[: len(other_padding)]}, {"padding": other_padding})
            merged[name] = merged[name][[rows[token] for token in order]]
            other[name] = other[name][[other_rows[token] for token in order]]
    assert not differences(merged, other)


@pytest.mark.parametrize("case", VOCABULARIES, ids=lambda case: case.name)
def test_the_configuration_has_the_size_of_the_embedding(case: Case, bench: Bench) -> None:
    ours = bench.tempers(case)
    size = json.loads((ours / "config.json").read_text())["vocab_size"]
    assert size == len(load(ours)["model.embed_tokens.weight"])
    if case.pool != "padded":
        assert size == json.loads((bench.peers(case) / "config.json").read_text())["vocab_size"]


@pytest.mark.parametrize("case", TEMPLATES, ids=lambda case: case.name)
def test_the_chat_template_is_the_one_that_mergekit_takes(case: Case, bench: Bench) -> None:
    ours = bench.tempers(case)
    assert said(template(ours)) == said(template(bench.peers(case)))
