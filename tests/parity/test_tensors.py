"""The same recipe gives the same tensors."""

import pytest

from tests.parity.cases import METHODS, Case
from tests.parity.compare import differences, load, with_checkpoint_names
from tests.parity.conftest import Bench
from tests.parity.shapes import SHAPES


@pytest.mark.parametrize("case", [*METHODS, *SHAPES], ids=lambda case: case.name)
def test_a_recipe_gives_the_tensors_that_mergekit_gives(case: Case, bench: Bench) -> None:
    ours = bench.tempers(case)
    assert not differences(load(ours), with_checkpoint_names(load(bench.peers(case))), case.ulps)
