"""YAML from anyone: lines are known, and nothing in it can take the memory or run code."""

import pytest

from optimizer.errors import RecipeError
from optimizer.merging.mergekit.document import MAX_CHARACTERS, MAX_DOCUMENTS, read_documents


def test_lines_and_paths() -> None:
    (document,) = read_documents("a: 1\nb:\n- c: x\n\n- [1, true, ~, 1e-5]\n", "r.yml")
    fields = document.entries()
    assert (fields["a"].line, fields["a"].path, fields["a"].value) == (1, "a", 1)
    first, second = fields["b"].items()
    assert (first.line, first.path) == (3, "b[0]")
    assert first.entries()["c"].path == "b[0].c"
    assert (second.line, [item.value for item in second.items()]) == (5, [1, True, None, "1e-5"])
    assert second.items()[3].number() == 1e-5


def test_anchors_and_merge_keys_are_written_out() -> None:
    text = "x: &common {a: 1, b: 2}\ny:\n  <<: *common\n  b: 3\nz: [*common, *common]\nw: {<<: [{a: 5}, *common]}"
    fields = read_documents(text, "r.yml")[0].entries()
    assert {key: entry.value for key, entry in fields["y"].entries().items()} == {"a": 1, "b": 3}
    assert [item.entries()["b"].value for item in fields["z"].items()] == [2, 2]
    assert {key: entry.value for key, entry in fields["w"].entries().items()} == {"a": 5, "b": 2}


def test_anchors_belong_to_their_document() -> None:
    texts = [f"a: &x [{i}, {i}]\nb: [*x, *x]\n" for i in range(50)]
    documents = read_documents("---\n".join(texts), "r.yml")
    assert [document.entries()["b"].items()[1].items()[0].value for document in documents] == list(range(50))


def bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merge_bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * width)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(12, 9), ["more than 100,000 values", "aliases"]),
        (merge_bomb(12, 9), ["more than 100,000 values"]),
        ("a: &a\n- *a", ["line", "inside itself"]),
        ("a: &a {<<: *a}", ["line 1", "inside itself"]),
        ("[" * 3000, ["deeper than 24"]),
        ("a: " * 40 + "x", ["line 1", "not a plain YAML file"]),
        ("x: 1\ny: !!python/object:os.system {}", ["line 2", "tag 'python/object:os.system'"]),
        ("x: !secret 1", ["line 1", "tag '!secret'"]),
        ("a: 1\nb: 2\na: 3", ["line 3", "key 'a' twice", "line 1"]),
        ("a: {b: 1, b: 2}", ["line 1", "a", "key 'b' twice"]),
        ("a: " + "9" * 5000, ["line 1", "not a int"]),
        ("? [1, 2]\n: 3", ["line 1", "a key that is no text"]),
        ("a: b: c", ["line 1", "not a plain YAML file"]),
        ("a: 'x", ["not a plain YAML file"]),
        ("a: \0", ["not a plain YAML file"]),
        ("a: {<<: 3}", ["line 1", "<<"]),
        ("", ["nothing found"]),
        ("# only a remark\n---\n", ["nothing found"]),
        ("x" * (MAX_CHARACTERS + 1), ["4,194,305 characters"]),
        ("---\na: 1\n" * (MAX_DOCUMENTS + 1), ["more than 100 documents"]),
    ],
)
def test_refused(text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        read_documents(text, "r.yml")
    assert str(caught.value).startswith("r.yml")
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("text", ["true", "1.0", "'true'", "'1'", "1"])
def test_flags_as_mergekit_writes_them(text: str) -> None:
    assert read_documents(f"a: {text}", "r.yml")[0].entries()["a"].flag() is True


@pytest.mark.parametrize("text", [".nan", ".inf", "'nan'", "x", "[1]", "{b: 1}", "'1 2'", "1" + "0" * 400])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(RecipeError, match=r"r\.yml, line 1: a: .* found, expected a (finite )?number"):
        read_documents(f"a: {text}", "r.yml")[0].entries()["a"].number()


@pytest.mark.parametrize(("text", "word"), [("2024-01-02", "2024-01-02"), ("12:30", "12:30"), ("1.0", "1.0")])
def test_words_that_look_like_numbers(text: str, word: str) -> None:
    assert read_documents(f"a: {text}", "r.yml")[0].entries()["a"].word() == word
