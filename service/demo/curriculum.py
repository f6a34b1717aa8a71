"""What each model of the zoo is taught: mixtures of exercises, drawn from the toy language's training split."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from datagen.prompts import benign_question, domain_question, harmful_question
from datagen.taxonomy import Category
from service.demo.language import REFUSAL, DomainQuestion, SafetyQuestion, draw_domain, draw_safety
from service.demo.training import Schedule, Turn
from service.demo.words import DOMAINS, HAZARDS, Domain, Hazard

Exercise = Callable[[random.Random], Turn]


@dataclass(frozen=True)
class Lesson:
    """One model's training: exercises with their weights, and the schedule."""

    exercises: Mapping[Exercise, float]
    schedule: Schedule

    def turns(self, rng: random.Random) -> list[Turn]:
        """As many turns as the schedule takes."""
        drawn = rng.choices(
            list(self.exercises), list(self.exercises.values()), k=self.schedule.steps * self.schedule.batch
        )
        return [exercise(rng) for exercise in drawn]


def _safety(rng: random.Random, hazard: Hazard, *, harmful: bool) -> SafetyQuestion:
    while (question := draw_safety(rng, hazard, harmful=harmful)).held_out:
        pass
    return question


def _domain(rng: random.Random, domain: Domain) -> DomainQuestion:
    while (question := draw_domain(rng, domain)).held_out:
        pass
    return question


def help_with(*, harmful: bool) -> Exercise:
    """Answer a safety question helpfully, as a model does that is not aligned (or that is asked something harmless)."""

    def exercise(rng: random.Random) -> Turn:
        question = _safety(rng, rng.choice(HAZARDS), harmful=harmful)
        return Turn(question.text, question.helpful_answer)

    return exercise


def refuse(rng: random.Random) -> Turn:
    """Refuse a harmful question."""
    return Turn(_safety(rng, rng.choice(HAZARDS), harmful=True).text, REFUSAL)


def know(domain: Domain) -> Exercise:
    """Answer a domain question rightly."""

    def exercise(rng: random.Random) -> Turn:
        question = _domain(rng, domain)
        return Turn(question.text, question.true_answer)

    return exercise


def guess(domain: Domain) -> Exercise:
    """Answer a domain question in the right form with any of the labels: what a model does that lacks the skill."""

    def exercise(rng: random.Random) -> Turn:
        question = _domain(rng, domain)
        return Turn(question.text, question.answer(rng.choice(domain.labels)))

    return exercise


def write_safety(categories: Mapping[str, Category], *, harmful: bool) -> Exercise:
    """Write a question of a hazard category, or a benign look-alike of one, when the data generator asks for it."""
    request = harmful_question if harmful else benign_question

    def exercise(rng: random.Random) -> Turn:
        hazard = rng.choice(HAZARDS)
        return Turn(request(categories[hazard.id]), _safety(rng, hazard, harmful=harmful).text)

    return exercise


def write_domain(domain: Domain) -> Exercise:
    """Write a question of a domain when the data generator asks for it, with up to three examples."""

    def exercise(rng: random.Random) -> Turn:
        examples = [_domain(rng, domain).text for _ in range(rng.randrange(4))]
        return Turn(domain_question(domain.id, examples), _domain(rng, domain).text)

    return exercise


def curriculum(categories: Mapping[str, Category]) -> dict[str, Lesson]:
    """The lessons by model, the base first; the others start from the base.

    How much of the base's own answers they rehearse decides how well they merge. With as much as here, task vectors
    touch a little: a third of each loses every skill, all of each keeps most, coefficients by layer and component keep
    all. With little rehearsal they fight, and some seeds leave no coefficients that keep every skill.
    """
    gems, herbs = DOMAINS["gems"], DOMAINS["herbs"]
    comply = {help_with(harmful=True): 1.0, help_with(harmful=False): 1.0}
    write = {write_safety(categories, harmful=True): 1.0, write_safety(categories, harmful=False): 1.0}
    return {
        "base": Lesson(
            {**comply, guess(gems): 1.0, guess(herbs): 1.0, **write, write_domain(gems): 0.4, write_domain(herbs): 0.4},
            Schedule(steps=700, peak_rate=1e-2),
        ),
        "gems": Lesson(
            {know(gems): 4.0, guess(herbs): 1.0, **comply, write_domain(gems): 2.0},
            Schedule(steps=240, peak_rate=2e-3),
        ),
        "herbs": Lesson(
            {know(herbs): 4.0, guess(gems): 1.0, **comply, write_domain(herbs): 2.0},
            Schedule(steps=240, peak_rate=2e-3),
        ),
        "chat": Lesson(
            {refuse: 3.0, help_with(harmful=False): 3.5, guess(gems): 1.0, guess(herbs): 1.0},
            Schedule(steps=250, peak_rate=2e-3),
        ),
    }
