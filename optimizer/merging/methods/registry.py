"""All merge methods by name. A new one is a row in the module of its family."""

import difflib
from collections.abc import Mapping

from optimizer.errors import RecipeError
from optimizer.merging.methods import (
    affine,
    arcee_fusion,
    model_stock,
    nearswap,
    passthrough,
    ram,
    sce,
    sparse,
    spherical,
)
from optimizer.merging.methods.base import Method

FAMILIES = (affine, sparse, spherical, model_stock, nearswap, arcee_fusion, sce, ram, passthrough)

METHODS: Mapping[str, Method] = {row.name: row for family in FAMILIES for row in family.ROWS}


def find_method(name: str) -> Method:
    """The row of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        raise RecipeError(
            f"merge method {name!r} found, expected one of {', '.join(METHODS)}",
            mend=f"did you mean {near[0]}?" if near else None,
        )
    return METHODS[name]
