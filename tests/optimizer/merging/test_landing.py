"""Merges written to where a loader put a checkpoint's tensors: fused, sharded, turned round, padded, packed, tied."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from datagen.engines.vllm_worker import WeightSwapper
from optimizer.merging.checkpoint.header import read_headers
from optimizer.merging.held import HeldPool
from optimizer.merging.landing import LandedMerge, LoadTrace, base_tensors
from optimizer.merging.layout import Layout
from optimizer.merging.merge import merged_tensors
from optimizer.merging.recipe import Coefficients, Recipe, recipe_to_dict
from optimizer.merging.vllm_worker import HeldMerge

SHAPES = {
    "model.embed_tokens.weight": (10, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.q_proj.bias": (8,),
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.layers.0.mlp.gate.weight": (3, 8),
    "model.layers.0.input_layernorm.weight": (8,),
}


class Layer(nn.Module):
    """Parameters of these shapes, zeros."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))


class Server(nn.Module):
    """Loads what a server's second worker of two would: its own shard of most tensors, in its own arrangement."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Layer(weight=(16, 8))  # padded
        self.head = Layer()
        self.head.weight = self.embedding.weight  # tied
        self.qk = Layer(weight=(12, 8), bias=(12,))
        self.down = Layer(weight=(8, 6))
        self.up = Layer(weight=(8, 6))
        self.gate = Layer(weight=(3, 8))
        self.norm = Layer(weight=(8,))
        self.packed: dict[nn.Module, Tensor] = {}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        layer = "model.layers.0."
        self.embedding.weight[:10].copy_(tensors["model.embed_tokens.weight"])
        self.embedding.weight[10:].fill_(0)
        self.qk.weight[:8].copy_(tensors[layer + "self_attn.q_proj.weight"])
        self.qk.weight.narrow(0, 8, 4).copy_(tensors[layer + "self_attn.k_proj.weight"])
        self.qk.bias[:8].copy_(tensors[layer + "self_attn.q_proj.bias"])
        self.down.weight.copy_(tensors[layer + "mlp.down_proj.weight"].narrow(1, 6, 6))  # a shard of the columns
        self.up.weight.copy_(tensors[layer + "mlp.up_proj.weight"][6:].t())  # a shard of the rows, turned round
        self.gate.weight.copy_(tensors[layer + "mlp.gate.weight"])
        self.norm.weight.copy_(tensors[layer + "input_layernorm.weight"])

    def pack(self, module: nn.Module) -> None:
        """As on a CPU: linear layers compute with a copy, and most give their parameter up."""
        if module in (self.embedding, self.norm):
            return
        weight = module.get_parameter("weight")
        self.packed[module] = weight.detach() * 2
        if module is not self.head:
            module.weight = nn.Parameter(torch.empty(0), requires_grad=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        folder = tmp_path / name
        folder.mkdir()
        save_file({n: torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}, folder / "m.safetensors")
        (folder / "config.json").write_text('{"model_type": "none"}')
    groups = Layout.of(read_headers(tmp_path / "base")).groups
    rows = tuple(tuple(0.1 * (i + t + 1) for i in range(len(groups))) for t in range(2))
    models = {"a": tmp_path / "a", "b": tmp_path / "b"}
    return Recipe(tmp_path / "base", models, "task_arithmetic", Coefficients(("a", "b"), groups, rows))


def held(recipe: Recipe) -> HeldPool:
    return HeldPool(recipe, Layout.of(read_headers(recipe.base)), torch.device("cpu"))


def traced(server: Server, pool: HeldPool) -> LoadTrace:
    trace = LoadTrace(server, pool.tensors)
    with trace:
        server.load(dict(base_tensors(pool)))
    return trace


def everything(pool: HeldPool) -> set[int]:
    return set(range(len(pool.layout.groups)))


def test_written_in_place_is_loaded(recipe: Recipe) -> None:
    pool, server, other = held(recipe), Server(), Server()
    landed = LandedMerge(server, pool, traced(server, pool).layers(), None)
    assert landed.lost == ()
    parameters = dict(server.named_parameters())
    landed.write(everything(pool), pool.settings(recipe.coefficients))
    other.load(dict(merged_tensors(recipe)))
    assert all(server.get_parameter(name) is parameter for name, parameter in parameters.items())
    for name, parameter in other.named_parameters():
        assert torch.equal(server.get_parameter(name), parameter), name


def test_layers_that_gave_their_parameters_up_are_packed_anew_and_so_is_a_tied_head(recipe: Recipe) -> None:
    pool, server, other = held(recipe), Server(), Server()
    trace = traced(server, pool)
    for module in (server.qk, server.down, server.up, server.gate, server.head):
        server.pack(module)
    landed = LandedMerge(server, pool, trace.layers(), server.pack)
    assert landed.lost == ()
    landed.write(everything(pool), pool.settings(recipe.coefficients))
    other.load(dict(merged_tensors(recipe)))
    for name in ("qk", "down", "up", "gate", "head"):
        weight = other.get_parameter("embedding.weight" if name == "head" else f"{name}.weight")
        assert torch.equal(server.packed[server.get_submodule(name)], 2 * weight), name
    assert torch.equal(server.qk.bias, other.qk.bias)
    states = torch.randn(2, 8)
    assert torch.equal(linear(states, server.packed[server.head]), linear(states, 2 * server.embedding.weight))


def test_only_layers_of_changed_groups_are_touched(recipe: Recipe) -> None:
    pool, server = held(recipe), Server()
    landed = LandedMerge(server, pool, traced(server, pool).layers(), None)
    before = {name: parameter.clone() for name, parameter in server.named_parameters()}
    landed.write({pool.layout.groups.index("layers.0.attention")}, pool.settings(recipe.coefficients))
    changed = {name for name, parameter in server.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"qk.weight", "qk.bias"}


@pytest.mark.parametrize("change", ["after", "before"])
def test_what_a_loader_computes_with_is_not_guessed(recipe: Recipe, change: str) -> None:
    """A norm that is stored less one, a gate that is scaled: their tensors have no place, all others have."""
    pool, server = held(recipe), Server()
    tensors = dict(base_tensors(pool))
    if change == "before":
        tensors["model.layers.0.input_layernorm.weight"] = tensors["model.layers.0.input_layernorm.weight"] + 1
    trace = LoadTrace(server, pool.tensors)
    with trace, torch.no_grad():
        server.load(tensors)
        if change == "after":
            server.norm.weight.add_(1)
    landed = LandedMerge(server, pool, trace.layers(), None)
    assert landed.lost == ("model.layers.0.input_layernorm.weight",)


class Worker(WeightSwapper):
    """A worker around a server that computes with one of its tensors while it loads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.reloads = 0
        self.model_runner = SimpleNamespace(get_model=lambda: server)

    def reload(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        self.reloads += 1
        self.server.load(dict(tensors))
        with torch.no_grad():
            self.server.norm.weight.add_(1)


def test_a_tensor_without_a_place_sends_every_merge_through_the_loader_from_memory(recipe: Recipe) -> None:
    server, other = Server(), Worker(Server())
    worker = Worker(server)
    merge = HeldMerge(worker, recipe, None)
    assert merge.lost == ("model.layers.0.input_layernorm.weight",)
    table = json.dumps(recipe_to_dict(recipe)["coefficients"])
    merge.load(table, None)
    merge.load(table, None)
    assert worker.reloads == 2  # the base while it was watched, the merge, and nothing for the same merge again
    other.reload(merged_tensors(recipe))
    for name, parameter in other.server.named_parameters():
        assert torch.equal(server.get_parameter(name), parameter), name
