"""Where a job's models and data lie, read off its request."""

from pathlib import Path

from datagen.pipeline import request_key
from datagen.pool import Member, Pool
from service.jobs.schemas import MergeJobRequest, Role
from service.settings import Settings


def folder_of(path: str) -> Path:
    return Path(path).expanduser().absolute()


def base_folder(request: MergeJobRequest) -> Path:
    return folder_of(request.base)


def model_folders(request: MergeJobRequest) -> dict[str, Path]:
    """The pool without its base, in the job's order."""
    return {name: folder_of(model.path) for name, model in request.models.items()}


def data_pool(request: MergeJobRequest) -> Pool:
    """The pool as the data generator sees it."""
    members = tuple(
        Member(name, folder_of(model.path), model.role is Role.DOMAIN, tuple(model.topics))
        for name, model in request.models.items()
    )
    return Pool(base_folder(request), members)


def dataset_folder(request: MergeJobRequest, settings: Settings) -> Path:
    """Named by content: jobs that ask for the same data share it."""
    return settings.home / "datasets" / request_key(data_pool(request), request.data)
