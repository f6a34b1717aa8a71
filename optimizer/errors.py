"""Errors of merging and search, under the one root of `datagen.errors`."""

from datagen.errors import TemperError


class CheckpointError(TemperError):
    """A model folder that cannot be read safely or is not what it says."""


class PoolError(CheckpointError):
    """Models that cannot be merged together; the message lists what differs."""


class RecipeError(TemperError):
    """What to merge and how, said in a way that cannot be carried out."""


class SearchError(TemperError):
    """The search for coefficients cannot be set up or continued."""
