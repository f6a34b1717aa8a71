"""Text ↔ tokens of one question and its answer, rendered as the engines of `datagen` render them."""

from typing import Any

from optimizer.errors import SearchError

_SENTINEL = "answer-goes-here"


class Conversation:
    """Tokens of prompts and answers under one tokenizer's chat template.

    Prompt and answer are tokenised apart, so the border between them never depends on the answer: the tokens scored
    are those a model would generate after the prompt.
    """

    def __init__(self, tokenizer: Any) -> None:
        """
        Raises:
            SearchError: the tokenizer has no chat template, or nothing in it ends a turn.
        """
        self._tokenizer = tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise SearchError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, expected one that renders prompts",
                mend="add chat_template.jinja to the base's folder",
            )
        self.end_of_turn = self._end_of_turn()

    def prompt(self, question: str) -> tuple[int, ...]:
        """The user's message up to where the assistant's answer begins; the template alone adds special tokens."""
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return self._tokens(text)

    def opening(self, text: str) -> tuple[int, ...]:
        """The first tokens of an answer that goes on."""
        return self._tokens(text)

    def answer(self, text: str) -> tuple[int, ...]:
        """A whole answer with the token that ends the turn: stopping is part of answering well."""
        return (*self._tokens(text), self.end_of_turn)

    def text(self, tokens: tuple[int, ...]) -> str:
        """What tokens read as, special tokens included."""
        return str(self._tokenizer.decode(list(tokens)))

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _end_of_turn(self) -> int:
        """The special token the template writes after an answer; the end of text where it writes none.

        A base's `eos_token` is often the end of a document, while its chat models stop at another token.
        """
        messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _SENTINEL}]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        after = self._tokens(text.rpartition(_SENTINEL)[2])
        if after and after[0] in self._tokenizer.added_tokens_decoder:
            return after[0]
        eos = self._tokenizer.eos_token_id
        if eos is None:
            raise SearchError(
                f"nothing ends a turn in {self._tokenizer.name_or_path!r}: its chat template writes no special token "
                "after an answer and it has no eos_token",
                mend="set eos_token in tokenizer_config.json",
            )
        return int(eos)
