"""Prompts to tokens by a model's own chat template, and where its answers end."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from datagen.errors import EngineError

#: stands for the message while the template is rendered; no template or tokenizer changes it
_PLACE = "0message0goes0here0"


class Renderer:
    """Renders one model's conversations of a single user message.

    Raises:
        EngineError: the folder has no readable tokenizer, or its tokenizer no chat template.
    """

    def __init__(self, model: Path) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError) as error:
            raise EngineError(f"the tokenizer of {model} cannot be read: {error}") from None
        if not self._tokenizer.chat_template:
            raise EngineError(
                f"the tokenizer of {model} has no chat template, expected one to render prompts with",
                mend="add chat_template.jinja to the folder",
            )
        added = self._tokenizer.added_tokens_decoder.values()
        self._special = [str(token) for token in added if token.special]
        self.stop_tokens = _stop_tokens(model, self._tokenizer)

    def tokens(self, prompt: str) -> list[int]:
        """Token ids of the conversation up to where the answer begins.

        Text in `prompt` that reads like a special token stays text: nobody ends a turn by writing its mark.
        """
        if not any(token in prompt for token in self._special):
            return self._encode(self._render(prompt))
        before, _, after = self._render(_PLACE).partition(_PLACE)
        message = self._tokenizer(prompt.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return self._encode(before) + list(message) + self._encode(after)

    def text(self, tokens: list[int]) -> str:
        """What tokens of an answer read as, without special tokens."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _render(self, message: str) -> str:
        conversation = [{"role": "user", "content": message}]
        return str(self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _stop_tokens(model: Path, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's, the config's and the generation config's, which often differ."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        try:
            ends = json.loads((model / name).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError):
            continue
        found |= {end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)}
    if tokenizer.eos_token_id is not None:
        found.add(int(tokenizer.eos_token_id))
    return sorted(found)
