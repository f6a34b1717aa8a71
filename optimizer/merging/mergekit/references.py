"""How recipes name models: as text, or written out as `{model: {path, revision}, lora: {path, revision}}`."""

from optimizer.errors import RecipeError
from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.mergekit.document import Cursor
from optimizer.merging.mergekit.settings import rewrapped


def read_reference(place: Cursor) -> ModelReference:
    """The model that is named. `override_architecture` is accepted: no architecture has code of its own here.

    Raises:
        RecipeError: neither of the two forms.
    """
    if not isinstance(place.value, dict):
        return _parsed(place)
    fields = place.fields(("model", "lora", "override_architecture"))
    if "model" not in fields:
        raise place.error("no model found, expected {model: {path: …, revision: …}, lora: {path: …}}")
    own = _path(fields["model"])
    if "lora" not in fields:
        return own
    return ModelReference(own.path, own.revision, _path(fields["lora"]))


def _path(place: Cursor) -> ModelReference:
    if not isinstance(place.value, dict):
        return _parsed(place)
    fields = place.fields(("path", "revision"))
    if "path" not in fields:
        raise place.error("no path found, expected {path: …, revision: …}")
    return ModelReference(fields["path"].word(), fields["revision"].word() if "revision" in fields else None)


def _parsed(place: Cursor) -> ModelReference:
    try:
        return ModelReference.parse(place.word())
    except RecipeError as error:
        raise rewrapped(place, error) from None
