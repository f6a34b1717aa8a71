"""Where a checkpoint's tensors lie in a model whose loader rearranged them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from optimizer.errors import CheckpointError
from optimizer.merging import placement
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.merge import write_merge
from optimizer.merging.placement import place_tensors
from optimizer.merging.recipe import Coefficients, ExportSettings, Recipe
from optimizer.merging.resident import ResidentMerge
from tests.optimizer.merging.conftest import Pool
from tests.optimizer.merging.pools import make_pool


def load(folder: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model


def recipe_of(pool: Pool, method: str = "task_arithmetic") -> Recipe:
    groups = check_pool(*pool).groups
    return Recipe(*pool, method, Coefficients.constant(tuple(pool[1]), groups, dict.fromkeys(pool[1], 0.5)))


def test_experts_of_equal_content_are_taken_in_their_order(tmp_path: Path) -> None:
    """A mixture grown from one dense model starts with experts that are all the same."""
    pool = make_pool(tmp_path, ("a",), "mixtral", num_hidden_layers=1)
    base = load(pool[0])
    with torch.no_grad():
        for name in ("gate_up_proj", "down_proj"):
            experts = base.get_parameter(f"model.layers.0.mlp.experts.{name}")
            experts.copy_(experts[:1].expand_as(experts))
    assert isinstance(base, PreTrainedModel)
    base.save_pretrained(pool[0])
    model = load(pool[1]["a"])
    merge = ResidentMerge(model, *pool, check_pool(*pool))
    merge.apply(torch.ones(1, len(merge.layout.groups)))
    for held, own in zip(model.parameters(), load(pool[1]["a"]).parameters(), strict=True):
        assert torch.equal(held, own)


def turned(folder: Path, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a loader makes that turns matrices round."""
    return {n: t.flip(-1) if n.endswith("experts.down_proj") else t for n, t in parameters.items()}


def test_a_loader_that_does_more_than_put_rows_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods of single numbers are merged in the model's own shapes; others would see other rows than on disk."""
    pool = make_pool(tmp_path, ("a", "b"), "mixtral", num_hidden_layers=1)
    real = placement._load
    monkeypatch.setattr(placement, "_load", lambda model, folder: turned(folder, real(model, folder)))
    model = load(pool[0])
    merge = ResidentMerge(model, *pool, check_pool(*pool))
    recipe = recipe_of(pool)
    merge.apply(recipe.coefficients)
    write_merge(recipe, tmp_path / "out", ExportSettings(), card="")
    wanted = turned(tmp_path, dict(load(tmp_path / "out").named_parameters()))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, wanted[name]), name
    with pytest.raises(CheckpointError, match="ties needs them as they are in the files"):
        place_tensors(model, recipe_of(pool, "ties"), check_pool(*pool))


def test_a_model_that_is_not_the_checkpoints(pool: Pool) -> None:
    model = load(pool[0])
    model.model.norm.extra = nn.Parameter(torch.zeros(3))  # type: ignore[union-attr]
    plain = nn.Module()
    plain.model = model.model
    plain.lm_head = model.lm_head
    with pytest.raises(CheckpointError, match=r"no tensor for the parameter model\.norm\.extra"):
        place_tensors(plain, recipe_of(pool), check_pool(*pool))
