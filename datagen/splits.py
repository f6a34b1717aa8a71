"""Clusters dealt to the splits, so that every kind and every category or domain has its share in each."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from datagen.errors import DataError
from datagen.samples import Split
from datagen.settings import SplitSettings


def deal(
    strata: Sequence[str], cluster_of: Sequence[int], shares: SplitSettings, seed: int, whole: Sequence[str]
) -> list[Split]:
    """A split for every row; rows of one cluster get the same.

    Clusters are dealt largest first, the rest in a seeded order, each to the split that lacks most of what it holds.

    Args:
        strata: what each row is balanced by, such as "harmful/theft".
        cluster_of: cluster of each row.
        whole: a coarser name for each row ("harmful", "domain/medicine") that must be present in every split.

    Raises:
        DataError: a split would lack one of `whole`.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, cluster in enumerate(cluster_of):
        members[cluster].append(row)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda cluster: -len(members[cluster]))

    share = {Split.SEARCH: shares.search, Split.SELECTION: shares.selection, Split.REPORT: shares.report}
    total = Counter(strata) + Counter(f"{name}\0" for name in whole)
    held: dict[Split, Counter[str]] = {split: Counter() for split in Split}
    result: list[Split | None] = [None] * len(strata)
    for cluster in order:
        brings = Counter(strata[row] for row in members[cluster])
        brings += Counter(f"{whole[row]}\0" for row in members[cluster])
        split = max(Split, key=lambda split: _lack(brings, held[split], total, share[split]))
        held[split] += brings
        for row in members[cluster]:
            result[row] = split
    dealt = [split for split in result if split is not None]
    _check(dealt, whole)
    return dealt


def _lack(brings: Mapping[str, int], held: Mapping[str, int], total: Mapping[str, int], share: float) -> float:
    """How far, in shares of its target, a split is from having enough of what a cluster brings.

    A tie goes to the split named first, so a lone cluster of its stratum is one the search sees.
    """
    return sum(
        count * (1 - (held.get(name, 0) + count / 2) / (share * total[name])) for name, count in brings.items()
    ) / sum(brings.values())


def _check(dealt: Sequence[Split], whole: Sequence[str]) -> None:
    present = Counter(zip(dealt, whole, strict=True))
    for name in sorted(set(whole)):
        for split in Split:
            if not present[split, name]:
                rows = sum(1 for other in whole if other == name)
                raise DataError(
                    f"the {split} split has no {name} row: {rows} rows in too few clusters of questions alike",
                    mend="generate more questions, or give that split a larger share",
                )
