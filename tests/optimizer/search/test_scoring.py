"""Scores are those of transformers' plain forward pass over each whole sequence, whatever is shared and batched."""

import random

import pytest
import torch

from optimizer.errors import SearchError
from optimizer.search.batches import Item
from optimizer.search.scoring import Scorer
from tests.optimizer.search import tiny


def plain(model: torch.nn.Module, item: Item) -> list[float]:
    """log p of every answer by one unbatched forward pass each, all logits."""
    result = []
    for answer in item.answers:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*item.prompt, *answer]])).logits[0]
        log_p = logits.double().log_softmax(-1)[len(item.prompt) - 1 : -1]
        result.append(log_p[range(len(answer)), list(answer)].sum().item())
    return result


def items(scorer: Scorer) -> list[Item]:
    chat = scorer.conversation
    questions = ["hi", "how do i pick a lock?", "x" * 40, "why is the sky blue, and the sea?", "name a bird", "?"]
    openings = [chat.opening(text) for text in ("sorry, no", "sorry, i", "sure", "s", "here is")]
    answers = [chat.answer(f"answer number {k}") for k in range(len(questions))]
    return [
        *(scorer.item(question, openings) for question in questions),
        *(scorer.item(question, [answer]) for question, answer in zip(questions, answers, strict=True)),
    ]


def flat(scorer: Scorer, chosen: list[Item]) -> list[float]:
    return [answer.log_p for answers in scorer.score(scorer.prepare(chosen)) for answer in answers]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_equals_the_plain_forward_pass(architecture: str) -> None:
    model = tiny.model(architecture)
    scorer = Scorer(model, tiny.tokenizer(), token_budget=300)
    chosen = items(scorer)
    expected = [log_p for item in chosen for log_p in plain(model, item)]
    assert flat(scorer, chosen) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_order_and_the_batches_change_nothing(architecture: str) -> None:
    model = tiny.model(architecture)
    one, many = (Scorer(model, tiny.tokenizer(), token_budget=budget) for budget in (1, 100_000))
    chosen = items(one)
    order = random.Random(0).sample(range(len(chosen)), len(chosen))
    shuffled = [chosen[k] for k in order]
    straight = {k: [a.log_p for a in answers] for k, answers in enumerate(one.score(one.prepare(chosen)))}
    for k, answers in zip(order, many.score(many.prepare(shuffled)), strict=True):
        assert [a.log_p for a in answers] == pytest.approx(straight[k], abs=1e-4)


def test_openings_share_their_prompt() -> None:
    scorer = Scorer(tiny.model("llama"), tiny.tokenizer())
    openings = [scorer.conversation.opening(text) for text in ("sorry, no", "sorry, i", "sure")]
    item = scorer.item("how do i pick a lock?", openings)
    (batch,) = scorer.prepare([item]).batches
    # "sorry, no" without its end, the "i" of "sorry, i" is an end, "sur"; s and so on are shared
    assert batch.input_ids.numel() == len(item.prompt) + len("sorry, n") + len("ur")


def test_a_recurrent_model_is_not_given_trees() -> None:
    scorer = Scorer(tiny.model("mamba"), tiny.tokenizer())
    item = scorer.item("hi", [scorer.conversation.opening(text) for text in ("no way", "yes sir")])
    (batch,) = scorer.prepare([item]).batches
    assert batch.input_ids.shape[0] == 2


def test_rows_longer_than_a_sliding_window_are_not_trees() -> None:
    scorer = Scorer(tiny.model("gemma2"), tiny.tokenizer())
    openings = [scorer.conversation.opening(text) for text in ("no", "yes")]
    short, long = (scorer.prepare([Item(tuple(range(n)), tuple(openings))]) for n in (8, 30))
    assert [b.input_ids.shape[0] for b in short.batches] == [1]
    assert [b.input_ids.shape[0] for b in long.batches] == [2]


def test_only_answer_positions_reach_the_head() -> None:
    model = tiny.model("llama")
    scorer = Scorer(model, tiny.tokenizer())
    prepared = scorer.prepare([scorer.item("a long question " * 8, [scorer.conversation.answer("yes")])])
    seen: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-2]))
    scorer.score(prepared)
    handle.remove()
    assert seen == [len("yes") + 1]


def test_an_answer_ends_with_the_token_that_ends_a_turn() -> None:
    scorer = Scorer(tiny.model("llama"), tiny.tokenizer())
    chat = scorer.conversation
    assert chat.text(chat.answer("yes")) == "yes<|end|>"
    assert chat.text(chat.opening("yes")) == "yes"
    assert chat.text(chat.prompt("why?")) == "<|start|>user\nwhy?<|end|>\n<|start|>assistant\n"


def test_without_such_a_token_in_the_template_an_answer_ends_the_text() -> None:
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    chat = Scorer(tiny.model("llama"), tiny.tokenizer(bare)).conversation
    assert chat.text(chat.answer("yes")) == "yes<|text|>"


def test_no_chat_template_is_an_error() -> None:
    with pytest.raises(SearchError, match="no chat template"):
        Scorer(tiny.model("llama"), tiny.tokenizer(None))


def test_long_answers_are_cut_and_long_questions_refused() -> None:
    scorer = Scorer(tiny.model("llama"), tiny.tokenizer(), max_tokens=64)
    item = scorer.item("hi", [scorer.conversation.answer("a" * 100)])
    assert len(item.prompt) + len(item.answers[0]) == 64
    with pytest.raises(SearchError, match="takes 1"):
        scorer.item("a" * 100, [scorer.conversation.answer("a")])


def test_a_broken_model_gets_numbers() -> None:
    model = tiny.model("llama")
    scorer = Scorer(model, tiny.tokenizer())
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    ((score,),) = scorer.score(scorer.prepare([scorer.item("hi", [scorer.conversation.answer("a")])]))
    assert score.log_p == -1e6


def test_log_likelihoods_are_differentiable() -> None:
    model = tiny.model("llama")
    scorer = Scorer(model, tiny.tokenizer())
    (batch,) = scorer.prepare([scorer.item("hi", [scorer.conversation.answer("yes")])]).batches
    scorer.token_log_p(batch).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
