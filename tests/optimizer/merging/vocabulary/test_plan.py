"""One vocabulary for several: hand-worked rows, sizes, ids and refusals."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimizer.errors import CheckpointError, PoolError, RecipeError
from optimizer.merging.checkpoint.source import Checkpoint
from optimizer.merging.companions import companions_of
from optimizer.merging.vocabulary.embeddings import Embeddings
from optimizer.merging.vocabulary.request import TokenizerRequest, TokenRule
from tests.optimizer.merging.pools import edit_json, make_model
from tests.optimizer.merging.vocabulary.speakers import (
    BYTES,
    EMBEDDING,
    HEAD,
    make_speaker,
    planned,
    tokens_of,
    values,
    whole,
)

Folders = dict[str, Path]
UNION = TokenizerRequest("union")


def pick(speakers: Folders, *names: str) -> Folders:
    return {name: speakers[name] for name in names}


def span(number: int, begin: int, end: int) -> list[float]:
    """The rows of a model as they are."""
    return [1000.0 * number + row for row in range(begin, end)]


def test_union_puts_new_tokens_behind_the_bases_own(speakers: Folders, tmp_path: Path) -> None:
    vocabulary = planned(pick(speakers, "base", "tool", "both"), UNION)
    ids = tokens_of(vocabulary, tmp_path / "out")
    assert vocabulary.size == 260
    assert {text: ids[text] for text in ("<s>", "</s>", BYTES[0], "<tool>", "<x>")} == {
        "<s>": 0,
        "</s>": 1,
        BYTES[0]: 2,
        "<tool>": 258,
        "<x>": 259,
    }
    assert values(vocabulary, "both") == [*span(3, 0, 258), 3259, 3258]
    # <x> has one owner, <tool> two and the base none: their average
    assert values(vocabulary, "tool") == [*span(2, 0, 259), 3258]
    assert values(vocabulary, "base") == [*span(1, 0, 258), (2258 + 3259) / 2, 3258]
    assert values(vocabulary, "base", HEAD) == [value + 0.5 for value in values(vocabulary, "base")]


def test_the_order_of_the_models_is_the_order_of_new_tokens(speakers: Folders, tmp_path: Path) -> None:
    """Without a base, the first model's tokenizer is the one that is added to."""
    ids = tokens_of(planned(pick(speakers, "both", "tool", "base"), UNION, base=None), tmp_path / "out")
    assert (ids["<x>"], ids["<tool>"]) == (258, 259)


def test_tokens_of_the_base_go_before_averages(speakers: Folders) -> None:
    folders = {"base": speakers["tool"], "both": speakers["both"], "plain": speakers["base"]}
    assert values(planned(folders, UNION), "plain")[258] == 2258
    assert values(planned(folders, UNION, base=None), "plain")[258] == (2258 + 3259) / 2


def test_the_bases_tokenizer_leaves_other_tokens_out(speakers: Folders) -> None:
    vocabulary = planned(pick(speakers, "base", "both"), TokenizerRequest("base"))
    assert values(vocabulary, "both") == span(3, 0, 258)
    assert "both: '<x>', '<tool>' not in this vocabulary, left out" in vocabulary.notes


def test_another_models_tokenizer(speakers: Folders) -> None:
    vocabulary = planned(pick(speakers, "base", "turned"), TokenizerRequest("turned"))
    assert values(vocabulary, "turned") == span(4, 0, 258)
    assert values(vocabulary, "base") == [1000, 1001, *(1000.0 + row for row in range(257, 1, -1))]
    assert vocabulary.companions["tokenizer.json"] == (speakers["turned"] / "tokenizer.json").resolve()


def test_a_tokenizer_of_no_model_of_the_merge(speakers: Folders) -> None:
    """A token that nobody knows is zeros, and said to be."""
    vocabulary = planned(pick(speakers, "base", "tool"), TokenizerRequest("far"), far=speakers["both"])
    assert values(vocabulary, "base") == [*span(1, 0, 258), 0, 2258]
    assert "no model has '<x>': zeros" in vocabulary.notes


