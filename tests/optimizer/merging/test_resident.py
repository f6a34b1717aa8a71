"""The merge in memory equals the merge on disk bit for bit, and its gradients are the true ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from optimizer.errors import CheckpointError, RecipeError
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.merge import merged_tensors, write_merge
from optimizer.merging.recipe import Coefficients, ExportSettings, Recipe
from optimizer.merging.resident import ResidentMerge
from tests.optimizer.merging.conftest import Pool
from tests.optimizer.merging.pools import FAMILIES, make_model, make_pool

IDS = torch.tensor([[5, 9, 200, 7, 7, 31, 2, 90]])
LAMBDAS = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(-1.5, 1.5, allow_nan=False))


def load(folder: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model


def resident_of(pool: Pool) -> tuple[nn.Module, ResidentMerge]:
    model = load(pool[0])
    return model, ResidentMerge(model, pool[0], pool[1], check_pool(*pool))


@pytest.fixture(scope="module")
def resident(pool: Pool) -> tuple[nn.Module, ResidentMerge]:
    return resident_of(pool)


@pytest.fixture(scope="module")
def half_resident(half_pool: Pool) -> tuple[nn.Module, ResidentMerge]:
    return resident_of(half_pool)


def check_equal_to_disk(pool: Pool, model: nn.Module, merge: ResidentMerge, data: st.DataObject) -> None:
    groups = merge.layout.groups
    row = st.tuples(*[LAMBDAS] * len(groups))
    values = data.draw(st.tuples(*[row] * len(merge.models)))
    coefficients = Coefficients(merge.models, groups, values)
    merge.apply(coefficients)
    held = dict(model.named_parameters())
    disk = dict(merged_tensors(Recipe(pool[0], pool[1], "task_arithmetic", coefficients)))
    assert held.keys() == disk.keys()
    for name, tensor in disk.items():
        assert held[name].dtype == tensor.dtype
        assert torch.equal(held[name].detach().view(torch.uint8), tensor.view(torch.uint8)), name


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_memory_is_disk(pool: Pool, resident: tuple[nn.Module, ResidentMerge], data: st.DataObject) -> None:
    check_equal_to_disk(pool, *resident, data)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_memory_is_disk_in_bfloat16_with_tied_embeddings(
    half_pool: Pool, half_resident: tuple[nn.Module, ResidentMerge], data: st.DataObject
) -> None:
    check_equal_to_disk(half_pool, *half_resident, data)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_memory_and_on_disk(family: str, tmp_path: Path) -> None:
    """Also where the loader reshapes the checkpoint: transformers fuses Mixtral's experts."""
    pool = make_pool(tmp_path, ("a", "b"), family)
    model, merge = resident_of(pool)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    groups = merge.layout.groups
    rows = tuple(tuple((i + t) % 5 / 4 for i in range(len(groups))) for t in range(2))
    coefficients = Coefficients(merge.models, groups, rows)
    merge.apply(coefficients)
    write_merge(Recipe(*pool, "task_arithmetic", coefficients), tmp_path / "out", ExportSettings(), card="")
    loaded = load(tmp_path / "out")
    for (name, held), disk in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(held, disk), name
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    merge.apply(Coefficients.constant(merge.models, groups, {"b": 1.0}))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), load(pool[1]["b"]).parameters(), strict=True))
    merge.apply(Coefficients.constant(merge.models, groups, {}))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), load(pool[0]).parameters(), strict=True))


def test_only_changed_groups_are_rewritten(pool: Pool) -> None:
    model, merge = resident_of(pool)
    groups = merge.layout.groups
    table = torch.full((2, len(groups)), 0.25)
    merge.apply(table)
    parameters = dict(model.named_parameters())
    kept, changed = parameters["model.layers.0.mlp.up_proj.weight"], parameters["model.layers.1.mlp.up_proj.weight"]
    with torch.no_grad():
        kept.fill_(7)
        changed.fill_(7)
    table[1, groups.index("layers.1.mlp")] = 0.5
    merge.apply(table)
    assert (kept == 7).all()
    assert not (changed == 7).any()


def test_task_vectors(pool: Pool, resident: tuple[nn.Module, ResidentMerge]) -> None:
    base, expert = load(pool[0]), load(pool[1]["b"])
    wanted = {name: q - p for (name, p), q in zip(base.named_parameters(), expert.parameters(), strict=True)}
    found = {name: (group, delta) for name, group, delta in resident[1].deltas()}
    assert found.keys() == wanted.keys()
    for name, (group, delta) in found.items():
        assert group == resident[1].layout.group_of[name]
        assert delta.shape == (2, wanted[name].numel())
        torch.testing.assert_close(delta[1], wanted[name].detach().reshape(-1))


def loss_of(model: nn.Module) -> Tensor:
    """Cross-entropy in the model's own dtype; the models' own loss goes through float32."""
    return cross_entropy(model(input_ids=IDS).logits[0, :-1], IDS[0, 1:])


def double_resident(folder: Path, family: str, **changes: bool) -> tuple[nn.Module, ResidentMerge]:
    pool = make_pool(folder, ("a", "b"), family, torch.float64, **changes)
    # the fused kernels of mixtures know no float64
    model = AutoModelForCausalLM.from_pretrained(pool[0], dtype=torch.float64, experts_implementation="eager")
    return model, ResidentMerge(model, *pool, check_pool(*pool))


def random_point(merge: ResidentMerge, seed: int) -> Tensor:
    shape = len(merge.models), len(merge.layout.groups)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tied", [False, True])
