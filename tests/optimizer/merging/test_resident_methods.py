"""Every method of the registry gives the same bits in memory as on disk, whatever the coefficients' granularity."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.held import Parameters
from optimizer.merging.merge import merged_tensors
from optimizer.merging.methods.base import Method
from optimizer.merging.methods.registry import METHODS
from optimizer.merging.recipe import Coefficients, Granularity, Recipe
from optimizer.merging.resident import ResidentMerge
from tests.optimizer.merging.conftest import Pool
from tests.optimizer.merging.pools import make_pool

COEFFICIENTS = st.sampled_from([0.25, 0.5, 0.8, 1.0])


def models_for(method: Method, pool: Pool) -> dict[str, Path]:
    """As many of the pool's models as the method takes."""
    fewest, most = method.models
    count = len(pool[1]) if most is None else min(most, len(pool[1]))
    assert count >= fewest, f"{method.name} takes {fewest} models or more, the pool has {count}"
    return dict(list(pool[1].items())[:count])


def parameters_for(method: Method, density: float) -> dict[str, float]:
    """Values for what has no default, and a density where there is one."""
    names = [row.name for row in method.parameters if row.name != method.coefficient]
    given = {row.name: 0.5 for row in method.parameters if row.name in names and row.default is None}
    return {**given, **({"density": density} if "density" in names else {})}


def resident_of(method: Method, pool: Pool, parameters: Parameters) -> tuple[nn.Module, ResidentMerge, Pool]:
    own = pool[0], models_for(method, pool)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(pool[0], dtype="auto")
    merge = ResidentMerge(model, *own, check_pool(*own), method=method.name, parameters=parameters, seed=7)
    return model, merge, own


def spread(granularity: Granularity, groups: Sequence[str], values: Sequence[float]) -> tuple[float, ...]:
    """A coefficient for every group, those of one granule alike."""
    granules: dict[Granularity, Callable[[str], str]] = {
        Granularity.MODEL: lambda group: "",
        Granularity.LAYER: lambda group: ".".join(group.split(".")[:2]),
        Granularity.LAYER_COMPONENT: lambda group: group,
    }
    keys = [granules[granularity](group) for group in groups]
    order = list(dict.fromkeys(keys))
    return tuple(values[order.index(key) % len(values)] for key in keys)


def check_equal(model: nn.Module, recipe: Recipe) -> None:
    held = dict(model.named_parameters())
    for name, tensor in merged_tensors(recipe):
        assert held[name].dtype == tensor.dtype
        assert torch.equal(held[name].detach().view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize("width", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_memory_is_disk(name: str, width: str, pool: Pool, half_pool: Pool) -> None:
    method = METHODS[name]
    first, second = parameters_for(method, 0.6), parameters_for(method, 0.3)
    model, merge, own = resident_of(method, pool if width == "float32" else half_pool, first)

    @settings(max_examples=4, deadline=None)
    @given(data=st.data(), granularity=st.sampled_from(Granularity), other=st.booleans())
    def check(data: st.DataObject, granularity: Granularity, other: bool) -> None:
        rows = data.draw(st.tuples(*[st.lists(COEFFICIENTS, min_size=5, max_size=5)] * len(merge.models)))
        values = tuple(spread(granularity, merge.layout.groups, row) for row in rows)
        coefficients = Coefficients(merge.models, merge.layout.groups, values)
        parameters = second if other else first
        merge.apply(coefficients, parameters)
        check_equal(model, Recipe(*own, name, coefficients, parameters=parameters, seed=7))

    check()


@pytest.mark.parametrize("name", METHODS)
def test_fused_experts_are_merged_as_the_tensors_of_the_files(name: str, tmp_path: Path) -> None:
    """Norms, ranks and draws are those of each expert's own matrices, which transformers has joined into one."""
    method = METHODS[name]
    pool = make_pool(tmp_path, ("a", "b", "c"), "mixtral", num_hidden_layers=1)
    model, merge, own = resident_of(method, pool, parameters_for(method, 0.5))
    coefficients = Coefficients.constant(merge.models, merge.layout.groups, dict.fromkeys(merge.models, 0.5))
    merge.apply(coefficients)
    disk = dict(merged_tensors(Recipe(*own, name, coefficients, parameters=parameters_for(method, 0.5), seed=7)))
    experts = model.get_parameter("model.layers.0.mlp.experts.gate_up_proj")
    stem = "model.layers.0.block_sparse_moe.experts"
    for number in range(experts.shape[0]):
        joined = torch.cat([disk[f"{stem}.{number}.{part}.weight"] for part in ("w1", "w3")])
        assert torch.equal(experts[number], joined)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.linear])
def test_the_gradient_of_a_linear_method_is_its_slope(name: str, tmp_path: Path) -> None:
    """L = ⟨θ, v⟩ is linear in λ too, so one difference of L is its derivative."""
    method = METHODS[name]
    pool = make_pool(tmp_path, ("a", "b"), dtype=torch.float64, num_hidden_layers=1)
    off = {"normalize": 0.0} if method.parameter("normalize") else {}
    model, merge, _ = resident_of(method, pool, {**parameters_for(method, 0.5), **off})
    generator = torch.Generator().manual_seed(3)
    probe = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in model.named_parameters()}

    def loss() -> torch.Tensor:
        return torch.stack([(parameter * probe[name]).sum() for name, parameter in model.named_parameters()]).sum()

    point = torch.full((len(merge.models), len(merge.layout.groups)), 0.4, dtype=torch.float64)
    merge.apply(point)
    before = float(loss().detach())
    with merge.collect_gradient() as gradient:
        loss().backward()  # type: ignore[no-untyped-call]
    for model_number, group in ((0, 0), (len(merge.models) - 1, 2), (0, len(merge.layout.groups) - 1)):
        moved = point.clone()
        moved[model_number, group] += 1
        merge.apply(moved)
        slope = float(loss().detach()) - before
        assert float(gradient[model_number, group]) == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert gradient.abs().min() > 0


def test_no_gradient_of_what_is_not_linear(pool: Pool) -> None:
    _, merge, _ = resident_of(METHODS["task_arithmetic"], pool, {"normalize": 1.0})
    with pytest.raises(RecipeError, match="normalize"), merge.collect_gradient():
        pass
    for method in METHODS.values():
        if not method.linear and method.models[0] <= len(pool[1]):
            _, merge, _ = resident_of(method, pool, parameters_for(method, 0.5))
            with pytest.raises(RecipeError, match=f"gradients of {method.name}"), merge.collect_gradient():
                pass


def test_parameters_that_do_not_fit(pool: Pool) -> None:
    with pytest.raises(RecipeError, match=r"lambda is 1e\+09"):
        resident_of(METHODS["task_arithmetic"], pool, {"lambda": 1e9})
    _, merge, _ = resident_of(METHODS["task_arithmetic"], pool, {})
    with pytest.raises(RecipeError, match="no parameter 'lamda'"):
        merge.apply(torch.zeros(2, len(merge.layout.groups)), {"lamda": 0.5})
