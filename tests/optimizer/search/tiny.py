"""Random models of a few thousand parameters and a tokenizer of bytes, for tests of arithmetic."""

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from datagen.samples import DataSet, Kind, Provenance, Sample, Split

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SPECIAL = ("<|text|>", "<|start|>", "<|end|>")
VOCABULARY = 256 + len(SPECIAL)

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}
#: architecture → model; those after "qwen2" change hidden states or logits around the head
ARCHITECTURES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_GROUPED, tie_word_embeddings=True)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**_GROUPED, head_dim=8, final_logit_softcapping=5.0, sliding_window=24, query_pre_attn_scalar=8)
    ),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**_GROUPED, logits_scaling=4.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**_GROUPED, logit_scale=0.25)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SHAPE)),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=0.3)
    ),
}


def model(architecture: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return ARCHITECTURES[architecture]().eval()


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte; "<|text|>" (end of text) is the eos token, "<|end|>" ends a turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=SPECIAL[0], chat_template=template)


def row(kind: Kind, prompt: str, answer: str, split: Split = Split.SEARCH, domain: str = "") -> Sample:
    provenance = Provenance("base", "r", "base", "r", "t", "tests", "{}", 0, "rules/1")
    category = "" if kind is Kind.DOMAIN else "fraud"
    name = f"{kind}-{split}-{domain}-{prompt}"
    return Sample(name, kind, split, category, domain, prompt, answer, 0, provenance)


def dataset(per_axis: int = 4, splits: tuple[Split, ...] = tuple(Split)) -> DataSet:
    """Harmful, benign and two domains' rows in every split, `per_axis` of each."""
    rows = []
    for split in splits:
        for k in range(per_axis):
            rows += [
                row(Kind.HARMFUL, f"steal {split} {k}?", "sorry, no.", split),
                row(Kind.BENIGN, f"bake {split} {k}?", f"sure, take {k} eggs.", split),
                row(Kind.DOMAIN, f"add {split} {k}", f"{k + 1}", split, "sums"),
                row(Kind.DOMAIN, f"name {split} {k}", "a" * (k + 1), split, "names"),
            ]
    return DataSet(tuple(rows))
