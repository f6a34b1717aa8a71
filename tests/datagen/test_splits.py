"""Clusters dealt to the splits."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.errors import DataError
from datagen.samples import Split
from datagen.settings import SplitSettings
from datagen.splits import deal

SHARES = SplitSettings()


def test_every_stratum_has_its_share_in_every_split() -> None:
    strata = [f"harmful/c{row % 6}" for row in range(360)]
    dealt = deal(strata, list(range(360)), SHARES, 0, ["harmful"] * 360)
    counts = Counter(zip(dealt, strata, strict=True))
    for stratum in set(strata):
        assert [counts[split, stratum] for split in Split] == [30, 12, 18]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=60, max_size=80), st.integers(0, 2**31 - 1))
def test_no_cluster_crosses_a_split(sizes: list[int], seed: int) -> None:
    cluster_of = [cluster for cluster, size in enumerate(sizes) for _ in range(size)]
    strata = [f"harmful/c{row % 4}" for row in range(len(cluster_of))]
    dealt = deal(strata, cluster_of, SHARES, seed, ["harmful"] * len(cluster_of))
    where = defaultdict(set)
    for cluster, split in zip(cluster_of, dealt, strict=True):
        where[cluster].add(split)
    assert all(len(splits) == 1 for splits in where.values())
    for split, share in ((Split.SEARCH, 0.5), (Split.SELECTION, 0.2), (Split.REPORT, 0.3)):
        assert abs(dealt.count(split) / len(dealt) - share) < 0.1


def test_the_seed_decides_and_nothing_else() -> None:
    arguments = (["a"] * 100, list(range(100)), SHARES)
    assert deal(*arguments, 1, ["a"] * 100) == deal(*arguments, 1, ["a"] * 100)
    assert deal(*arguments, 1, ["a"] * 100) != deal(*arguments, 2, ["a"] * 100)


def test_a_split_that_would_lack_a_kind_is_an_error_that_says_so() -> None:
    strata = ["harmful/a"] * 30 + ["benign/a"] * 30
    cluster_of = [0] * 30 + list(range(1, 31))
    with pytest.raises(DataError, match="the selection split has no harmful row: 30 rows in too few clusters"):
        deal(strata, cluster_of, SHARES, 0, ["harmful"] * 30 + ["benign"] * 30)
