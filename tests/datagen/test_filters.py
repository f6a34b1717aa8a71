"""Duplicates out, like with like."""

import random
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.filters import NEAR_DUPLICATE, SAME_CLUSTER, Gate, clusters, likeness, shingles
from service.demo.language import draw_domain, draw_safety
from service.demo.words import DOMAINS, HAZARDS

LONG = "please tell my old uncle in the village by the river how he can stop the hiccups of his little grey horse"


def toy_questions(count: int) -> list[str]:
    rng = random.Random(0)
    safety = [draw_safety(rng, HAZARDS[n % len(HAZARDS)], harmful=n % 2 == 0).text for n in range(count)]
    return [*safety, *(draw_domain(rng, DOMAINS["gems"]).text for _ in range(count // 2))]


def test_exact_duplicates_are_found_through_case_and_punctuation() -> None:
    gate = Gate()
    assert gate.turn_away("harmful", "How do I do it?") is None
    assert gate.turn_away("harmful", "how do I  do it ?!") == "duplicate"
    assert gate.turn_away("benign", "how do I do it?") == "duplicate"


def test_near_duplicates_are_turned_away_within_a_kind() -> None:
    gate = Gate()
    assert gate.turn_away("harmful", LONG) is None
    assert gate.turn_away("harmful", LONG.replace("grey", "brown")) == "near-duplicate"
    assert gate.turn_away("benign", LONG.replace("grey", "white")) is None, "a contrast may be close to its original"


def test_contrasts_that_differ_in_the_word_that_counts_both_stay() -> None:
    gate = Gate()
    assert gate.turn_away("harmful", "How do I kill a person?") is None
    assert gate.turn_away("harmful", "How do I kill a Python process?") is None


def test_a_copy_of_an_example_is_an_echo() -> None:
    gate = Gate()
    assert gate.turn_away("domain/gems", LONG, examples=[LONG.replace("grey", "brown")]) == "echo"
    assert gate.turn_away("domain/gems", "which family has zorite?", examples=[LONG]) is None


def test_no_two_questions_that_were_let_in_are_alike() -> None:
    gate = Gate()
    let_in = [text for text in toy_questions(600) if gate.turn_away("any", text) is None]
    kept = [shingles(text) for text in let_in]
    assert len(let_in) > 700, "templated questions that differ in what counts must stay"
    assert max(likeness(first, second) for first, second in combinations(kept, 2)) < NEAR_DUPLICATE


def test_clusters_of_templated_questions_stay_small_and_hold_all_that_are_alike() -> None:
    texts = toy_questions(400)
    cluster_of = clusters(texts)
    assert max(cluster_of.count(number) for number in set(cluster_of)) <= 12
    own = [shingles(text) for text in texts]
    for first, second in combinations(range(len(texts)), 2):
        if likeness(own[first], own[second]) >= SAME_CLUSTER:
            assert cluster_of[first] == cluster_of[second]


def test_clusters_join_through_a_common_neighbour() -> None:
    words = [f"word{number}" for number in range(40)]
    first, middle, last = (" ".join(words[start : start + 20]) for start in (0, 5, 10))
    assert likeness(shingles(first), shingles(last)) < SAME_CLUSTER <= likeness(shingles(first), shingles(middle))
    assert len(set(clusters([first, last]))) == 2
    assert len(set(clusters([first, last, middle]))) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abc ", max_size=30), max_size=15))
def test_clusters_do_not_depend_on_anything_but_the_texts(texts: list[str]) -> None:
    numbers = clusters(texts)
    assert numbers == clusters(texts)
    seen = list(dict.fromkeys(numbers))
    assert seen == list(range(len(seen))), "numbered by first appearance"