def test_permuted_vocabularies_meet_token_by_token(speakers: Folders) -> None:
    vocabulary = planned(pick(speakers, "base", "turned"), UNION)
    assert values(vocabulary, "turned") == [4000, 4001, *(4000.0 + row for row in range(257, 1, -1))]
    assert values(vocabulary, "base") == span(1, 0, 258)


def test_one_vocabulary_is_left_as_it_is(speakers: Folders) -> None:
    folders = {"base": speakers["base"], "twin": speakers["mute"]}
    for request in (UNION, TokenizerRequest("base"), TokenizerRequest("twin"), TokenizerRequest()):
        if request.source == "twin":
            with pytest.raises(PoolError, match="tokenizer source twin: no tokenizer in"):
                planned(folders, request)
            continue
        vocabulary = planned(folders, request)
        reader = Checkpoint(speakers["mute"])
        for name in reader.infos:
            tensor = reader.tensor(name)
            assert vocabulary.operand("twin", name, tensor) is tensor
        assert vocabulary.size == 258
        assert vocabulary.companions == companions_of(speakers["base"], [speakers["mute"]])


def test_rows_without_a_token_are_left_out_and_said_to_be(speakers: Folders) -> None:
    vocabulary = planned(pick(speakers, "base", "padded"), TokenizerRequest("base"))
    assert values(vocabulary, "padded") == span(5, 0, 258)
    assert vocabulary.notes == ("padded: its last 42 rows have no token and are left out",)


@pytest.mark.parametrize(("multiple", "size"), [(1, 259), (7, 259), (64, 320), (300, 300)])
def test_padding_is_the_mean_of_a_models_rows(speakers: Folders, multiple: int, size: int) -> None:
    vocabulary = planned(pick(speakers, "base", "tool"), TokenizerRequest("union", pad_to_multiple_of=multiple))
    assert vocabulary.size == size
    known = [*span(1, 0, 258), 2258]
    mean = pytest.approx(math.fsum(known) / 259, rel=1e-7)
    assert values(vocabulary, "base") == [*known, *[mean] * (size - 259)]
    assert vocabulary.configure({"vocab_size": 258}) == {"vocab_size": size}
    assert vocabulary.configure({"text_config": {"vocab_size": 258}}) == {"text_config": {"vocab_size": size}}


@pytest.mark.parametrize(
    ("rule", "of_base", "of_tool"),
    [
        (TokenRule(), 0, 2258),
        (TokenRule(force=True), 0, 0),
        (TokenRule("both"), 3259, 2258),
        (TokenRule("both", force=True), 3259, 3259),
        (TokenRule("both", "<x>"), 3258, 2258),
        (TokenRule("base", 77, force=True), 1077, 1077),
        (TokenRule("tool", BYTES[3]), 2005, 2258),
    ],
)
def test_rules_for_one_token(speakers: Folders, rule: TokenRule, of_base: float, of_tool: float) -> None:
    folders = pick(speakers, "base", "tool", "both")
    vocabulary = planned(folders, TokenizerRequest("union", {"<tool>": rule}))
    assert values(vocabulary, "base") == [*span(1, 0, 258), of_base, 3258]
    assert values(vocabulary, "tool") == [*span(2, 0, 258), of_tool, 3258]


def test_rules_for_tokens_that_all_models_have(speakers: Folders) -> None:
    folders = pick(speakers, "base", "tool")
    for force, row in ((True, 1002), (False, 2002)):
        vocabulary = planned(folders, TokenizerRequest("union", {BYTES[0]: TokenRule("base", force=force)}))
        assert values(vocabulary, "tool") == [*span(2, 0, 2), row, *span(2, 3, 259)]


def test_rules_add_tokens_that_the_source_lacks(speakers: Folders, tmp_path: Path) -> None:
    rules = {"<tool>": TokenRule("tool"), "<new>": TokenRule("base", BYTES[1])}
    vocabulary = planned(pick(speakers, "base", "tool"), TokenizerRequest("base", rules))
    ids = tokens_of(vocabulary, tmp_path / "out")
    assert (ids["<tool>"], ids["<new>"], vocabulary.size) == (258, 259, 260)
    assert values(vocabulary, "base") == [*span(1, 0, 258), 2258, 1003]
    added = {
        entry["content"]: entry for entry in json.loads((tmp_path / "out/tokenizer.json").read_text())["added_tokens"]
    }
    assert (added["<tool>"]["special"], added["<new>"]["special"]) == (True, False)


