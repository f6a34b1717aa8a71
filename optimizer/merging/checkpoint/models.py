"""How models are called in recipes and on the command line, and where they lie. Imports no torch."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from optimizer.errors import CheckpointError, RecipeError
from optimizer.merging.checkpoint.files import file_of, model_folder, read_json
from optimizer.merging.checkpoint.header import ADAPTER_CONFIG, INDEX, MAX_INDEX

if TYPE_CHECKING:
    from optimizer.merging.checkpoint.source import Reader

#: what is fetched of a repository: no pickle, no code, nothing of its subfolders
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
UNWANTED = ("*/*", "consolidated*", "training_args*", "optimizer*", "trainer_state.json")

_PART = r"([^@+]+)(?:@([^@+]+))?"
_WHOLE = re.compile(rf"{_PART}(?:\+{_PART})?")
_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelReference:
    """A model: a folder or a repository of the Hugging Face Hub, at a revision, perhaps with a LoRA adapter on top.

    As text: `path[@revision][+lora[@revision]]`. A path that holds `@` or `+` cannot be written so.
    """

    path: str
    revision: str | None = None
    lora: "ModelReference | None" = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference in a text.

        Raises:
            RecipeError: not of that form.
        """
        found = _WHOLE.fullmatch(text.strip())
        if found is None:
            raise RecipeError(
                f"model {text!r} found, expected path[@revision][+lora[@revision]]",
                mend="rename or link a folder whose name holds @ or +",
            )
        path, revision, lora, lora_revision = found.groups()
        return cls(path, revision, None if lora is None else cls(lora, lora_revision))

    @classmethod
    def of(cls, model: "ModelReference | Path | str") -> "ModelReference":
        """The reference, whichever way it was given; a `Path` is a folder whatever its name holds.

        Raises:
            RecipeError: a text that is no reference.
        """
        if isinstance(model, ModelReference):
            return model
        return cls(str(model.absolute())) if isinstance(model, Path) else cls.parse(model)

    def __str__(self) -> str:
        own = self.path if self.revision is None else f"{self.path}@{self.revision}"
        return own if self.lora is None else f"{own}+{self.lora}"


def open_model(model: ModelReference | Path | str) -> "Reader":
    """Open a model, its adapter applied where it has one. Reads configs and headers; weights when they are asked for.

    An adapter without a base before it stands on the base that it names, if that lies on this machine.

    Raises:
        RecipeError: a text that is no reference.
        CheckpointError: the model cannot be found, fetched or read safely, or the adapter does not fit.
    """
    from optimizer.merging.checkpoint.lora import open_folders  # torch is for those who will read weights

    return open_folders(*resolve_parts(ModelReference.of(model)))


def resolve(model: ModelReference | Path | str) -> Path:
    """The folder of a model, less its adapter; fetched from the Hub where that is allowed and needed.

    Names that are a folder here are that folder. Other names are repositories, looked up in the Hugging Face cache
    (HF_HUB_CACHE, HF_HOME) and fetched by `huggingface_hub`, unless HF_HUB_OFFLINE is set.

    Raises:
        RecipeError: a text that is no reference.
        CheckpointError: neither a folder nor a repository that can be had.
    """
    reference = ModelReference.of(model)
    return _locate(reference.path, reference.revision)


def resolve_parts(reference: ModelReference) -> tuple[Path, Path | None]:
    """The folders of a model: (base, adapter or None).

    Raises:
        CheckpointError: see `resolve`; also an adapter whose base is not on this machine.
    """
    folder = resolve(reference)
    if reference.lora is not None:
        return folder, resolve(reference.lora)
    if not is_adapter(folder):
        return folder, None
    settings = read_json(folder / ADAPTER_CONFIG, MAX_INDEX)
    named, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    mend = f"name its base: BASE+{reference}"
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"{folder}: a LoRA adapter that names no base", mend=mend)
    try:
        return _locate(named, revision if isinstance(revision, str) else None, fetch=False), folder
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder}: a LoRA adapter of {named!r}, which is not on this machine ({error.message})", mend=mend
        ) from None


