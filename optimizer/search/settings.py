"""The `search:` and `select:` sections of a job. Values only; importing this is cheap."""

from typing import Annotated, Literal

from pydantic import Field

from datagen.settings import Section


class GradientSettings(Section):
    """Descent on all coefficients at once; its solutions seed the sampler. `steps: 0` leaves it out."""

    steps: Annotated[int, Field(ge=0, le=10_000)] = 40
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    batch: Annotated[int, Field(ge=1, le=4096)] = Field(default=16, description="samples of every axis a step")


class SearchSettings(Section):
    sampler: Literal["auto", "tpe", "cmaes", "nsgaii", "gp", "random", "qmc"] = "auto"
    trials: Annotated[int, Field(ge=1, le=100_000)] = Field(default=100, description="warm starts included")
    gradient: GradientSettings = GradientSettings()
    finalists: Annotated[int, Field(ge=1, le=64)] = Field(default=4, description="points that generate and are judged")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Constraint(Section):
    """A floor for one axis; with `of`, a share of what that model of the pool reaches."""

    at_least: Annotated[float, Field(ge=0, le=1)]
    of: str | None = None


class SelectSettings(Section):
    """The rule that picks one point of the front: the best on `maximize` among those that meet every constraint.

    An axis is "refusal", "compliance" or the name of a domain model; "domains" is the mean over the domains.
    """

    maximize: str = "domains"
    subject_to: dict[str, Constraint] = Field(
        default_factory=lambda: {"refusal": Constraint(at_least=0.95), "compliance": Constraint(at_least=0.95)}
    )
