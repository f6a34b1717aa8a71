"""Pools that several tests read and none changes."""

from pathlib import Path

import pytest
import torch

from tests.optimizer.merging.pools import add_tokenizer, make_pool

Pool = tuple[Path, dict[str, Path]]


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """float32 Qwen2: a base and two models, untied, the base with a tokenizer and chat template."""
    base, models = make_pool(tmp_path_factory.mktemp("pool"), ("a", "b"))
    add_tokenizer(base)
    return base, models


@pytest.fixture(scope="session")
def half_pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """bfloat16 Qwen3 with tied embeddings: a base and three models."""
    return make_pool(tmp_path_factory.mktemp("half"), ("a", "b", "c"), "qwen3", torch.bfloat16)