def pinned(model: ModelReference | Path | str) -> ModelReference:
    """The same model with every repository's revision as the commit that it stands for now: what to record.

    Raises:
        RecipeError, CheckpointError: see `resolve`.
    """
    reference = ModelReference.of(model)
    commit = commit_of(resolve(reference)) if is_repository(reference.path) else None
    lora = None if reference.lora is None else pinned(reference.lora)
    return replace(reference, revision=commit or reference.revision, lora=lora)


def commit_of(folder: Path) -> str | None:
    """The commit of a snapshot in the Hugging Face cache, None for other folders."""
    folder = folder.resolve()
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def is_adapter(folder: Path) -> bool:
    """The folder holds a LoRA adapter and no model of its own."""
    return file_of(folder, ADAPTER_CONFIG) is not None and file_of(folder, "config.json") is None


def is_repository(path: str) -> bool:
    """`path` is no folder here, and is named like a repository of the Hub."""
    return not _means_folder(path) and _ID.fullmatch(path) is not None and ".." not in path


def _means_folder(path: str) -> bool:
    """Written as a path, or plainly the name of a folder here."""
    if path.startswith(("/", "./", "../", "~")) or path in (".", ".."):
        return True
    return ".." not in path and os.path.isdir(path)


def _locate(path: str, revision: str | None, *, fetch: bool = True) -> Path:
    """The folder that `path` means; `fetch`: the Hub may be asked."""
    if _means_folder(path):
        if revision is not None:
            raise CheckpointError(
                f"model folder {path}: revision {revision!r} found, a folder has none", mend="leave the revision away"
            )
        return model_folder(Path(os.path.expanduser(path)))
    if not is_repository(path):
        raise CheckpointError(
            f"model {path!r}: neither a folder nor the name of a repository (organisation/name)",
            mend="give a folder's path or a repository's name",
        )
    if revision is not None and (_REVISION.fullmatch(revision) is None or ".." in revision):
        raise CheckpointError(f"model {path}: revision {revision!r} found, expected a branch, a tag or a commit")
    cached = _cached(path, revision or "main")
    settled = cached is not None and revision is not None and _COMMIT.fullmatch(revision)
    if fetch and not settled and not _offline():
        return _fetch(path, revision)
    if cached is None:
        at = f"{path}@{revision}" if revision else path
        raise CheckpointError(
            f"model {at}: no such folder, and not in the Hugging Face cache ({_cache()})",
            mend="fetch it while online, unset HF_HUB_OFFLINE, or give a folder's path",
        )
    return cached


def _cached(name: str, revision: str) -> Path | None:
    """The complete snapshot of a repository in the cache."""
    home = _cache() / f"models--{name.replace('/', '--')}"
    commit = revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = (home / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    folder = home / "snapshots" / commit
    return folder if _COMMIT.fullmatch(commit) and folder.is_dir() and _complete(folder) else None


def _complete(folder: Path) -> bool:
    """A snapshot holds only what somebody asked for so far; this one has all that makes a model."""
    if not any((folder / name).exists() for name in ("config.json", ADAPTER_CONFIG)):
        return False
    if (index := file_of(folder, INDEX)) is None:
        return any(folder.glob("*.safetensors"))
    shards = read_json(index, MAX_INDEX).get("weight_map")
    return isinstance(shards, dict) and all(os.path.exists(folder / str(name)) for name in shards.values())


def _fetch(name: str, revision: str | None) -> Path:
    """The repository's snapshot, fetched where the cache lacks it."""
    try:
        from huggingface_hub import snapshot_download  # heavy, and only workers have it
    except ImportError:
        raise CheckpointError(
            f"model {name}: no such folder, and huggingface_hub is not installed", mend="pip install huggingface_hub"
        ) from None
    try:
        folder = snapshot_download(
            name, revision=revision, cache_dir=_cache(), allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
    except Exception as error:  # noqa: BLE001  its errors, httpx's and the system's share no root
        first = next(iter(str(error).strip().splitlines()), "")
        raise CheckpointError(
            f"model {name}: no such folder, and the Hub did not give it: {type(error).__name__} {first}".strip(),
            mend="check the name, the network and HF_TOKEN, or give a folder's path",
        ) from None
    return Path(folder)


def _cache() -> Path:
    """Where Hugging Face's libraries keep repositories."""
    if own := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(own).expanduser()
    root = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(root).expanduser() / "hub"


def _offline() -> bool:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)
