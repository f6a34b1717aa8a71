"""Random masks: both sides obey the law of the method."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.parity.cases import Case
from tests.parity.compare import load
from tests.parity.conftest import Bench
from tests.parity.laws import DRAWS, Draw

#: one false alarm in ten thousand runs, with the hundreds of fractions that are looked at
SIGMAS = 6
EPSILON = 0.15

single = [draw for draw in DRAWS.values() if draw.models == 1]
double = [draw for draw in DRAWS.values() if draw.models == 2]


def results(case: Case, bench: Bench) -> list[Path]:
    """Temper's and mergekit's."""
    return [bench.tempers(case), bench.peers(case)]


def matrices(result: Path, pool: Path, models: str) -> list[list[Tensor]]:
    """[change of the result, change of each model] of every large tensor, in float64."""
    base, merged, tuned = load(pool / "base"), load(result), [load(pool / model) for model in models]
    return [
        [(source[name].double() - values.double()) for source in (merged, *tuned)]
        for name, values in base.items()
        if values.numel() >= 60_000
    ]


def same(a: Tensor, b: Tensor) -> Tensor:
    """Where two changes are equal but for the rounding of base + change in float32."""
    return (a - b).abs() <= 1e-6


def check_fraction(chosen: Tensor, expected: float) -> None:
    """`chosen` is a mask whose elements are drawn one by one."""
    deviation = (expected * (1 - expected) / chosen.numel()) ** 0.5
    assert abs(chosen.double().mean().item() - expected) <= SIGMAS * deviation + 1e-5


@pytest.mark.parametrize(("case", "draw"), [(d.case, d) for d in single], ids=[d.case.name for d in single])
def test_one_model_keeps_its_fraction_and_its_norm(case: Case, draw: Draw, bench: Bench) -> None:
    for result in results(case, bench):
        for change, own in matrices(result, bench.pool(case), "a"):
            kept = (change != 0) & (own.abs() > 1e-5)
            check_fraction(kept[own.abs() > 1e-5], draw.density)
            scale = own.abs().sum() / own[kept].abs().sum() if draw.rescale else torch.tensor(1.0)
            assert ((change - own * scale)[kept].abs() <= 2e-6 * scale).all()
            # what is kept does not depend on the sign of the change, nor on where in the tensor it stands
            check_fraction(kept[own > 1e-5], draw.density)
            half = kept[: len(kept) // 2]
            check_fraction(half[own[: len(kept) // 2].abs() > 1e-5], draw.density)


@pytest.mark.parametrize(
    ("case", "draw"),
    [(d.case, d) for d in single if d.method.startswith("della")],
    ids=[d.case.name for d in single if d.method.startswith("della")],
)
def test_della_keeps_large_changes_more_often(case: Case, draw: Draw, bench: Bench) -> None:
    for result in results(case, bench):
        for change, own in matrices(result, bench.pool(case), "a"):
            # the probability rises from density − ε to density + ε with the rank of the magnitude within the row
            columns = own.shape[1]
            rank = own.abs().argsort(dim=1).argsort(dim=1)
            for part in range(4):
                low, high = part * columns // 4, (part + 1) * columns // 4
                middle = ((low + high - 1) / 2) / (columns - 1)
                inside = (rank >= low) & (rank < high) & (own.abs() > 1e-5)
                check_fraction((change != 0)[inside], draw.density + EPSILON * (2 * middle - 1))


@pytest.mark.parametrize(("case", "draw"), [(d.case, d) for d in double], ids=[d.case.name for d in double])
def test_two_models_are_drawn_independently(case: Case, draw: Draw, bench: Bench) -> None:
    p = draw.density
    consensus = draw.method in ("dare_ties", "della")
    for result in results(case, bench):
        for change, a, b in matrices(result, bench.pool(case), "ab"):
            # numbers that cannot be mistaken for one another
            clear = (a.abs() > 1e-4) & (b.abs() > 1e-4) & ((a.abs() - b.abs()).abs() > 1e-4)
            agree, oppose = clear & (a * b > 0), clear & (a * b < 0)
            if draw.method.startswith("della"):
                agree, oppose = middling(agree, a, b), middling(oppose, a, b)
            check_fraction(same(change, a + b)[agree], p * p)
            check_fraction((change == 0)[agree], (1 - p) ** 2)
            check_fraction(same(change, a)[agree], p * (1 - p))
            larger, smaller = torch.where(a.abs() > b.abs(), a, b), torch.where(a.abs() > b.abs(), b, a)
            check_fraction((change == 0)[oppose], (1 - p) ** 2)
            check_fraction(same(change, smaller)[oppose], p * (1 - p))
            if consensus:
                check_fraction(same(change, larger)[oppose], p)
            else:
                check_fraction(same(change, a + b)[oppose], p * p)


def middling(where: Tensor, *changes: Tensor) -> Tensor:
    """Those of `where` whose magnitudes are of middle rank in their row, symmetrically chosen, so that DELLA keeps
    them with the probability `density` on average."""
    columns = where.shape[1]
    for change in changes:
        rank = change.abs().argsort(dim=1).argsort(dim=1)
        where = where & ((rank - (columns - 1) / 2).abs() <= columns * 0.1)
    return where
