"""What a LoRA adapter says it does to a model, from its config and header: no weight is read. Imports no torch.

The format is PEFT's: adapter_config.json, and adapter_model.safetensors with tensors called
`base_model.model.<module>.lora_A.weight`. What the adapter was trained with and Temper cannot apply is refused by name.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from optimizer.errors import CheckpointError
from optimizer.merging.checkpoint.files import file_of, model_folder, read_json
from optimizer.merging.checkpoint.header import (
    ADAPTER,
    ADAPTER_CONFIG,
    FLOATS,
    MAX_CONFIG,
    TensorInfo,
    read_header,
    refuse_code,
)
from optimizer.merging.layout import Layout

MERGE = "merge it with peft (merge_and_unload, save_pretrained) and give the full checkpoint"
#: settings that are applied, and those that only say how the adapter was trained
APPLIED = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "peft_type")
HARMLESS = (
    "alpha", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
)  # fmt: skip
#: other ways to begin subtract something from the base's weights, which are no longer those of the base
BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")

_LOW_RANK = re.compile(
    r"(.+?)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?(?:\.(weight|bias))?"
)
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?|original_module)(?=\.)")
#: path components that come and go between versions of transformers and the head that was trained
_FRAMES = frozenset({"model", "language_model", "base_model", "transformer", "text_model"})


@dataclass(frozen=True)
class Patch:
    """What an adapter does to one tensor W of its base.

    W becomes `whole` where there is one; then scale·B·A is added, with A = `down` [r, in], B = `up` [out, r]
    (transposed where W is [in, out]: embeddings, and layers that transformers calls Conv1D); of a bias, scale·`shift`.
    With a `magnitude` m [out] (DoRA, arXiv 2402.09353) every row is then scaled to the length m.
    """

    whole: TensorInfo | None = None
    down: TensorInfo | None = None
    up: TensorInfo | None = None
    scale: float = 0.0
    transposed: bool = False
    magnitude: TensorInfo | None = None
    shift: TensorInfo | None = None


class Applied(NamedTuple):
    """A base with an adapter on top, as its headers would say it."""

    config: dict[str, Any]
    infos: dict[str, TensorInfo]
    patches: dict[str, Patch]


@dataclass(frozen=True)
class Adapter:
    """An adapter folder: its settings and the header of its tensors."""

    folder: Path
    settings: Mapping[str, Any]
    infos: Mapping[str, TensorInfo]

    @classmethod
    def read(cls, folder: Path) -> "Adapter":
        """Read config and header.

        Raises:
            CheckpointError: damaged or unsafe files, another kind of adapter, or a setting that Temper cannot apply.
        """
        folder = model_folder(folder)
        if (file := file_of(folder, ADAPTER_CONFIG)) is None:
            raise CheckpointError(f"{folder}: no {ADAPTER_CONFIG}", mend="give a LoRA adapter as peft saves it")
        settings = read_json(file, MAX_CONFIG)
        refuse_code(settings, folder / ADAPTER_CONFIG)
        _check_settings(settings, folder / ADAPTER_CONFIG)
        if (weights := file_of(folder, ADAPTER)) is None:
            found = sorted(path.name for path in folder.glob("adapter_model*"))
            raise CheckpointError(
                f"{folder}: {', '.join(found[:3]) or 'no weights'} found, expected {ADAPTER}",
                mend="save the adapter as safetensors; pickles can run code",
            )
        infos = read_header(weights, shown=folder / ADAPTER)
        if not infos:
            raise CheckpointError(f"{folder}: no tensors in {ADAPTER}", mend="save the adapter again")
        for name, info in infos.items():
            if info.dtype not in FLOATS:
                raise CheckpointError(
                    f"{folder}/{ADAPTER}: tensor {name} is in {info.dtype}, expected one of {', '.join(sorted(FLOATS))}"
                )
        return cls(folder, settings, infos)

    @property
    def base(self) -> str | None:
        """The model that it was trained on, by its own account."""
        named = self.settings.get("base_model_name_or_path")
        return named if isinstance(named, str) and named else None

    @cached_property
    def modules(self) -> dict[str, dict[str, TensorInfo]]:
        """The low-rank parts by module: {"model.layers.0.self_attn.q_proj": {"lora_A": …, "lora_B": …}}."""
        found: dict[str, dict[str, TensorInfo]] = {}
        for name, info in self.infos.items():
            if (parts := _LOW_RANK.fullmatch(_unwrapped(name))) is not None:
                module, kind, end = parts.groups()
                found.setdefault(module, {})[f"{kind}.bias" if end == "bias" else kind] = info
        return found

    @cached_property
    def wholes(self) -> dict[str, TensorInfo]:
        """The tensors that take the place of the base's, by their names there."""
        names = {name: _unwrapped(name) for name in self.infos}
        return {own: self.infos[name] for name, own in names.items() if _LOW_RANK.fullmatch(own) is None}

    def tokenizer_folder(self, base: Path) -> Path:
        """Where the tokenizer of base and adapter lies: here, if the adapter brings one."""
        return self.folder if file_of(self.folder, "tokenizer.json") else base

    def scale(self, module: str, rank: int) -> float:
        """The factor of B·A: α/r, or α/√r (rsLoRA, arXiv 2312.03732)."""
        alpha = _patterned(self.settings, "alpha_pattern", module, self.settings["lora_alpha"])
        return float(alpha) / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def apply(self, infos: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> Applied:
        """What the adapter makes of a base with these headers and this config.

        Raises:
            CheckpointError: a part that belongs to no tensor of the base, or has another shape.
        """
        names = _Names(self, infos)
        patches: dict[str, Patch] = {}
        for name, info in self.wholes.items():
            if not names.writes_out(name):
                patches[names.find(name)] = Patch(whole=info)
        sideways = self._stored_sideways(names)
        for module, parts in self.modules.items():
            own = names.find(f"{module}.weight")
            current = patches.get(own, Patch())
            patches[own] = self._low_rank(own, module, parts, current, infos[own], sideways)
            if (shift := parts.get("lora_B.bias")) is not None:
                bias = names.find(f"{module}.bias")
                scale = self.scale(module, parts["lora_A"].shape[0])
                patches[bias] = replace(patches.get(bias, Patch()), shift=shift, scale=scale)
        return _resized(self, infos, config, patches)

    def fault(self, message: str, mend: str = MERGE) -> CheckpointError:
        """An error about this adapter."""
        return CheckpointError(f"{self.folder}/{ADAPTER}: {message}", mend=mend)

    def _stored_sideways(self, names: "_Names") -> bool:
        """The base stores its layers as [in, out]: seen from one whose sides differ, else told by the settings."""
        for module, parts in self.modules.items():
            if {"lora_A", "lora_B"} <= parts.keys():
                out, into = parts["lora_B"].shape[:1], parts["lora_A"].shape[1:]
                shape = names.infos[names.find(f"{module}.weight")].shape
                if out != into and shape in (out + into, into + out):
                    return shape == into + out
        return bool(self.settings.get("fan_in_fan_out"))

    def _low_rank(
        self, own: str, module: str, parts: Mapping[str, TensorInfo], patch: Patch, base: TensorInfo, sideways: bool
    ) -> Patch:
        """The patch with the low-rank parts of `module` added; `own`: the base's tensor."""
        kind = "lora_embedding" if "lora_embedding_A" in parts or "lora_embedding_B" in parts else "lora"
        down, up, magnitude = parts.get(f"{kind}_A"), parts.get(f"{kind}_B"), parts.get("lora_magnitude_vector")
        known = {f"{kind}_A", f"{kind}_B", "lora_magnitude_vector", *(("lora_B.bias",) if kind == "lora" else ())}
        if down is None or up is None or parts.keys() - known:
            raise self.fault(f"module {module} has {', '.join(sorted(parts))}, expected {kind}_A and {kind}_B")
        shape = (patch.whole or base).shape
        transposed = kind == "lora_embedding" or (sideways and len(shape) == 2)
        rank = _patterned(self.settings, "rank_pattern", module, self.settings["r"])
        if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != rank or up.shape[1] != rank:
            raise self.fault(
                f"module {module}: A {list(down.shape)} and B {list(up.shape)}, expected [{rank}, in] and [out, {rank}]"
            )
        product = (up.shape[0], down.shape[1])
        if (product[::-1] if transposed else product) != shape or base.dtype not in FLOATS:
            raise self.fault(
                f"module {module}: A {list(down.shape)} and B {list(up.shape)} do not fit tensor {own} of shape "
                f"{list(shape)} in {base.dtype}",
                mend="name the base that the adapter was trained on",
            )
        if bool(self.settings.get("use_dora")) != (magnitude is not None):
            raise self.fault(f"module {module}: use_dora and lora_magnitude_vector do not go together")
        if magnitude is not None and (transposed or magnitude.shape != product[:1]):
            raise self.fault(
                f"module {module}: DoRA of magnitude {list(magnitude.shape)} found, expected [{product[0]}] beside a "
                "tensor stored as [out, in]"
            )
        return replace(
            patch, down=down, up=up, scale=self.scale(module, rank), transposed=transposed, magnitude=magnitude
        )


class _Names:
    """Finds a base's tensors by the names that an adapter knows them by."""

    def __init__(self, adapter: Adapter, infos: Mapping[str, TensorInfo]) -> None:
        self.infos = infos
        self._adapter = adapter
        self._framed: dict[str, list[str]] = {}
        for name in infos:
            self._framed.setdefault(_unframed(name), []).append(name)

    def find(self, name: str) -> str:
        """The tensor's own name."""
        if name in self.infos:
            return name
        found = self._framed.get(_unframed(name), [])
        if len(found) == 1:
            return found[0]
        if "lm_head" in name and not found:
            raise self._adapter.fault(
                f"it trains {name}, a head of its own; the base has none or ties it to its embedding"
            )
        raise self._adapter.fault(
            f"{name} belongs to {'more than one tensor' if found else 'no tensor'} of the base",
            mend="name the base that the adapter was trained on, or " + MERGE,
        )

    def writes_out(self, name: str) -> bool:
        """A whole head, though nobody trained one: the tied embedding, written out a second time."""
        trained = self._adapter.settings.get("modules_to_save") or ()
        headless = "lm_head" in name and _unframed(name) not in self._framed
        return headless and not any("lm_head" in str(module) for module in trained)


def _check_settings(settings: Mapping[str, Any], file: Path) -> None:
    """Refuse what changes the result in a way that is not applied here."""
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"{file}: peft_type is {settings.get('peft_type')!r}, expected 'LORA'", mend=MERGE)
    for key, value in settings.items():
        if key not in APPLIED and key not in HARMLESS and value:
            raise CheckpointError(f"{file}: {key} is {str(value)[:80]!r}, which Temper does not apply", mend=MERGE)
    begun = settings.get("init_lora_weights", True)
    if not any(begun is known or (isinstance(known, str) and begun == known) for known in BEGINNINGS):
        raise CheckpointError(
            f"{file}: init_lora_weights is {str(begun)[:80]!r}, which changes the base's own weights", mend=MERGE
        )
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not _whole_number(rank) or not _finite(alpha):
        raise CheckpointError(f"{file}: r is {rank!r} and lora_alpha {alpha!r}, expected a whole number and a number")
    for key, fits in (("rank_pattern", _whole_number), ("alpha_pattern", _finite)):
        _check_pattern(settings.get(key), fits, f"{file}: {key}")


