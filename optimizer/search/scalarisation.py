"""Weightings of the axes: descents under different ones end at different points of the front."""

from collections.abc import Sequence

#: how much more the favoured axes weigh
FAVOUR = 3.0


def scalarisations(domains: Sequence[str]) -> dict[str, dict[str, float]]:
    """name → axis → weight: all axes alike first, then safety favoured, then the domains."""
    safety = ("refusal", "compliance")
    return {
        "balanced": dict.fromkeys((*safety, *domains), 1.0),
        "safety": {**dict.fromkeys(safety, FAVOUR), **dict.fromkeys(domains, 1.0)},
        "domains": {**dict.fromkeys(safety, 1.0), **dict.fromkeys(domains, FAVOUR)},
    }
