"""Who is the base and who is merged, in every slice of a recipe; what a recipe lacks, before any model is opened."""

from collections.abc import Sequence

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.mergekit.document import Cursor
from optimizer.merging.mergekit.schema import InputModel, Module, Settings, Source, with_base
from optimizer.merging.mergekit.settings import located, rewrapped
from optimizer.merging.methods.base import Base, Method
from optimizer.merging.plan import check_count


def roles(
    method: Method, base: ModelReference | None, inputs: Sequence[InputModel | Source]
) -> tuple[int | None, tuple[int, ...]]:
    """(position of the base, positions of the models that are combined). Methods that know no base combine all."""
    if method.base is Base.UNUSED or base is None:
        return None, tuple(range(len(inputs)))
    root = next((i for i, entry in enumerate(inputs) if entry.model == base), None)
    return root, tuple(i for i in range(len(inputs)) if i != root)


def check_part(method: Method, base: ModelReference | None, part: Module, above: Settings, place: Cursor) -> None:
    """Look for what cannot work whatever the models are; `above` are the settings of the whole recipe.

    Raises:
        RecipeError: no base, too few or many models, a model twice, or a parameter that is given nowhere.
    """
    if part.models:
        inputs = with_base(part.models, base)
        _check(method, base, inputs, [part.parameters, above], located(place, part.models[0].line, "models"))
    for i, piece in enumerate(part.slices):
        settings = [piece.parameters, part.parameters, above]
        _check(method, piece.base_model or base, piece.sources, settings, located(place, piece.line, f"slices[{i}]"))


def _check(
    method: Method,
    base: ModelReference | None,
    inputs: Sequence[InputModel | Source],
    settings: Sequence[Settings],
    place: Cursor,
) -> None:
    for i, entry in enumerate(inputs):
        # the same model with other layers is another input
        again = [e for e in inputs[:i] if _same_input(e, entry)]
        if again:
            raise located(place, entry.line, place.path).error(
                f"model {entry.model} twice, first in line {again[0].line}", "leave one of them out"
            )
    root, merged = roles(method, base, inputs)
    if method.base is Base.REQUIRED and base is None:
        raise place.error(f"{method.name} needs a base, no base_model found", "add `base_model:`")
    if method.base is not Base.UNUSED and base is not None and root is None:
        raise place.error(
            f"base_model {base} is not among the sources, {method.name} needs its layers",
            f"add it: `- {{model: {base}, layer_range: […]}}`",
        )
    try:
        check_count(method, len(merged))
    except RecipeError as error:
        raise rewrapped(place, error) from None
    for row in method.parameters:
        if row.default is not None or any(row.name in level for level in settings):
            continue
        for i in merged if row.per_model else ():
            if row.name not in inputs[i].parameters:
                own = f"`{row.name}` to the parameters of {inputs[i].model}"
                mend = f"list {base} with its {row.name}, or leave base_model out" if inputs[i].model == base else None
                raise located(place, inputs[i].line, place.path).error(
                    f"{method.name} needs {row.name}, none found for {inputs[i].model}", mend or f"add {own}"
                )
        if not row.per_model:
            raise place.error(
                f"{method.name} needs {row.name}, none found", f"add `{row.name}:` under `parameters:` of the recipe"
            )


def _same_input(one: InputModel | Source, other: InputModel | Source) -> bool:
    return one.model == other.model and getattr(one, "layer_range", None) == getattr(other, "layer_range", None)