def test_tied_embeddings_stand_in_for_a_head(speakers: Folders, tmp_path: Path) -> None:
    tied = make_speaker(tmp_path / "tied", 7, 259, "llama tied", special=["<tool>"])
    vocabulary = planned({"base": speakers["base"], "tied": tied}, UNION)
    assert values(vocabulary, "tied", HEAD) == span(7, 0, 259)
    assert values(vocabulary, "base", HEAD) == [*(value + 0.5 for value in span(1, 0, 258)), 7258]
    assert values(vocabulary, "base") == [*span(1, 0, 258), 7258]


def test_copied_rows_keep_their_bits_and_dtype(tmp_path: Path) -> None:
    """Random bfloat16 weights: no row is computed where a copy will do; an average makes the tensor float32."""
    folders = {
        "base": make_speaker(tmp_path / "base", 1, 258, dtype=torch.bfloat16),
        "a": make_speaker(tmp_path / "a", 2, 260, dtype=torch.bfloat16, added=["one", "two"]),
        "b": make_speaker(tmp_path / "b", 3, 259, dtype=torch.bfloat16, added=["one"]),
    }
    weights = {}
    for key, folder in folders.items():
        tensors = load_file(folder / "model.safetensors")
        tensors[EMBEDDING] = weights[key] = torch.randn_like(tensors[EMBEDDING])
        save_file(tensors, folder / "model.safetensors")
    pair = {key: folders[key] for key in ("base", "a")}
    vocabulary = planned(pair, UNION)
    merged = whole(vocabulary.operand("base", EMBEDDING, Checkpoint(folders["base"]).tensor(EMBEDDING)))
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, torch.cat([weights["base"], weights["a"][258:]]))
    vocabulary = planned(folders, UNION)
    merged = whole(vocabulary.operand("base", EMBEDDING, Checkpoint(folders["base"]).tensor(EMBEDDING)))
    assert merged.dtype == torch.float32
    average = (weights["a"][258].float() + weights["b"][258].float()) / 2
    assert torch.equal(merged, torch.cat([weights["base"].float(), average[None], weights["a"][259:].float()]))


def test_a_tokenizer_that_knows_more_than_its_embeddings(speakers: Folders, tmp_path: Path) -> None:
    """<tool> has no row in "short": it counts as a model that lacks the token."""
    short = make_speaker(tmp_path / "short", 8, 258, special=["<tool>"])
    vocabulary = planned({"base": speakers["base"], "short": short, "tool": speakers["tool"]}, UNION)
    assert values(vocabulary, "short") == [*span(8, 0, 258), 2258]
    assert "short: '<tool>' without a row in its embeddings" in vocabulary.notes


def test_ids_that_no_token_has(speakers: Folders, tmp_path: Path) -> None:
    """Rows in the middle that no token has stay where they are."""
    holes = make_speaker(tmp_path / "holes", 9, 262)
    edit_json(holes / "tokenizer.json", lambda whole: whole["model"]["vocab"].update(far=261))
    vocabulary = planned({"base": holes, "tool": speakers["tool"]}, UNION)
    ids = tokens_of(vocabulary, tmp_path / "out")
    assert (ids["far"], ids["<tool>"], vocabulary.size) == (261, 262, 263)
    assert values(vocabulary, "base") == [*span(9, 0, 262), 2258]
    assert values(vocabulary, "tool") == [*span(2, 0, 258), *span(9, 258, 262), 2258]


