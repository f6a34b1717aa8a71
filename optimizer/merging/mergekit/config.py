"""config.json of a merge whose layers come from several places. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from optimizer.merging.checkpoint.header import language_config

#: what architectures call their number of layers
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def merged_config(
    donor: Mapping[str, Any], layers: Sequence[tuple[Mapping[str, Any], int]], own: int, *, untied: bool
) -> dict[str, Any]:
    """The donor's config with what the merge changes.

    Args:
        layers: for every layer of the result the config of the model it comes from and its number there.
        own: the donor's number of layers.
        untied: the result has an output projection of its own.
    """
    config = {key: value for key, value in donor.items() if key != "_name_or_path"}
    inner = dict(config["text_config"]) if isinstance(config.get("text_config"), dict) else {}
    changes: dict[str, Any] = {}
    if [index for _, index in layers] != list(range(own)):
        changes |= {key: len(layers) for key in LAYER_COUNTS if language_config(donor).get(key) == own}
        changes |= _by_layer(donor, layers, own)
    if untied and language_config(donor).get("tie_word_embeddings", True) is not False:
        changes["tie_word_embeddings"] = False
    for key, value in changes.items():
        if key in inner:
            inner[key] = value
        if key in config or key not in inner:
            config[key] = value
    return {**config, "text_config": inner} if inner else config


def _by_layer(donor: Mapping[str, Any], layers: Sequence[tuple[Mapping[str, Any], int]], own: int) -> dict[str, Any]:
    """Settings that say something of every layer (`layer_types`), or list some layers by number (`mlp_only_layers`)."""
    changed: dict[str, Any] = {}
    for key, value in language_config(donor).items():
        if "layer" not in key or not isinstance(value, list):
            continue
        if len(value) == own:
            changed[key] = [_entry(config, key, index, value) for config, index in layers]
        elif value and all(type(item) is int and 0 <= item < own for item in value):
            changed[key] = [
                i for i, (config, index) in enumerate(layers) if index in language_config(config).get(key, value)
            ]
    return changed


def _entry(config: Mapping[str, Any], key: str, index: int, fallback: Sequence[Any]) -> Any:
    """What a model says of one of its layers; the donor's word where it says nothing."""
    said = language_config(config).get(key)
    told = said if isinstance(said, list) and index < len(said) else fallback
    return told[min(index, len(told) - 1)]