def _check_pattern(table: Any, fits: Callable[[Any], bool], where: str) -> None:
    if table is None:
        return
    if not isinstance(table, dict) or not all(fits(value) for value in table.values()):
        raise CheckpointError(f"{where} is {str(table)[:80]!r}, expected numbers by module")
    for key in table:
        # a hostile pattern can keep an engine busy for years: few repetitions, none of a group, no look-arounds
        if len(re.findall(r"[*+?{]", key)) > 3 or re.search(r"\)[*+?{]|\(\?|\\\d", key) or len(key) > 1024:
            raise CheckpointError(f"{where}: pattern {key[:80]!r} is too involved", mend=MERGE)
        try:
            re.compile(key)
        except (re.error, RecursionError, OverflowError) as error:
            raise CheckpointError(f"{where}: pattern {key[:80]!r}: {error}") from None


def _patterned(settings: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The value of the first pattern that `module` or the end of its path matches."""
    for pattern, value in (settings.get(key) or {}).items():
        plain = re.fullmatch(r"[\w.-]+", pattern) is not None
        if plain and (module == pattern or module.endswith(f".{pattern}")):
            return value
        if not plain and re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
            return value
    return default


def _resized(
    adapter: Adapter, infos: Mapping[str, TensorInfo], config: Mapping[str, Any], patches: dict[str, Patch]
) -> Applied:
    """Headers and config with the patches applied; embedding and head may have got rows for new tokens."""
    grown = {
        name: patch.whole.shape
        for name, patch in patches.items()
        if patch.whole is not None and patch.whole.shape != infos[name].shape
    }
    new = {name: replace(info, shape=grown.get(name, info.shape)) for name, info in infos.items()}
    for name, patch in patches.items():
        if infos[name].dtype not in FLOATS or (patch.shift is not None and patch.shift.shape != infos[name].shape):
            raise adapter.fault(f"a part does not fit tensor {name}, {list(infos[name].shape)} in {infos[name].dtype}")
    if not grown:
        return Applied(dict(config), new, patches)
    layout = Layout.of(infos)
    before = {infos[name].shape for name in grown}
    tokens = [n for n in infos if layout.group_of.get(n) in ("embedding", "head") and infos[n].shape in before]
    after = {new[name].shape for name in (*grown, *tokens)}
    if len(before) != 1 or len(after) != 1 or not set(grown) <= set(tokens) or not _same_width(before | after):
        name = next(iter(grown))
        raise adapter.fault(
            f"{name} has shape {list(grown[name])}, the base's {list(infos[name].shape)}",
            mend="name the base that the adapter was trained on",
        )
    rows = next(iter(after))[0]
    return Applied(_with_vocabulary(config, rows), new, patches)


def _same_width(shapes: Iterable[tuple[int, ...]]) -> bool:
    return len({shape[1:] for shape in shapes}) == 1 and all(len(shape) == 2 for shape in shapes)


def _with_vocabulary(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    changed = {**config, **({"vocab_size": rows} if "vocab_size" in config else {})}
    if isinstance(inner := config.get("text_config"), dict):
        changed["text_config"] = {**inner, "vocab_size": rows}
    return changed


def _unwrapped(name: str) -> str:
    return _WRAPPERS.sub("", name.removeprefix("base_model.model."))


def _unframed(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _FRAMES)


def _whole_number(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 20


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6