def test_gradient_equals_finite_differences(tied: bool, tmp_path: Path) -> None:
    """On GPT-NeoX, the family whose norms compute in float64 too: differences of float32 numbers are mostly noise."""
    model, merge = double_resident(tmp_path, "gpt-neox", tie_word_embeddings=tied)
    assert ("head" in merge.layout.groups) is not tied
    point = random_point(merge, 1)
    merge.apply(point)
    with merge.collect_gradient() as gradient:
        loss_of(model).backward()

    def loss_at(table: Tensor) -> float:
        merge.apply(table)
        with torch.no_grad():
            return float(loss_of(model))

    step = 1e-5
    for model_number in range(len(merge.models)):
        for group in range(len(merge.layout.groups)):
            shift = torch.zeros_like(point)
            shift[model_number, group] = step
            slope = (loss_at(point + shift) - loss_at(point - shift)) / (2 * step)
            assert float(gradient[model_number, group]) == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert gradient.abs().max() > 1e-3


def slope_of(
    model: nn.Module, merge: ResidentMerge, group: str, only: str, start: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What one unit of one coefficient adds to every parameter."""
    table = torch.zeros(len(merge.models), len(merge.layout.groups))
    table[merge.models.index(only), merge.layout.groups.index(group)] = 1
    merge.apply(table)
    return {name: parameter.detach() - start[name] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mixtral"])  # untied, tied, fused experts
def test_gradient_equals_autograd_through_the_coefficients(family: str, tmp_path: Path) -> None:
    model, merge = double_resident(tmp_path, family)
    point = random_point(merge, 2)
    merge.apply(torch.zeros_like(point))
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    table = point.clone().requires_grad_()
    weights = dict(start)
    for group, column in zip(merge.layout.groups, table.unbind(1), strict=True):
        for t, only in enumerate(merge.models):
            slope = slope_of(model, merge, group, only, start)
            weights = {name: weight + column[t] * slope[name] for name, weight in weights.items()}
    logits = functional_call(model, weights, kwargs={"input_ids": IDS}).logits
    cross_entropy(logits[0, :-1], IDS[0, 1:]).backward()
    merge.apply(point)
    with merge.collect_gradient() as gradient:
        loss_of(model).backward()
    assert table.grad is not None
    torch.testing.assert_close(gradient, table.grad, rtol=1e-9, atol=1e-12)


def test_gradients_add_up_and_are_freed_one_by_one(half_resident: tuple[nn.Module, ResidentMerge]) -> None:
    model, merge = half_resident
    merge.apply(torch.full((3, len(merge.layout.groups)), 0.2))
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    held: list[int] = []
    count: Callable[[Tensor], None] = lambda _: held.append(sum(p.grad is not None for p in parameters))  # noqa: E731
    watchers = [p.register_post_accumulate_grad_hook(count) for p in parameters[1:]]
    with merge.collect_gradient() as gradient:
        loss_of(model).backward()
        once = gradient.clone()
        loss_of(model).backward()
        torch.testing.assert_close(gradient, 2 * once)
        assert all(p.grad is None for p in parameters)
    assert max(held) == 1
    for watcher in watchers:
        watcher.remove()
    assert not parameters[0].requires_grad
    parameters[0].requires_grad_(True)
    loss_of(model).backward()  # outside, gradients are the model's own again
    assert parameters[1].grad is not None
    assert torch.equal(gradient, 2 * once)
    model.zero_grad()


def test_a_tied_embedding_gets_the_gradient_of_both_uses(half_resident: tuple[nn.Module, ResidentMerge]) -> None:
    model, merge = half_resident
    assert "head" not in merge.layout.groups
    with merge.collect_gradient() as gradient:
        loss_of(model).backward()
    loss_of(model).backward()
    embedding = model.get_parameter("model.embed_tokens.weight")
    assert embedding.grad is not None
    rows = {IDS.flatten()[i].item() for i in range(IDS.numel())}
    unread = [i for i in range(embedding.shape[0]) if i not in rows]
    assert embedding.grad[unread].abs().sum() > 0  # rows that only the head uses
    delta = next(delta for name, _, delta in merge.deltas() if "embed" in name)
    wanted = delta.double() @ embedding.grad.double().view(-1)
    torch.testing.assert_close(gradient[:, 0], wanted, rtol=1e-3, atol=1e-6)
    model.zero_grad()


def test_what_does_not_fit(pool: Pool, tmp_path: Path) -> None:
    model, merge = resident_of(pool)
    groups = merge.layout.groups
    with pytest.raises(RecipeError, match=r"expected a, b in 9 groups"):
        merge.apply(Coefficients.constant(("b", "a"), groups, {}))
    with pytest.raises(RecipeError, match=r"\[2, 3\] found.*\[2, 9\]"):
        merge.apply(torch.zeros(2, 3))
    table = torch.zeros(2, len(groups))
    table[1, 0] = float("nan")
    with pytest.raises(RecipeError, match="embedding"):
        merge.apply(table)
    other = load(make_model(tmp_path / "deep", 0, num_hidden_layers=3))
    with pytest.raises(CheckpointError, match=r"layers\.2\.attention"):
        ResidentMerge(other, pool[0], pool[1], check_pool(*pool))
    spoiled = make_model(tmp_path / "nan", 1)
    broken = load(spoiled)
    with torch.no_grad():
        broken.get_parameter("model.norm.weight")[2] = float("nan")
    broken.save_pretrained(spoiled)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: NaN"):
        ResidentMerge(model, pool[0], {"a": spoiled}, check_pool(*pool))
