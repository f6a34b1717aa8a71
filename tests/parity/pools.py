"""The checkpoints that recipes of the suite name: `POOL/a` is model a of the case's pool."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.optimizer.merging.adapters import make_adapter
from tests.optimizer.merging.pools import TEMPLATE, add_tokenizer, make_model, make_pool

NAMES = ("a", "b", "c")
LAYERS = 4


def independent(folder: Path, family: str) -> None:
    """Models whose weights have nothing in common."""
    make_pool(folder, NAMES, family, num_hidden_layers=LAYERS)


def tuned(folder: Path, family: str, dtype: torch.dtype = torch.float32) -> None:
    """A base and models that differ from it by a tenth of its size, as fine-tuned ones do; a third of the numbers is
    the base's own."""
    base = load_file(make_model(folder / "base", 0, family, dtype, num_hidden_layers=LAYERS) / "model.safetensors")
    for seed, name in enumerate(NAMES):
        shutil.copytree(folder / "base", folder / name)
        generator = torch.Generator().manual_seed(200 + seed)
        weights = {}
        for tensor, values in base.items():
            noise = torch.randn(values.shape, generator=generator) * values.float().std() * 0.1
            kept = torch.rand(values.shape, generator=generator) < 1 / 3
            weights[tensor] = torch.where(kept, values.float(), values.float() + noise).to(dtype)
        save_file(weights, folder / name / "model.safetensors", {"format": "pt"})


def mixed(folder: Path) -> None:
    """A base in float32 and models in bfloat16 and float16."""
    make_model(folder / "base", 0, "llama", torch.float32, num_hidden_layers=LAYERS)
    make_model(folder / "a", 1, "llama", torch.bfloat16, num_hidden_layers=LAYERS)
    make_model(folder / "b", 2, "llama", torch.float16, num_hidden_layers=LAYERS)


def heads(folder: Path) -> None:
    """A base that uses its embedding as head, a model that does so too, a model with a head of its own."""
    make_model(folder / "base", 0, "llama tied", num_hidden_layers=LAYERS)
    make_model(folder / "a", 1, "llama tied", num_hidden_layers=LAYERS)
    make_model(folder / "b", 2, "llama", num_hidden_layers=LAYERS)


def depths(folder: Path) -> None:
    """Models of four and six layers."""
    for seed, (name, layers) in enumerate({"base": 4, "a": 4, "b": 6}.items()):
        make_model(folder / name, seed, "llama", num_hidden_layers=layers)


def typed_depths(folder: Path) -> None:
    """Models of four and six layers whose configurations list the type of every layer."""
    for seed, (name, layers) in enumerate({"a": 4, "b": 6}.items()):
        make_model(folder / name, seed, "qwen2", num_hidden_layers=layers)


def adapters(folder: Path) -> None:
    """A base, a model, and two LoRA adapters of the base."""
    make_pool(folder, ("a",), "llama", num_hidden_layers=2)
    make_adapter(folder / "base", folder / "all")
    make_adapter(folder / "base", folder / "some", target_modules=["q_proj", "down_proj"], use_rslora=True, r=3)


def vocabularies(folder: Path, family: str) -> None:
    """Vocabularies that overlap: a has a token that the others lack, b two (one of them a's), c none of its own.

    No row of an embedding is without a token.
    """
    extra = {"base": (), "a": ("<|tool|>",), "b": ("<|think|>", "<|tool|>"), "c": ()}
    templates = {"base": TEMPLATE, "a": TEMPLATE + "A", "b": TEMPLATE + "A", "c": None}
    for seed, (name, tokens) in enumerate(extra.items()):
        make_model(folder / name, seed, family, num_hidden_layers=2, vocab_size=260 + len(tokens))
        add_tokenizer(folder / name, templates[name], tokens)


def padded(folder: Path) -> None:
    """Embeddings with more rows than the tokenizer has tokens."""
    for seed, name in enumerate(("base", "a", "b")):
        make_model(folder / name, seed, "llama", num_hidden_layers=2, vocab_size=320)
        add_tokenizer(folder / name, extra=("<|tool|>",) if name == "a" else ())


def chatty(folder: Path) -> None:
    """One tokenizer, three chat templates: the base's, and one that two models share."""
    make_pool(folder, NAMES, "llama", num_hidden_layers=2, vocab_size=260)
    for name, template in {"base": TEMPLATE, "a": TEMPLATE + "A", "b": TEMPLATE + "A", "c": TEMPLATE + "C"}.items():
        add_tokenizer(folder / name, template)


def large(folder: Path) -> None:
    """Enough numbers in a tensor to see fractions: differences of 64 × 1024 and more."""
    changes = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 1024, "vocab_size": 1024}
    make_pool(folder, ("a", "b"), "llama", **changes)


POOLS: Mapping[str, Callable[[Path], None]] = {
    "llama": lambda folder: tuned(folder, "llama"),
    "llama-bf16": lambda folder: tuned(folder, "llama", torch.bfloat16),
    "qwen2": lambda folder: independent(folder, "qwen2"),
    "llama-tied": lambda folder: tuned(folder, "llama tied"),
    "qwen3": lambda folder: independent(folder, "qwen3"),
    "mistral": lambda folder: independent(folder, "mistral"),
    "gemma2": lambda folder: independent(folder, "gemma2"),
    "phi3": lambda folder: independent(folder, "phi3"),
    "olmo2": lambda folder: independent(folder, "olmo2"),
    "mixtral": lambda folder: independent(folder, "mixtral"),
    "mixed": mixed,
    "heads": heads,
    "depths": depths,
    "adapters": adapters,
    "typed-depths": typed_depths,
    "gpt-neox": lambda folder: independent(folder, "gpt-neox"),
    "vocabularies": lambda folder: vocabularies(folder, "llama"),
    "vocabularies-tied": lambda folder: vocabularies(folder, "llama tied"),
    "padded": padded,
    "chatty": chatty,
    "large": large,
}


def make(name: str, folder: Path) -> Path:
    """The pool of that name in `folder`."""
    POOLS[name](folder)
    return folder
