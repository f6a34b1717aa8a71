"""A merge over several vocabularies, as transformers sees it: it loads, encodes the new token, and generates."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimizer.merging.checkpoint.source import Checkpoint
from optimizer.merging.vocabulary.plan import Vocabulary
from optimizer.merging.vocabulary.request import TokenizerRequest
from tests.optimizer.merging.pools import FAMILIES, edit_json, make_model
from tests.optimizer.merging.vocabulary.speakers import add_speech, planned, publish, whole


def average(folders: dict[str, Path], vocabulary: Vocabulary, out: Path) -> Path:
    """The mean of all models, written with the vocabulary's files and config."""
    readers = {key: Checkpoint(folder) for key, folder in folders.items()}
    merged = {}
    for name in readers["base"].infos:
        operands = [vocabulary.operand(key, name, reader.tensor(name)) for key, reader in readers.items()]
        total = sum((whole(operand).float() for operand in operands), start=torch.zeros(()))
        merged[name] = (total / len(operands)).view(operands[0].shape)
    publish(vocabulary, out)
    save_file(merged, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(vocabulary.configure(readers["base"].config)))
    return out


@pytest.mark.parametrize("family", ["llama", "llama tied", "qwen2", "gemma2", "gpt-neox", "mixtral"])
def test_a_pool_with_an_added_token_loads_and_generates(family: str, tmp_path: Path) -> None:
    folders = {}
    for number, (key, special) in enumerate({"base": [], "a": ["<tool>"], "b": ["<x>", "<tool>"]}.items()):
        folders[key] = make_model(tmp_path / key, number, family, vocab_size=258 + len(special))
        add_speech(folders[key], special=special)
    vocabulary = planned(folders, TokenizerRequest("union", pad_to_multiple_of=8))
    out = average(folders, vocabulary, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(out)
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.get_input_embeddings().weight.shape[0] == model.config.get_text_config().vocab_size == 264
    ids = tokenizer("run <tool> now<x>", return_tensors="pt").input_ids
    assert ids[0].tolist().count(258) == ids[0].tolist().count(259) == 1
    text = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert text.shape[1] == ids.shape[1] + 4


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "LlamaTokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast"])
def test_tokenizers_of_known_classes_load_as_before(kind: str, tmp_path: Path) -> None:
    """transformers builds some of its classes anew from vocabulary and merges: old text is cut as ever."""
    folders = {key: make_model(tmp_path / key, 1, "qwen2", vocab_size=260) for key in ("base", "a")}
    for key, special in (("base", []), ("a", ["<tool>"])):
        add_speech(folders[key], special=special)
        edit_json(folders[key] / "tokenizer_config.json", lambda config: config.update(tokenizer_class=kind))
    out = publish(planned(folders, TokenizerRequest("union")), tmp_path / "out")
    shutil.copy(folders["base"] / "config.json", out)
    new, old = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(folders["base"])
    assert type(new) is type(old)
    assert new.encode("Hello, world") == old.encode("Hello, world")
    assert new.convert_tokens_to_ids("<tool>") == 258
    assert 258 in new.encode("a<tool>")


def test_untouched_rows_are_equal_bit_for_bit(tmp_path: Path) -> None:
    """A union in which one model has everything: its embedding as it is, in its dtype."""
    assert "llama" in FAMILIES
    folders = {}
    for number, (key, special) in enumerate({"base": [], "a": ["<tool>"]}.items()):
        folders[key] = make_model(tmp_path / key, number, "llama", torch.bfloat16, vocab_size=258 + len(special))
        add_speech(folders[key], special=special)
    vocabulary = planned(folders, TokenizerRequest("union"))
    stored = load_file(folders["a"] / "model.safetensors")
    reader = Checkpoint(folders["a"])
    for name in stored:
        tensor = vocabulary.operand("a", name, reader.tensor(name))
        assert torch.equal(whole(tensor).view(tensor.shape), stored[name])
