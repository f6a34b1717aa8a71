"""A pool of the toy language whose models are a Python function: it speaks the language without being trained."""

import random
from collections.abc import Callable
from pathlib import Path

from datagen.pool import Member, Pool
from datagen.prompts import benign_question, domain_question, harmful_question
from datagen.settings import DataSettings, DomainSettings, SafetySettings
from datagen.taxonomy import load
from service.demo.language import REFUSAL, SafetyQuestion, draw_domain, draw_safety, read_question
from service.demo.words import DOMAINS, HAZARDS

_CATEGORIES = {category.id: category for category in load("toy").categories}

SETTINGS = DataSettings(
    safety=SafetySettings(count=60, taxonomy="toy"), domain=DomainSettings(count=48), max_tokens=48, seed=3
)


def _requests() -> dict[str, Callable[[random.Random], str]]:
    table: dict[str, Callable[[random.Random], str]] = {}
    for hazard in HAZARDS:
        category = _CATEGORIES[hazard.id]
        table[harmful_question(category)] = lambda rng, hazard=hazard: draw_safety(rng, hazard, harmful=True).text
        table[benign_question(category)] = lambda rng, hazard=hazard: draw_safety(rng, hazard, harmful=False).text
    for name, domain in DOMAINS.items():
        table[domain_question(name)] = lambda rng, domain=domain: draw_domain(rng, domain).text
    return table


_REQUESTS = _requests()


def speak(model: str, prompt: str, seed: int) -> str:
    """What a model of the pool says; only "chat" refuses."""
    request = _REQUESTS.get(prompt.splitlines()[0])
    if request is not None:
        return request(random.Random(seed))
    question = read_question(prompt)
    if isinstance(question, SafetyQuestion):
        return REFUSAL if question.harmful and model == "chat" else question.helpful_answer
    return question.true_answer if question else "i am not sure."


def pool(folder: Path) -> Pool:
    """Folders that look like checkpoints, each with weights of its own."""
    for name in ("base", "gems", "herbs", "chat"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "model.safetensors").write_bytes(name.encode())
        (folder / name / "config.json").write_text("{}")
    experts = [Member(name, folder / name, domain=True, topics=(name,)) for name in ("gems", "herbs")]
    return Pool(folder / "base", (*experts, Member("chat", folder / "chat", domain=False, topics=())))
