"""Where Temper differs on purpose: arithmetic is in float32 whatever the recipe says, rounded once at the end."""

from dataclasses import replace

import pytest
import torch

from tests.parity.cases import ABC, BASE, UNEVEN, Case, weighted, write
from tests.parity.compare import TOLERANCE, largest, load
from tests.parity.conftest import Bench

NARROW = [
    Case(f"rounding: {method}", write(method, models, **BASE, parameters=shared), "llama-bf16")
    for method, models, shared in (
        ("task_arithmetic", weighted(0.6, -0.3, 0.7), {}),
        ("slerp", {"a": {}}, {"t": UNEVEN}),
        ("nuslerp", weighted(0.3, 0.6), {}),
        ("multislerp", weighted(0.3, 0.6, 0.4), {}),
        ("model_stock", ABC, {}),
        ("ram", ABC, {}),
    )
]
CHOOSING = [
    (Case(f"equal magnitudes: {method} {pool}", write(method, models, **BASE, parameters=shared), pool), thresholds)
    for pool in ("llama", "llama-bf16")
    for method, models, shared, thresholds in (
        ("ties", weighted(1.0, density=0.3), {"normalize": False}, 1),
        ("breadcrumbs", weighted(1.0, density=0.3, gamma=0.1), {}, 2),
    )
]


def with_dtype(case: Case, dtype: str, out: str | None = None) -> Case:
    """The same recipe with another dtype."""
    recipe = case.recipe.replace("dtype: float32", f"dtype: {dtype}" + (f"\nout_dtype: {out}" if out else ""))
    return replace(case, name=f"{case.name} {dtype}", recipe=recipe)


@pytest.mark.parametrize(
    ("case", "exact"), [(with_dtype(case, "bfloat16"), with_dtype(case, "float64")) for case in NARROW]
)
def test_a_recipe_in_bfloat16_is_rounded_once_and_nearer_to_the_truth(case: Case, exact: Case, bench: Bench) -> None:
    ours = load(bench.tempers(case))
    theirs, truth = load(bench.peers(case)), load(bench.peers(exact))
    errors, their_errors = 0.0, 0.0
    for name, value in truth.items():
        assert ours[name].dtype == theirs[name].dtype == torch.bfloat16
        error = (ours[name].double() - value).abs()
        half = torch.finfo(torch.bfloat16).eps / 2 * value.abs()
        assert (error <= half + TOLERANCE * largest(value)).all(), name
        errors += error.sum().item()
        their_errors += (theirs[name].double() - value).abs().sum().item()
    assert errors <= their_errors


@pytest.mark.parametrize(("case", "thresholds"), CHOOSING)
def test_only_numbers_of_equal_magnitude_are_chosen_otherwise(case: Case, thresholds: int, bench: Bench) -> None:
    ours, theirs = load(bench.tempers(case)), load(bench.peers(case))
    base, model = load(bench.pool(case) / "base"), load(bench.pool(case) / "a")
    for name, value in base.items():
        change = model[name].float() - value.float()
        kept, their_kept = ours[name] != value.float(), theirs[name] != value.float()
        assert kept.sum() == their_kept.sum()
        assert len(change[kept != their_kept].abs().unique()) <= thresholds
        both = kept & their_kept
        assert (ours[name] - theirs[name])[both].abs().max() <= TOLERANCE * largest(theirs[name])
