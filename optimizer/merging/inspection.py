"""What a pool is made of, as a value: sizes, layout, tokenizers, adapters, differences. Reads no weight. No torch."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optimizer.merging.checkpoint.adapter import Adapter
from optimizer.merging.checkpoint.compatibility import ModelFolder, differences, template_differences
from optimizer.merging.checkpoint.header import DTYPE_SIZES, TensorInfo
from optimizer.merging.checkpoint.models import ModelReference, commit_of
from optimizer.merging.layout import Layout


@dataclass(frozen=True)
class Size:
    """How much a part holds: `numbers` (parameters) in `bytes`."""

    numbers: int
    bytes: int


@dataclass(frozen=True)
class TokenizerFacts:
    """`kind` is "BPE", "Unigram", …, or the names of its files; `size` counts tokens, the `added` ones included."""

    kind: str
    size: int | None
    added: int


@dataclass(frozen=True)
class TemplateFacts:
    """A chat template: its first line, its number of lines, and its SHA-256."""

    first_line: str
    lines: int
    sha256: str


@dataclass(frozen=True)
class LoraFacts:
    """An adapter: where it lies, what it says it was trained on, its `kind` ("LoRA", "rsLoRA", "DoRA"), rank and α,
    how many modules it changes and how many tensors it replaces."""

    folder: str
    base: str | None
    kind: str
    rank: int
    alpha: float
    modules: int
    replaced: int


@dataclass(frozen=True)
class ModelFacts:
    """One model. `groups` are the parts of its layout in depth order; `constants` are tensors that are not merged.

    `dtypes` counts numbers by dtype; `commit` is that of a repository's snapshot.
    """

    model: str
    folder: str
    commit: str | None
    architecture: str
    model_type: str
    size: Size
    dtypes: Mapping[str, int]
    layers: int
    groups: Mapping[str, Size]
    constants: int
    tied: bool
    tokenizer: TokenizerFacts | None
    template: TemplateFacts | None
    lora: LoraFacts | None


@dataclass(frozen=True)
class Inspection:
    """A pool, the base first. `differences` has lines for every model that does not fit the first one; `templates`
    compares chat templates."""

    models: tuple[ModelFacts, ...]
    differences: Mapping[str, Sequence[str]]
    templates: Sequence[str]

    @property
    def fits(self) -> bool:
        """The models can be merged."""
        return not self.differences and not self.templates

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "fits": self.fits}


def inspect_pool(models: Sequence[str | Path | ModelReference]) -> Inspection:
    """Look at the headers and settings of some models; the first one is compared with each of the others.

    Texts are references, `path[@revision][+lora]`, unless there is a folder of that very name.

    Raises:
        RecipeError: a text that is no reference.
        CheckpointError: a model that cannot be found or read safely.
    """
    references = [
        ModelReference.of(Path(model) if isinstance(model, str) and os.path.isdir(model) else model) for model in models
    ]
    names = [str(model) for model in models]
    pool = [ModelFolder.read(name, reference) for name, reference in zip(names, references, strict=True)]
    found = [(model.name, differences(pool[0], model)) for model in pool[1:]]
    return Inspection(
        tuple(_facts(model) for model in pool),
        {name: lines for name, lines in found if lines},
        template_differences(pool),
    )


def _facts(model: ModelFolder) -> ModelFacts:
    layout = Layout.of(model.infos)
    groups = {group: _size([model.infos[name] for name in layout.members(group)]) for group in layout.groups}
    dtypes: dict[str, int] = {}
    for info in model.infos.values():
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + info.numel
    named = model.config.get("architectures")
    return ModelFacts(
        model=model.name,
        folder=str(model.folder),
        commit=commit_of(model.folder),
        architecture=str(named[0]) if isinstance(named, list) and named else "unknown",
        model_type=str(model.config.get("model_type", "unknown")),
        size=_size(list(model.infos.values())),
        dtypes=dict(sorted(dtypes.items(), key=lambda item: -item[1])),
        layers=layout.layers,
        groups=groups,
        constants=len(layout.constants),
        tied="embedding" in groups and "head" not in groups,
        tokenizer=_tokenizer(model.tokenizer),
        template=_template(model.template),
        lora=None if model.adapter is None else _lora(model.adapter),
    )


def _size(infos: Sequence[TensorInfo]) -> Size:
    return Size(sum(info.numel for info in infos), sum(info.numel * DTYPE_SIZES[info.dtype] for info in infos))


def _tokenizer(rules: Mapping[str, Any]) -> TokenizerFacts | None:
    if not rules:
        return None
    if "vocabulary" not in rules:
        return TokenizerFacts(", ".join(name.removeprefix("file ") for name in rules), None, 0)
    vocabulary, added = rules["vocabulary"], rules["added tokens"]
    return TokenizerFacts(str(rules["kind"]), len({*vocabulary, *added}), len(added))


def _template(template: str | None) -> TemplateFacts | None:
    if template is None:
        return None
    lines = template.strip().splitlines() or [""]
    return TemplateFacts(lines[0][:200], len(lines), hashlib.sha256(template.encode(errors="replace")).hexdigest())


def _lora(adapter: Adapter) -> LoraFacts:
    settings = adapter.settings
    kind = "DoRA" if settings.get("use_dora") else "rsLoRA" if settings.get("use_rslora") else "LoRA"
    rank, alpha = settings["r"], float(settings["lora_alpha"])
    return LoraFacts(str(adapter.folder), adapter.base, kind, rank, alpha, len(adapter.modules), len(adapter.wholes))
