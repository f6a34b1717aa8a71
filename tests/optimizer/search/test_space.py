"""Points of the search and coefficients of the merge are two spellings of one thing."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.errors import SearchError
from optimizer.merging.layout import Layout
from optimizer.merging.recipe import Coefficients, Granularity, MergeSettings
from optimizer.search.space import Space

GROUPS = ("embedding", "layers.0.attention", "layers.0.mlp", "layers.0.norm", "layers.10.mlp", "norm", "head")
LAYOUT = Layout(GROUPS, {f"{group}.weight": group for group in GROUPS})
SIZES = {Granularity.MODEL: 1, Granularity.LAYER: 4, Granularity.LAYER_COMPONENT: 7}


def space(granularity: Granularity, bounds: tuple[float, float] = (-1.0, 2.0)) -> Space:
    return Space.of(LAYOUT, ["math", "chat"], MergeSettings(granularity=granularity, bounds=bounds))


@pytest.mark.parametrize("granularity", Granularity)
def test_every_coefficient_belongs_to_one_dimension(granularity: Granularity) -> None:
    own = space(granularity)
    assert len(own.dimensions) == len(own.covers) == 2 * SIZES[granularity]
    covered = [(model, group) for model, groups in own.covers for group in groups]
    assert sorted(covered) == [(m, g) for m in range(2) for g in range(len(GROUPS))]
    assert len({d.name for d in own.dimensions}) == len(own.dimensions)
    assert {(d.low, d.high) for d in own.dimensions} == {(-1.0, 2.0)}


def test_layers_are_dimensions_and_what_follows_the_last_is_one() -> None:
    names = [d.name for d in space(Granularity.LAYER).dimensions]
    assert names[:4] == ["math/embedding", "math/layers.0", "math/layers.10", "math/head"]


def test_a_second_tower_keeps_its_layers() -> None:
    groups = ("tower.blocks.0.mlp", "tower.blocks.1.mlp", "layers.0.mlp", "head")
    own = Space.of(Layout(groups, {}), ["chat"], MergeSettings(granularity=Granularity.LAYER))
    names = [d.name for d in own.dimensions]
    assert names == ["chat/tower.blocks.0", "chat/tower.blocks.1", "chat/layers.0", "chat/head"]


@given(st.sampled_from(Granularity), st.data())
def test_values_and_coefficients_are_inverse(granularity: Granularity, data: st.DataObject) -> None:
    own = space(granularity)
    size = len(own.dimensions)
    values = data.draw(st.lists(st.floats(-1, 2), min_size=size, max_size=size))
    assert own.values(own.coefficients(values)) == values


def test_a_scalar_sets_all_groups() -> None:
    expected = Coefficients.constant(("math", "chat"), GROUPS, {"math": 0.3, "chat": 0.7})
    assert space(Granularity.MODEL).coefficients([0.3, 0.7]) == expected
    assert space(Granularity.LAYER).coefficients([0.3] * 4 + [0.7] * 4) == expected


def test_projection_takes_the_mean_and_clips() -> None:
    rows = ((0.0, 1.0, 2.0, 3.0, 1.0, 0.0, 0.0), (9.0,) * 7)
    assert space(Granularity.MODEL).values(Coefficients(("math", "chat"), GROUPS, rows)) == [1.0, 2.0]
    assert space(Granularity.LAYER).values(Coefficients(("math", "chat"), GROUPS, rows))[:4] == [0, 2.0, 1.0, 0]


@given(st.sampled_from(Granularity), st.data())
def test_pulling_back_is_the_adjoint_of_spreading_out(granularity: Granularity, data: st.DataObject) -> None:
    own = space(granularity)
    numbers = st.floats(-1, 1)
    values = data.draw(st.lists(numbers, min_size=len(own.dimensions), max_size=len(own.dimensions)))
    slopes = [data.draw(st.lists(numbers, min_size=7, max_size=7)) for _ in range(2)]
    spread = own.coefficients(values).values
    left = sum(a * b for row, slope in zip(spread, slopes, strict=True) for a, b in zip(row, slope, strict=True))
    right = sum(a * b for a, b in zip(values, own.pull_back(slopes), strict=True))
    assert left == pytest.approx(right, abs=1e-9)


def test_what_does_not_belong_is_refused() -> None:
    own = space(Granularity.MODEL)
    with pytest.raises(SearchError, match="3 values"):
        own.coefficients([0.0] * 3)
    with pytest.raises(SearchError, match="do not belong"):
        own.values(Coefficients.constant(("chat", "math"), GROUPS, {}))
    with pytest.raises(SearchError, match="no name twice"):
        Space.of(LAYOUT, ["chat", "chat"], MergeSettings())


def test_importing_the_space_is_cheap() -> None:
    code = "import sys, optimizer.search.space; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
