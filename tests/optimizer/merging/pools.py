"""Tiny checkpoints with random weights, of every family that Temper promises to merge."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 300
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"

SMALL: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2}
#: what the same settings were called in GPT-2's days
OLD = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 1}

#: family → (config class, settings)
FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**GROUPED}),
    "llama tied": ("LlamaConfig", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {**GROUPED}),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**GROUPED}),
    "gemma2": ("Gemma2Config", {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 32}),
    "gemma3": ("Gemma3TextConfig", {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 32}),
    "phi3": ("Phi3Config", {**GROUPED}),
    "olmo2": ("Olmo2Config", {**GROUPED}),
    "gpt-neox": ("GPTNeoXConfig", {**SMALL}),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "qwen3-moe": ("Qwen3MoeConfig", {**GROUPED, "head_dim": 8, "moe_intermediate_size": 16, **EXPERTS}),
}
#: built otherwise, or named oddly: what of their layout can be told is told
ODD: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {**OLD, "n_positions": 64}),
    "gpt-j": ("GPTJConfig", {**OLD, "n_positions": 64, "rotary_dim": 4}),
    "gpt-bigcode": ("GPTBigCodeConfig", {**OLD, "n_positions": 64}),
    "falcon": ("FalconConfig", {**SMALL}),
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "opt": ("OPTConfig", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    "mpt": ("MptConfig", {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    "phi": ("PhiConfig", {**SMALL}),
    "cohere": ("CohereConfig", {**GROUPED}),
    "starcoder2": ("Starcoder2Config", {**GROUPED}),
    "gpt-oss": ("GptOssConfig", {**GROUPED, "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "mamba": ("MambaConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "rwkv": ("RwkvConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}),
    "gemma3 with eyes": (
        "Gemma3Config",
        {
            "text_config": {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8},
            "vision_config": {
                "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                "image_size": 28, "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
        },
    ),
}  # fmt: skip


def make_model(
    folder: Path, seed: int, family: str = "qwen2", dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """Save a model of the family with weights drawn from `seed`; vectors (norms, biases) are random too."""
    name, settings = {**FAMILIES, **ODD}[family]
    config = getattr(transformers, name)(**{**settings, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def make_pool(
    folder: Path, names: tuple[str, ...], family: str = "qwen2", dtype: torch.dtype = torch.float32, **changes: Any
) -> tuple[Path, dict[str, Path]]:
    """A base and the models `names`, each with weights of its own."""
    base = make_model(folder / "base", 0, family, dtype, **changes)
    return base, {n: make_model(folder / n, i + 1, family, dtype, **changes) for i, n in enumerate(names)}


def add_tokenizer(folder: Path, template: str | None = TEMPLATE, extra: tuple[str, ...] = ()) -> None:
    """A byte-level tokenizer; `extra` tokens are appended to its vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<|user|>", "<|assistant|>", *alphabet, *extra])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def edit_json(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    value = json.loads(file.read_text())
    edit(value)
    file.write_text(json.dumps(value))
