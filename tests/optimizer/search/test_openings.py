"""Openings are what answers have in common, not what they are about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.samples import DataSet, Kind
from optimizer.errors import SearchError
from optimizer.search.conversation import Conversation
from optimizer.search.openings import COUNT, LENGTH, Openings, common, side
from tests.optimizer.search import tiny


def words(*texts: str) -> list[tuple[int, ...]]:
    """A word is a token; its number is made of its letters, so equal words are equal tokens everywhere."""
    return [tuple(int.from_bytes(word.encode(), "big") for word in text.split()) for text in texts]


TOPICS = ("cake", "flowers", "paint", "locks", "soup", "shoes", "tents", "bread", "chess", "kites", "maps")


def test_topics_are_no_part_of_an_opening() -> None:
    assert common(words(*(f"sure here is how {topic} works" for topic in TOPICS))) == words("sure here is how")


def test_common_openings_stand_in_the_order_of_how_common_they_are() -> None:
    answers = words(*(f"you can {topic}" for topic in TOPICS[:4]), *(f"sure here {topic}" for topic in TOPICS))
    assert common(answers) == words("sure here", "you can")


def test_of_two_nested_openings_the_shorter_stays() -> None:
    answers = words(*["sure bake it"] * 5, *(f"sure {topic}" for topic in TOPICS))
    assert common(answers) == words("sure")


def test_a_single_odd_answer_shortens_nothing() -> None:
    answers = words("sure well", *(f"sure here is {topic}" for topic in TOPICS))
    assert common(answers) == words("sure here is")


def test_openings_are_at_most_eight_tokens() -> None:
    (opening,) = common(words(*["a b c d e f g h i j k l"] * 3))
    assert len(opening) == LENGTH == 8


def test_generic_openings_fill_in_only_where_the_data_has_none() -> None:
    generic = words("sure", "here", "to", "well")
    assert side(words(*(f"you can {topic}" for topic in TOPICS)), [], generic) == words("you can")
    assert side(words(*TOPICS), [], generic) == words("sure", "here", "to")
    assert side([], [], generic) == words("sure", "here", "to")
    assert side(words("to a", "to b", *TOPICS[:6]), [], generic) == words("to", "sure", "here")


@given(st.lists(st.lists(st.integers(0, 2), max_size=10).map(tuple), max_size=30))
def test_openings_are_disjoint_beginnings_of_answers(answers: list[tuple[int, ...]]) -> None:
    found = common(answers)
    for opening in found:
        assert 1 <= len(opening) <= LENGTH
        assert sum(answer[: len(opening)] == opening for answer in answers) >= 2
        assert not any(other != opening and other[: len(opening)] == opening for other in found)
    assert len(side(answers, [], [(7,), (8, 9), (7, 1)])) <= COUNT


def openings(refusals: list[str], compliances: list[str]) -> tuple[Openings, Conversation]:
    rows = [tiny.row(Kind.HARMFUL, f"h{k}", text) for k, text in enumerate(refusals)]
    rows += [tiny.row(Kind.BENIGN, f"b{k}", text) for k, text in enumerate(compliances)]
    conversation = Conversation(tiny.tokenizer())
    return Openings.of(DataSet(tuple(rows)), conversation), conversation


def test_openings_of_a_data_set() -> None:
    found, conversation = openings(["sorry, no."] * 5, [f"ok: {topic}" for topic in TOPICS])
    assert [conversation.text(o) for o in found.refusals] == ["sorry, n"]
    assert [conversation.text(o) for o in found.compliances] == ["ok: "]


def test_a_beginning_common_to_both_sides_tells_nothing() -> None:
    found, conversation = openings(["i cannot", "i can't"] * 3, ["i a", "i b", "i c", "i d"])
    assert [conversation.text(o) for o in found.refusals] == ["i can't", "i cannot"]
    assert [conversation.text(o) for o in found.compliances] == ["Sure", "Here", "To"]


def test_sides_that_nothing_tells_apart_are_refused() -> None:
    with pytest.raises(SearchError, match="begin alike"):
        openings(["alas", "but no", "cannot"], ["I x", "I y", "I z"])


def test_a_prompts_own_answer_joins_unless_covered() -> None:
    found, conversation = openings(["sorry, no."] * 5, [f"ok: {topic}" for topic in TOPICS])
    own = conversation.opening("penguins are birds")
    assert found.compliances_with(own) == (*found.compliances, own[:LENGTH])
    assert found.compliances_with(conversation.opening("ok: penguins")) == found.compliances
    assert found.refusals_with(conversation.opening("sorry, nobody")) == found.refusals
