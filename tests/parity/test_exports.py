"""A searched recipe gives the same tensors in mergekit."""

import pytest

from optimizer.merging.merge import write_plan
from optimizer.merging.plan import make_plan
from tests.parity.compare import differences, load, with_checkpoint_names
from tests.parity.conftest import Bench
from tests.parity.exports import EXPORTS, Export


@pytest.mark.parametrize("case", EXPORTS, ids=lambda case: case.name)
def test_mergekit_makes_of_an_exported_recipe_what_temper_makes_of_its_own(case: Export, bench: Bench) -> None:
    ours = bench.out(case, "own")
    write_plan(make_plan(case.temper(bench.pool(case))), ours, {}, shard_size=5 << 30)
    assert not differences(load(ours), with_checkpoint_names(load(bench.peers(case))))


@pytest.mark.parametrize("case", EXPORTS, ids=lambda case: case.name)
def test_temper_reads_its_export_as_mergekit_does(case: Export, bench: Bench) -> None:
    ours = bench.tempers(case)
    assert not differences(load(ours), with_checkpoint_names(load(bench.peers(case))))
