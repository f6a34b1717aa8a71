"""A job's checkpoint: its files, and the commands that fetch and load it."""

import shlex
from dataclasses import dataclass
from urllib.parse import quote

from service.artifacts.store import Store, parse
from service.jobs.schemas import MergeJob
from service.kit.errors import NotFoundError


@dataclass(frozen=True)
class File:
    path: str
    size: int
    sha256: str
    url: str


@dataclass(frozen=True)
class Way:
    """One way to get the checkpoint: a command or a few lines of Python to copy."""

    title: str
    text: str


@dataclass(frozen=True)
class Downloads:
    reference: str
    size: int
    files: tuple[File, ...]
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class Address:
    """Where this service is reached, without a slash at its end, and whether it asks for a key there."""

    url: str
    locked: bool = False

    def curl(self, options: str, path: str) -> str:
        key = '-H "Authorization: Bearer $TEMPER_API_KEY" ' if self.locked else ""
        return f"curl {options} {key}{shlex.quote(self.url + path)}"


def downloads(job: MergeJob, store: Store, here: Address) -> Downloads | None:
    """What there is to fetch; None before the export, or when the artifact is no longer in the store."""
    if job.artifact is None:
        return None
    try:
        artifact = store.get(*parse(job.artifact))
    except NotFoundError:
        return None
    root = f"/v1/artifacts/{artifact.namespace}/{artifact.name}@{artifact.sha}/files/"
    files = tuple(File(file.path, file.size, file.sha256, root + quote(file.path)) for file in artifact.files)
    return Downloads(artifact.reference, artifact.size, files, _ways(artifact.reference, artifact.name, files, here))


def _ways(reference: str, name: str, files: tuple[File, ...], here: Address) -> tuple[Way, ...]:
    folder = f"./{name}"
    largest = max(files, key=lambda file: file.size)
    pull = f"temper pull {reference} --url {shlex.quote(here.url)}"
    load = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{folder}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")'
    )
    return (
        Way("Fetch and verify; run it again to go on after a break", pull),
        Way("Load", load),
        Way("One file with curl, resumable", here.curl("-fL -C - -O", largest.url)),
    )
