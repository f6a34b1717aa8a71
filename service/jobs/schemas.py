"""A merge job as people write it and as they read it back. Job file (YAML) and HTTP body are the same object."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from datagen.settings import DataSettings, Section
from optimizer.merging.recipe import ExportSettings, MergeSettings
from optimizer.search.settings import SearchSettings, SelectSettings

T = TypeVar("T")
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Role(StrEnum):
    """What a model of the pool is for: its DOMAIN, or being ALIGNED."""

    DOMAIN = "domain"
    ALIGNED = "aligned"


class PoolModel(Section):
    path: str = Field(description="checkpoint folder on the worker's machine")
    role: Role
    topics: list[str] = Field(default_factory=list, description="what a domain model asks itself about")


class MergeJobRequest(Section):
    """A merge job: a base, its experts, what each is for. Everything else has a default."""

    name: Name
    base: str = Field(description="checkpoint folder of the model that all others were trained from")
    models: dict[Name, PoolModel] = Field(min_length=1, max_length=16)
    data: DataSettings = DataSettings()
    merge: MergeSettings = MergeSettings()
    search: SearchSettings = SearchSettings()
    select: SelectSettings = SelectSettings()
    export: ExportSettings = ExportSettings()


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class Stage(StrEnum):
    """In the order in which a job goes through them."""

    DATA = "data"
    PARENTS = "parents"
    SEARCH = "search"
    SELECT = "select"
    REPORT = "report"
    EXPORT = "export"


class Progress(BaseModel):
    """How far the stage is, in its own unit; `eta_seconds` is for the stage."""

    stage: Stage
    done: int
    total: int
    unit: str
    note: str = ""
    eta_seconds: float | None = None


class MergeJob(BaseModel):
    """A job as the API returns it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    object: Literal["merge_job"] = "merge_job"
    name: str
    status: Status
    stage: Stage | None
    progress: Progress | None
    request: MergeJobRequest
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    seconds: dict[Stage, float] = Field(default_factory=dict, description="time spent in each stage")
    winner: int | None = Field(default=None, description="number of the chosen trial")
    artifact: str | None = Field(default=None, description="NAMESPACE/NAME@SHA, once exported")
    error: str | None = None


class TrialView(BaseModel):
    """One candidate: where it came from, its coefficients and what it scored."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    origin: str
    state: Literal["complete", "invalid", "failed"]
    scores: dict[str, float] = Field(description="axis → score in 0 … 1 on the search split, higher is better")
    judged: dict[str, float] | None = Field(default=None, description="the same axes, generated and judged (selection)")
    on_front: bool = False
    seconds: float
    seed: int
    worker: str
    note: str = Field(default="", description="why the trial is invalid or failed")
    created_at: datetime
    coefficients: dict[str, dict[str, float]] | None = Field(default=None, description="model → group → λ")


class EventView(BaseModel):
    """One line of a job's history."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    created_at: datetime
    type: Literal["status", "stage", "progress", "message", "warning", "error", "trial"]
    message: str
    data: dict[str, object] = Field(default_factory=dict)


class Page(BaseModel, Generic[T]):
    """One page of a list; ask again with `after=last_id` while `has_more`."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool
    last_id: str | None
