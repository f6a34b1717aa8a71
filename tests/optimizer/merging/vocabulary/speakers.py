"""Tiny models with tokenizers of their own. Row i of model number n has the value 1000·n + i, of its head ½ more."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from optimizer.merging.checkpoint.source import Checkpoint, TensorSource
from optimizer.merging.vocabulary.plan import NamedReader, Vocabulary, plan_vocabulary
from optimizer.merging.vocabulary.request import TokenizerRequest
from tests.optimizer.merging.pools import make_model

BYTES = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))
#: 258 tokens: ids 0, 1, and a byte each from 2 on
CORE = ("<s>", "</s>", *BYTES)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def add_speech(
    folder: Path,
    tokens: Sequence[str] = CORE,
    *,
    merges: Sequence[tuple[str, str]] = (),
    added: Sequence[str] = (),
    special: Sequence[str] = (),
    template: str | None = None,
    **settings: Any,
) -> None:
    """A byte-level BPE tokenizer of `tokens`, with added tokens and special ones behind."""
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", **settings)
    tokenizer.add_tokens(list(added))
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def make_speaker(
    folder: Path, number: int, rows: int, family: str = "llama", dtype: torch.dtype = torch.float32, **speech: Any
) -> Path:
    """A model with embeddings of `rows` rows that tell model and row, and the tokenizer that `speech` describes."""
    make_model(folder, number, family, dtype, vocab_size=rows, hidden_size=8, intermediate_size=8)
    if speech.pop("tokenizer", True):
        add_speech(folder, **speech)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors.keys() & {EMBEDDING, HEAD}:
        values = torch.arange(rows) + 1000 * number + (0.5 if name == HEAD else 0.0)
        tensors[name] = values.to(dtype)[:, None].expand(-1, 8).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def planned(
    folders: Mapping[str, Path], request: TokenizerRequest, base: str | None = "base", **beside: Path
) -> Vocabulary:
    """The vocabulary of the models in these folders."""
    readers = {key: Checkpoint(folder) for key, folder in folders.items()}
    root = NamedReader(base, readers[base]) if base in readers else None
    return plan_vocabulary(root, readers, request, beside)


def whole(source: TensorSource, height: int = 5) -> Tensor:
    """All rows of a tensor, read in pieces."""
    parts = [source.rows(i, min(i + height, source.shape[0])) for i in range(0, source.shape[0], height)]
    assert {part.dtype for part in parts} == {source.dtype}
    return torch.cat(parts)


def values(vocabulary: Vocabulary, model: str, name: str = EMBEDDING) -> list[float]:
    """The first column of a model's tensor in the order of the vocabulary."""
    tensor = whole(vocabulary.operand(model, name, vocabulary.pool[model].tensor(name)))
    assert tensor.shape[0] == vocabulary.size
    assert torch.equal(tensor, tensor[:, :1].expand(-1, 8))
    return [float(value) for value in tensor[:, 0]]


def tokens_of(vocabulary: Vocabulary, folder: Path) -> dict[str, int]:
    """Token → id of the tokenizer among the companions, written to `folder`."""
    publish(vocabulary, folder)
    ids: dict[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    return ids


def publish(vocabulary: Vocabulary, folder: Path) -> Path:
    """Write the companions."""
    folder.mkdir(exist_ok=True)
    for name, content in vocabulary.companions.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder
