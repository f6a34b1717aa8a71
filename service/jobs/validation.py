"""What a job's schema cannot say by itself, checked before anything is stored or any weight is read; torch-free."""

from collections.abc import Iterator
from pathlib import Path

from datagen.errors import TemperError
from optimizer.merging.checkpoint.compatibility import check_pool
from service.jobs.schemas import MergeJobRequest, Role
from service.kit.errors import InvalidError
from service.kit.fields import Fault, nearest, pointer

#: axes that every job has; the names of the domain models are the others
AXES = ("refusal", "compliance")


def check(request: MergeJobRequest) -> None:
    """Refuse a job that cannot succeed.

    Raises:
        Invalid: with every fault found; the models are only opened when nothing else is wrong.
    """
    faults = [*_roles(request), *_names(request), *_folders(request)]
    if not faults:
        faults = list(_pool(request))
    if faults:
        first = faults[0].detail.splitlines()[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InvalidError(f"job {request.name}: {first}{more}", mend=faults[0].mend, faults=faults)


def _roles(request: MergeJobRequest) -> Iterator[Fault]:
    roles = [model.role for model in request.models.values()]
    if Role.ALIGNED not in roles:
        yield Fault(
            "/models",
            "no model of the pool has the role `aligned`; there is nothing to take refusals from",
            "add a model that refuses well, with `role: aligned`",
        )
    if Role.DOMAIN not in roles:
        yield Fault(
            "/models", "no model of the pool has the role `domain`", "add an expert, with `role: domain` and its topics"
        )
    for name, model in request.models.items():
        if model.role is Role.DOMAIN and not [topic for topic in model.topics if topic.strip()]:
            yield Fault(
                pointer("models", name, "topics"),
                f"the domain model `{name}` has no topics to ask itself about",
                "give at least one, such as `topics: [biology]`",
            )
        if name in (*AXES, "domains", "base", "uniform", "best"):
            yield Fault(
                pointer("models", name),
                f"`{name}` has a meaning of its own and cannot name a model",
                "choose another name",
            )


def _names(request: MergeJobRequest) -> Iterator[Fault]:
    """Names that one section uses must stand in another."""
    domains = [name for name, model in request.models.items() if model.role is Role.DOMAIN]
    axes = (*AXES, "domains", *domains)
    if request.select.maximize not in axes:
        yield Fault(
            "/select/maximize",
            f"`{request.select.maximize}` is not an axis of this job",
            nearest(request.select.maximize, axes),
        )
    for axis, constraint in request.select.subject_to.items():
        if axis not in axes:
            yield Fault(
                pointer("select", "subject_to", axis),
                f"`{axis}` is not an axis of this job",
                nearest(axis, axes),
            )
        if constraint.of is not None and constraint.of not in request.models:
            yield Fault(
                pointer("select", "subject_to", axis, "of"),
                f"`{constraint.of}` is not a model of the pool",
                nearest(constraint.of, request.models),
            )


def _folders(request: MergeJobRequest) -> Iterator[Fault]:
    """Every path is an absolute path of a folder with a config.json."""
    yield from _folder(request.base, "/base", "the base")
    for name, model in request.models.items():
        yield from _folder(model.path, pointer("models", name, "path"), f"the model `{name}`")
    writer = request.data.safety.questions_from
    if writer is not None and writer != "base" and writer not in request.models:
        where = "/data/safety/questions_from"
        if "/" in writer:
            yield from _folder(writer, where, "the question writer")
        else:
            yield Fault(
                where,
                f"`{writer}` is neither `base`, a model of the pool nor a checkpoint folder",
                nearest(writer, ("base", *request.models)),
            )


def _folder(path: str, where: str, what: str) -> Iterator[Fault]:
    folder = Path(path)
    if "\0" in path or not folder.is_absolute():
        yield Fault(
            where,
            f"{what} has the path {path!r}, expected the absolute path of a checkpoint folder",
            "the commands `temper submit` and `temper run` take paths relative to the job file",
        )
    elif not folder.is_dir():
        yield Fault(where, f"{what}: there is no folder {path}", "check the path on the machine of the service")
    elif not (folder / "config.json").is_file():
        yield Fault(where, f"{what}: {path} has no config.json", "give a checkpoint folder in Hugging Face layout")


def _pool(request: MergeJobRequest) -> Iterator[Fault]:
    """The models can be merged, from configs, headers and tokenizers alone."""
    base, models = Path(request.base), {name: Path(model.path) for name, model in request.models.items()}
    writer = request.data.safety.questions_from
    if writer is not None and "/" in writer:
        yield from _incompatible(base, {"the question writer": Path(writer)}, "/data/safety/questions_from")
    whole = list(_incompatible(base, models, "/models"))
    if not whole:
        return
    alone = [
        fault
        for name, path in models.items()
        for fault in _incompatible(base, {name: path}, pointer("models", name, "path"))
    ]
    broken_base = list(_incompatible(base, {}, "/base"))
    yield from broken_base or alone or whole


def _incompatible(base: Path, models: dict[str, Path], where: str) -> Iterator[Fault]:
    try:
        check_pool(base, models)
    except TemperError as error:
        yield Fault(where, error.message, error.mend)