def test_special_ids_follow_their_tokens(speakers: Folders, tmp_path: Path) -> None:
    """The end token of the tokenizer's own model, wherever it lies."""
    late = make_speaker(tmp_path / "late", 9, 258, tokens=("<s>", *BYTES, "</s>"))
    for name in ("config.json", "generation_config.json"):
        edit_json(late / name, lambda config: config.update(eos_token_id=[257, 3], pad_token_id=257))
    folders = {"base": speakers["base"], "late": late}
    config = json.loads((speakers["base"] / "config.json").read_text())
    changed = planned(folders, TokenizerRequest("late")).configure(config)
    assert {**config, "eos_token_id": [257, 3], "pad_token_id": 257} == changed
    vocabulary = planned({"base": late, "other": speakers["base"]}, TokenizerRequest("other"))
    assert vocabulary.configure(config)["eos_token_id"] == 1
    vocabulary = planned({"base": late, "other": speakers["turned"]}, TokenizerRequest("far"), far=speakers["base"])
    byte = json.loads((speakers["base"] / "tokenizer.json").read_text())["model"]["vocab"][BYTES[2]]
    assert vocabulary.special_ids["eos_token_id"] == [1, byte]
    generation = vocabulary.companions["generation_config.json"]
    assert isinstance(generation, bytes)
    assert json.loads(generation)["eos_token_id"] == [1, byte]


def test_what_is_no_table_of_tokens_is_left_alone(tmp_path: Path) -> None:
    """Positions are embeddings too, and there may be more of them than tokens."""
    make_model(tmp_path / "m", 0, "gpt-neox")
    tensors = load_file(tmp_path / "m/model.safetensors")
    tensors["transformer.wpe.weight"] = torch.zeros(600, 32)
    tensors["embed_out.bias"] = torch.zeros(300)
    tensors["score.weight"] = torch.zeros(5, 32)
    save_file(tensors, tmp_path / "m/model.safetensors")
    found = Embeddings.of(Checkpoint(tmp_path / "m"))
    assert found.names == {"gpt_neox.embed_in.weight", "embed_out.weight", "embed_out.bias"}
    assert (found.rows, found.main) == (300, "gpt_neox.embed_in.weight")


def test_a_model_of_something_else_than_text(tmp_path: Path) -> None:
    """No token embedding: nothing to change, and nothing that could be."""
    folder = make_speaker(tmp_path / "eye", 1, 258)
    tensors = load_file(folder / "model.safetensors")
    save_file({"patch_embedding.weight": tensors[EMBEDDING]}, folder / "model.safetensors")
    assert planned({"base": folder}, TokenizerRequest()).size == 0
    with pytest.raises(PoolError, match=r"base \(.*eye\): no token embedding found"):
        planned({"base": folder}, UNION)


def test_the_bias_of_a_head(speakers: Folders, tmp_path: Path) -> None:
    """A vector with a number for every token is remapped as well."""
    folders = {}
    for key, number in (("base", 1), ("tool", 2)):
        folders[key] = tmp_path / key
        make_speaker(folders[key], number, 258 if key == "base" else 259, special=["<tool>"] if key == "tool" else [])
        tensors = load_file(folders[key] / "model.safetensors")
        tensors["lm_head.bias"] = tensors[HEAD][:, 0].clone()
        save_file(tensors, folders[key] / "model.safetensors")
    vocabulary = planned(folders, UNION)
    bias = vocabulary.operand("base", "lm_head.bias", Checkpoint(folders["base"]).tensor("lm_head.bias"))
    assert bias.shape == (259,)
    assert bias.rows(0, 1).tolist() == [values(vocabulary, "base", HEAD)]


def test_tokenizers_without_a_json_are_copied_whole(tmp_path: Path) -> None:
    folders = {}
    for key, number in (("base", 1), ("a", 2), ("b", 3)):
        folders[key] = make_speaker(tmp_path / key, number, 258, tokenizer=False)
        (folders[key] / "tokenizer.model").write_bytes(b"pieces" if key != "b" else b"other pieces")
    twins = {key: folders[key] for key in ("base", "a")}
    vocabulary = planned(twins, UNION)
    assert vocabulary.companions["tokenizer.model"] == (folders["base"] / "tokenizer.model").resolve()
    assert values(vocabulary, "a") == span(2, 0, 258)
    with pytest.raises(PoolError, match=r"tokenizer of .*b: no tokenizer\.json, so it cannot be compared"):
        planned(folders, UNION)
    with pytest.raises(PoolError, match=r"rules about tokens with a tokenizer that has no tokenizer\.json"):
        planned(twins, TokenizerRequest("base", {"<tool>": TokenRule()}))
    twins["a"] = make_speaker(tmp_path / "wide", 4, 300, tokenizer=False)
    with pytest.raises(PoolError, match="embeddings of 258, 300 rows with a tokenizer"):
        planned(twins, UNION)


