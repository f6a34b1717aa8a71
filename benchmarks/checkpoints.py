"""Checkpoints to measure with: the shapes of Qwen2.5-0.5B, random weights, a base and models that differ by little.

    python -m benchmarks.checkpoints [--folder FOLDER] [--models 3] [--layers 24] [--vocabulary 151936] [--dtype …]

With all 24 layers and the whole vocabulary a model has 494 million numbers, as the original has. Weights are normal
with a deviation of 0.02, what a model adds to the base of 0.002, so that differences lie on the coarse lattice of
bfloat16, with many equal magnitudes, as those of real fine-tunes do. There is no tokenizer.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import cache_folder

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS = 896, 4864, 14, 2
HEAD = HIDDEN // HEADS
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
#: numbers drawn at a time: the draws stay in the processor's cache
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Pool:
    """A base and its models, by name."""

    base: Path
    models: Mapping[str, Path]


@dataclass(frozen=True)
class Sizes:
    """What decides the content of a checkpoint beside its name; kept in its config, so that it can be found again."""

    layers: int = 24
    vocabulary: int = 151936
    dtype: str = "bfloat16"
    seed: int = 0

    @property
    def folder(self) -> str:
        return f"{self.layers}-layers-{self.vocabulary}-tokens-{self.dtype}-{self.seed}"


#: where they are kept unless told otherwise
POOLS = cache_folder() / "benchmarks"
#: 74 million numbers: for a look in between, or on a busy machine
SMALL = Sizes(layers=4, vocabulary=16384)


def make(
    folder: Path,
    models: int = 3,
    layers: int = 24,
    dtype: str = "bfloat16",
    *,
    vocabulary: int = 151936,
    seed: int = 0,
) -> Pool:
    """A base and `models` models under `folder`, made where they are not there already.

    Different sizes go to different subfolders of `folder`; the same arguments give the same bits.
    """
    sizes = Sizes(layers, vocabulary, dtype, seed)
    home = folder / sizes.folder
    names = [f"model-{number}" for number in range(1, models + 1)]
    for number, name in enumerate(["base", *names]):
        if not _finished(home / name, sizes):
            _write(home / name, number, sizes)
    return Pool(home / "base", {name: home / name for name in names})


def shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, in the order in which transformers saves them."""
    yield "model.embed_tokens.weight", (sizes.vocabulary, HIDDEN)
    for layer in range(sizes.layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (HIDDEN,)
        yield f"{at}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
        yield f"{at}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{at}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{at}.post_attention_layernorm.weight", (HIDDEN,)
        for name, rows in (("q", HEADS * HEAD), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)):
            yield f"{at}.self_attn.{name}_proj.bias", (rows,)
            yield f"{at}.self_attn.{name}_proj.weight", (rows, HIDDEN)
        yield f"{at}.self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD)
    yield "model.norm.weight", (HIDDEN,)


def config(sizes: Sizes) -> dict[str, Any]:
    """The content of config.json, which transformers and vLLM load."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": sizes.vocabulary,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": sizes.dtype,
    }


def _finished(folder: Path, sizes: Sizes) -> bool:
    """The config is written last, so a folder that has it is whole."""
    file = folder / "config.json"
    return file.is_file() and json.loads(file.read_text()) == config(sizes)


def _write(folder: Path, number: int, sizes: Sizes) -> None:
    """Model `number`, where 0 is the base."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: _draw(position, shape, number, sizes, about=1.0 if "norm" in name else 0.0)
        for position, (name, shape) in enumerate(shapes(sizes))
    }
    partial = folder / f".{os.getpid()}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(sizes), indent=2) + "\n")


def _draw(position: int, shape: tuple[int, ...], number: int, sizes: Sizes, *, about: float) -> Tensor:
    """A tensor of model `number`: the base's numbers around `about`, and what the model adds to them."""
    base = torch.Generator().manual_seed(sizes.seed * 1_000_003 + position)
    own = torch.Generator().manual_seed((sizes.seed * 1_000_003 + position) * 1_009 + number)
    whole = torch.empty(shape, dtype=_DTYPES[sizes.dtype])
    first, second = torch.empty(_CHUNK), torch.empty(_CHUNK)
    for part in whole.view(-1).split(_CHUNK):
        values = first[: part.numel()].normal_(about, 0.02, generator=base)
        if number:
            values += second[: part.numel()].normal_(0.0, 0.002, generator=own)
        part.copy_(values)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description="Random checkpoints of Qwen2.5-0.5B's shapes, kept in a folder.")
    parser.add_argument("--folder", type=Path, default=POOLS)
    parser.add_argument("--models", type=int, default=3)
    for name, default in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = vars(parser.parse_args())
    print(make(given.pop("folder"), **given).base.parent)


if __name__ == "__main__":
    main()
