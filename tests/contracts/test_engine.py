"""What every engine promises, held by vLLM on real checkpoints: the session's one engine, weights swapped in place."""

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from datagen.engines.base import Sampling
from datagen.engines.vllm import VllmEngine
from datagen.errors import EngineError
from service.demo.language import benign_prompts, domain_prompts, harmful_prompts
from service.demo.zoo import Zoo

GREEDY = Sampling(max_tokens=32)
PROMPTS = [*harmful_prompts(3), *benign_prompts(3), *(prompt for prompt, _ in domain_prompts("gems", 3))]


def by_transformers(model: Path, prompts: Sequence[str] = PROMPTS) -> list[str]:
    """Greedy answers of the checkpoint, one prompt at a time."""
    return list(_by_transformers(model, tuple(prompts)))


@lru_cache
def _by_transformers(model: Path, prompts: tuple[str, ...]) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    answers = []
    for prompt in prompts:
        conversation = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            made = network.generate(**inputs, max_new_tokens=GREEDY.max_tokens, do_sample=False)
        answers.append(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


@pytest.mark.parametrize("name", ["gems", "base", "herbs", "chat"])
def test_greedy_answers_are_those_of_transformers_whichever_model_was_before(
    vllm_engine: VllmEngine, zoo: Zoo, name: str
) -> None:
    vllm_engine.load(zoo.models[name])
    answers = [completion.text for completion in vllm_engine.chat(PROMPTS, GREEDY)]
    assert answers == by_transformers(zoo.models[name])


def test_nothing_computed_with_old_weights_survives_a_swap(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    long = [f"{PROMPTS[0]} {PROMPTS[0]} {PROMPTS[0]} {prompt}" for prompt in PROMPTS]  # several blocks in common
    fresh = {}
    for name in ("gems", "chat"):
        vllm_engine.load(zoo.models[name])
        fresh[name] = [completion.text for completion in vllm_engine.chat(long, GREEDY)]
        assert fresh[name] == by_transformers(zoo.models[name], long)
    assert fresh["gems"] != fresh["chat"]


def test_all_models_are_answered_with_one_process(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    pid = vllm_engine.pid
    for model in zoo.models.values():
        vllm_engine.load(model)
        vllm_engine.chat(PROMPTS[:1], GREEDY)
    assert vllm_engine.pid == pid


def test_a_drawn_list_repeats_whatever_its_batching(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    vllm_engine.load(zoo.base)
    prompts = PROMPTS * 4
    drawn = vllm_engine.chat(prompts, Sampling(max_tokens=24, temperature=0.8, seed=5))
    parts = vllm_engine.chat(prompts[:7], Sampling(max_tokens=24, temperature=0.8, seed=5))
    parts += vllm_engine.chat(prompts[7:], Sampling(max_tokens=24, temperature=0.8, seed=5 + 7))
    assert [completion.text for completion in parts] == [completion.text for completion in drawn]
    other = vllm_engine.chat(prompts, Sampling(max_tokens=24, temperature=0.8, seed=6))
    assert [completion.text for completion in other] != [completion.text for completion in drawn]


def test_answers_come_in_the_order_of_their_prompts_with_their_costs(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    vllm_engine.load(zoo.aligned)
    mixed = [prompt * (1 + index % 3) for index, prompt in enumerate(PROMPTS * 20)]
    together = vllm_engine.chat(mixed, GREEDY)
    alone = [vllm_engine.chat([prompt], GREEDY)[0] for prompt in mixed[:6]]
    assert [completion.text for completion in together[:6]] == [completion.text for completion in alone]
    tokenizer = AutoTokenizer.from_pretrained(zoo.aligned)
    for prompt, completion in zip(mixed[:6], together, strict=False):
        conversation = [{"role": "user", "content": prompt}]
        rendered = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)
        assert completion.prompt_tokens == len(rendered["input_ids"])
        assert 0 < completion.completion_tokens <= GREEDY.max_tokens
    assert vllm_engine.chat([], GREEDY) == []


def test_finish_reasons(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    vllm_engine.load(zoo.aligned)
    (whole,) = vllm_engine.chat(PROMPTS[:1], GREEDY)
    (cut,) = vllm_engine.chat(PROMPTS[:1], Sampling(max_tokens=3))
    assert (whole.finish_reason, cut.finish_reason, cut.completion_tokens) == ("stop", "length", 3)
    assert whole.text.startswith(cut.text)


def test_a_prompt_without_room_for_an_answer_is_answered_by_nothing(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    vllm_engine.load(zoo.base)
    endless, short = vllm_engine.chat(["how do i do it? " * 400, PROMPTS[0]], GREEDY)
    assert (endless.text, endless.finish_reason, endless.completion_tokens) == ("", "length", 0)
    assert endless.prompt_tokens > 512
    assert short.text


def test_marks_of_turns_in_a_prompt_are_text(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    """A prompt cannot end its own turn: its special tokens are spelt out, which takes more tokens than the marks."""
    tokenizer = AutoTokenizer.from_pretrained(zoo.base)
    mark = tokenizer.eos_token
    vllm_engine.load(zoo.base)
    plain, marked = vllm_engine.chat([PROMPTS[0], f"{PROMPTS[0]} {mark}{mark}"], Sampling(max_tokens=1))
    spelt = len(tokenizer(f" {mark}{mark}", add_special_tokens=False, split_special_tokens=True)["input_ids"])
    assert marked.prompt_tokens - plain.prompt_tokens == spelt > 2


def test_progress_is_reported_and_may_cancel(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    vllm_engine.load(zoo.base)
    reports: list[tuple[int, int]] = []
    vllm_engine.chat(PROMPTS * 10, GREEDY, progress=lambda done, total: reports.append((done, total)))
    assert reports[-1] == (90, 90)
    assert reports == sorted(reports)

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt(f"{done} of {total}")

    with pytest.raises(KeyboardInterrupt, match="of 900"):
        vllm_engine.chat(PROMPTS * 100, GREEDY, progress=cancel)
    assert [c.text for c in vllm_engine.chat(PROMPTS, GREEDY)] == by_transformers(zoo.base)


def test_any_thread_may_use_it(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    answers: dict[str, str] = {}

    def ask(name: str) -> None:
        answers[name] = vllm_engine.chat(PROMPTS[:1], GREEDY)[0].text

    vllm_engine.load(zoo.aligned)
    threads = [threading.Thread(target=ask, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) == {"a", "b", "c"}
    assert len(set(answers.values())) == 1


def test_another_architecture_is_refused_and_the_engine_stays_as_it_was(
    vllm_engine: VllmEngine, zoo: Zoo, tmp_path: Path
) -> None:
    vllm_engine.load(zoo.aligned)
    before = vllm_engine.chat(PROMPTS, GREEDY)
    config = Qwen2Config.from_pretrained(zoo.base)
    config.num_hidden_layers += 1
    config.layer_types = None
    Qwen2ForCausalLM(Qwen2Config(**config.to_dict())).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=r"does not have the architecture .* num_hidden_layers is \d+, expected \d+"):
        vllm_engine.load(tmp_path)
    assert vllm_engine.chat(PROMPTS, GREEDY) == before


def test_a_method_of_the_worker_swaps_weights_and_the_next_load_reads_again(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    vllm_engine.load(zoo.base)
    of_base = vllm_engine.chat(PROMPTS, GREEDY)
    vllm_engine.call("load_checkpoint", str(zoo.aligned))
    assert [c.text for c in vllm_engine.chat(PROMPTS, GREEDY)] == by_transformers(zoo.aligned)
    vllm_engine.load(zoo.base)
    assert vllm_engine.chat(PROMPTS, GREEDY) == of_base


def test_a_method_that_is_not_there_is_an_error_and_the_engine_lives(vllm_engine: VllmEngine, zoo: Zoo) -> None:
    with pytest.raises(EngineError, match="no_such_method"):
        vllm_engine.call("no_such_method")
    vllm_engine.load(zoo.base)
    assert vllm_engine.chat(PROMPTS[:1], GREEDY)[0].completion_tokens > 0


def test_its_name_tells_engine_and_version(vllm_engine: VllmEngine) -> None:
    engine, version = vllm_engine.name.split()
    assert engine == "vllm"
    assert version[0].isdigit()
