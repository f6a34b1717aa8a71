"""The `data:` section of a job: what to generate, how much, how to split it. Values only; importing this is cheap."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of every section of a job file: a field that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SafetySettings(Section):
    """Harmful questions with the pool's refusals, and as many benign contrasts with helpful answers."""

    count: Annotated[int, Field(ge=8, le=100_000)] = 1000
    questions_from: str | None = Field(
        default=None,
        description="who writes the questions: `base`, a name of the pool, or a checkpoint folder; the base by default",
    )
    taxonomy: str = Field(default="standard", description="a shipped taxonomy by name, or a YAML file")


class DomainSettings(Section):
    """Questions every domain expert asks and answers about its own topics; `count` is the total over the experts."""

    count: Annotated[int, Field(ge=8, le=100_000)] = 1000
    examples: Annotated[int, Field(ge=0, le=3)] = Field(default=3, description="in-context examples a request")


class SplitSettings(Section):
    """Shares of the splits. The search sees `search`, finalists `selection`; figures come from `report` alone."""

    search: Annotated[float, Field(gt=0, lt=1)] = 0.5
    selection: Annotated[float, Field(gt=0, lt=1)] = 0.2
    report: Annotated[float, Field(gt=0, lt=1)] = 0.3

    @model_validator(mode="after")
    def _whole(self) -> "SplitSettings":
        total = self.search + self.selection + self.report
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the splits add up to {total:g}, expected 1")
        return self


class DataSettings(Section):
    safety: SafetySettings = SafetySettings()
    domain: DomainSettings = DomainSettings()
    splits: SplitSettings = SplitSettings()
    max_tokens: Annotated[int, Field(ge=8, le=4096)] = Field(default=512, description="longest answer, in tokens")
    temperature: Annotated[float, Field(gt=0, le=2)] = Field(default=0.8, description="of the question writers")
    attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        default=6, description="a writer is asked for at most this many times the questions wanted"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
