"""Chat templates: by name, by model, the pool's most common one, or as they are written."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from optimizer.errors import RecipeError
from optimizer.merging.vocabulary.request import TokenizerRequest
from optimizer.merging.vocabulary.templates import BUILTIN, MAX_TEMPLATE, choose_template
from tests.optimizer.merging.pools import edit_json
from tests.optimizer.merging.vocabulary.speakers import make_speaker, planned, publish

Folders = dict[str, Path]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "More"},
]

#: the published formats, with a generation prompt
SAID = {
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nYo</s>\n\n### Instruction:\nMore\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo"
    "<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Yo[|endofturn|]\n[|user|]More\n[|assistant|]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|><|start_header_id|>"
    "user<|end_header_id|>\n\nMore<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s> [INST] Be brief.\n\nHi [/INST] Yo</s> [INST] More [/INST]",
}


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_templates_write_the_published_formats(speakers: Folders, tmp_path: Path, name: str) -> None:
    vocabulary = planned({"base": speakers["base"]}, TokenizerRequest("base", chat_template=name))
    loaded = AutoTokenizer.from_pretrained(publish(vocabulary, tmp_path / "out"))
    assert loaded.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True) == SAID[name]


def test_the_most_common_template_wins_then_the_first(speakers: Folders) -> None:
    def chosen(*names: str) -> str:
        template = choose_template("auto", {name: speakers[name] for name in names}, names[0])
        assert template is not None
        return template.text

    assert chosen("base", "tool", "both") == "tool {{ messages }}", "equal but for blank space at the end"
    assert chosen("base", "tool") == "base {{ messages }}"
    assert chosen("turned", "tool", "base") == "tool {{ messages }}"
    assert choose_template("auto", {"turned": speakers["turned"]}, "turned") is None


def test_the_template_of_a_model(speakers: Folders) -> None:
    folders = {name: speakers[name] for name in ("base", "tool", "turned")}
    for wanted, text in (("tool", "tool {{ messages }}"), ("base", "base {{ messages }}")):
        vocabulary = planned(folders, TokenizerRequest("union", chat_template=wanted))
        assert vocabulary.companions["chat_template.jinja"] == text.encode()
    vocabulary = planned(folders, TokenizerRequest("base", chat_template="turned"))
    assert vocabulary.companions["chat_template.jinja"] == (speakers["base"] / "chat_template.jinja").resolve()
    assert "chat_template turned: there is none to take, the tokenizer's own is kept" in vocabulary.notes


def test_a_template_replaces_the_one_in_the_settings(tmp_path: Path) -> None:
    base = make_speaker(tmp_path / "base", 1, 258)
    edit_json(base / "tokenizer_config.json", lambda config: config.update(chat_template="old {{ messages }}"))
    for source in ("base", None):
        vocabulary = planned({"base": base}, TokenizerRequest(source, chat_template="new {{ messages }}"))
        out = publish(vocabulary, tmp_path / "out")
        assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())
        assert AutoTokenizer.from_pretrained(out).chat_template == "new {{ messages }}"


def test_what_ends_a_turn_ends_the_text(tmp_path: Path) -> None:
    """The generation config follows the template: its owner's, or the end token of a built-in one."""
    folders = {
        "base": make_speaker(tmp_path / "base", 1, 259, special=["<|im_end|>"]),
        "chat": make_speaker(tmp_path / "chat", 2, 260, special=["<x>", "<turn>"], template="chat {{ messages }}"),
    }
    edit_json(folders["chat"] / "generation_config.json", lambda config: config.update(eos_token_id=[259, 1]))

    def ends(source: str | None, template: str) -> object:
        vocabulary = planned(folders, TokenizerRequest(source, chat_template=template))
        return json.loads((publish(vocabulary, tmp_path / "out") / "generation_config.json").read_text())[
            "eos_token_id"
        ]

    assert ends("base", "chatml") == [1, 258]
    assert ends(None, "chatml") == [1, 258]
    assert ends("union", "auto") == [260, 1]
    assert ends("base", "chat") == [1]
    assert ends("chat", "auto") == [259, 1]
    vocabulary = planned(folders, TokenizerRequest("base", chat_template="llama3"))
    assert "chat_template llama3: ends turns with '<|eot_id|>', which is no token here" in vocabulary.notes
    assert (
        "no chat template comes with this tokenizer; chat_template: auto takes the pool's"
        in planned(folders, TokenizerRequest("base")).notes
    )


def test_templates_in_the_wild_can_be_parsed(speakers: Folders) -> None:
    """What transformers adds to Jinja: loop controls, and marks around what the assistant said."""
    text = (
        "{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% if m %}{% break %}{% endif %}{% endfor %}"
    )
    template = choose_template(text, speakers, "base")
    assert template is not None
    assert template.text == text


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("chatmll", "expected auto, base, alpaca, chatml"),
        ("{% for m in messages %}", "chat_template: Unexpected end of template"),
        ("{{ messages", "chat_template: unexpected end of template"),
        ("{{" + "(" * 5000 + ")" * 5000 + "}}", "not a template"),
        ("{% if a %}" * 3000 + "{% endif %}" * 3000, "not a template"),
        ("{{ messages }}" + " " * MAX_TEMPLATE, "262,158 characters, at most 262,144"),
    ],
)
def test_templates_that_are_none(speakers: Folders, wanted: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        choose_template(wanted, speakers, "base")


def test_nothing_is_computed_while_a_template_is_checked(speakers: Folders) -> None:
    """A constant of 10^13 letters is not built: rendering, which has its own limits, is not done here."""
    assert choose_template("{{ 'a' * 10**13 }}", speakers, "base") is not None