def test_models_without_a_tokenizer(speakers: Folders, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"tokenizer source union: no tokenizer in .*mute") as caught:
        planned({"base": speakers["mute"], "tool": speakers["tool"]}, UNION)
    assert caught.value.mend == "tokenizer source: tool"
    small = make_speaker(tmp_path / "small", 9, 200, tokenizer=False)
    with pytest.raises(PoolError, match="small has no tokenizer, and 200 rows are too few for the 258 tokens of"):
        planned({"base": speakers["base"], "small": small}, UNION)


def test_rows_of_another_width(speakers: Folders, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    make_speaker(wide, 9, 259, special=["<tool>"])
    tensors = load_file(wide / "model.safetensors")
    tensors[EMBEDDING] = tensors[EMBEDDING].repeat(1, 2)
    save_file(tensors, wide / "model.safetensors")
    vocabulary = planned({"base": speakers["base"], "wide": wide}, UNION)
    with pytest.raises(PoolError, match=r"rows of \[16\] numbers in wide, of \[8\] in base"):
        values(vocabulary, "base")


@pytest.mark.parametrize(
    ("request_", "words", "mend"),
    [
        (TokenizerRequest("toll"), "tokenizer source 'toll' found, expected one of base, union, base, tool", "tool"),
        (TokenizerRequest(None, {"a": TokenRule()}), "without a tokenizer source", "source"),
        (TokenizerRequest("union", pad_to_multiple_of=0), "pad_to_multiple_of is 0, expected .* 1 to", None),
        (TokenizerRequest("union", pad_to_multiple_of=1 << 30), "pad_to_multiple_of is", None),
        (TokenizerRequest("union", {"": TokenRule()}), "without text", "name"),
        (TokenizerRequest("union", {"a": TokenRule("tol")}), "token 'a': model 'tol' found", "tool"),
        (TokenizerRequest("union", {"<tool>": TokenRule("base")}), "'<tool>' is not among the 258 rows", "zero"),
        (TokenizerRequest("union", {"a": TokenRule("tool", "<tol>")}), "'<tol>' is not among the 259", "<tool>"),
        (TokenizerRequest("union", {"a": TokenRule("tool", 259)}), "259 is not among the 259 rows", "zero"),
    ],
)
def test_requests_that_cannot_be_met(
    speakers: Folders, request_: TokenizerRequest, words: str, mend: str | None
) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        planned(pick(speakers, "base", "tool"), request_)
    assert mend is None or mend in str(caught.value.mend)


def test_nothing_to_plan_for() -> None:
    with pytest.raises(RecipeError, match="no models"):
        planned({}, UNION)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", '{"model": ' + "[" * 60 + "]" * 60 + "}", "nested too deep"),
        ("tokenizer.json", "{", "not JSON"),
        ("tokenizer.json", '{"model": {"vocab": {"a": -1}}}', "not a tokenizer's file"),
        ("tokenizer.json", '{"model": {"vocab": {"a": "b"}}}', "not a tokenizer's file"),
        ("tokenizer.json", '{"model": {"vocab": [["a"]]}}', "not a tokenizer's file"),
        ("tokenizer.json", '{"model": {"vocab": {}}}', "not a tokenizer's file"),
        ("tokenizer.json", '{"model": []}', "not a tokenizer's file"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 99999999999}}}', "not a tokenizer's file"),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}', "asks for code"),
        ("generation_config.json", '{"custom_generate": "run.py"}', "asks for code"),
    ],
)
def test_tokenizers_that_are_not_what_they_say(tmp_path: Path, name: str, content: str, words: str) -> None:
    folders = {key: make_speaker(tmp_path / key, 1, 258) for key in ("base", "a")}
    (folders["base"] / name).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        planned(folders, UNION)


def test_a_tokenizer_too_large(tmp_path: Path) -> None:
    folders = {key: make_speaker(tmp_path / key, 1, 258) for key in ("base", "a")}
    with (folders["a"] / "tokenizer.json").open("wb") as stream:
        stream.truncate((128 << 20) + 1)
    with pytest.raises(CheckpointError, match="over 134,217,728 bytes"):
        planned(folders, UNION)
