"""Can these models be merged? Answered from configs, headers and tokenizer files: no weight is read. No torch."""

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.errors import CheckpointError, PoolError, RecipeError
from optimizer.merging.checkpoint.adapter import Adapter
from optimizer.merging.checkpoint.files import MAX_TOKENIZER, file_of, read_json
from optimizer.merging.checkpoint.header import (
    FETCH,
    MAX_CONFIG,
    TensorInfo,
    language_config,
    read_config,
    read_headers,
    refuse_code,
    refuse_quantised,
)
from optimizer.merging.checkpoint.models import ModelReference, resolve_parts
from optimizer.merging.layout import Layout, without_tied_head

#: config keys that change what the same weights compute, or explain a difference in shapes. Missing on one side says
#: nothing (a default), so keys are compared where both configs have them.
CONFIG_KEYS = (
    "architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
    "num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings", "hidden_act", "hidden_activation",
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "rope_scaling", "rope_parameters",
    "rotary_pct", "rotary_emb_base", "partial_rotary_factor", "sliding_window", "layer_types", "use_parallel_residual",
    "parallel_residual", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
    "num_local_experts", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob",
)  # fmt: skip
SENTENCEPIECE = ("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model")
#: what a recipe may allow to differ
ALLOWABLE = (*CONFIG_KEYS, "tokenizer", "chat_template")
SHOWN = 6


@dataclass(frozen=True)
class ModelFolder:
    """What a model says without its weights.

    `config` is the language model's, `template` the chat template or None where there is none; all of it with the
    adapter applied, where there is one.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    infos: Mapping[str, TensorInfo]
    tokenizer: Mapping[str, Any]
    template: str | None
    adapter: Adapter | None = None

    @classmethod
    def read(cls, name: str, model: Path | ModelReference) -> "ModelFolder":
        """Read config, headers and tokenizer files.

        Raises:
            CheckpointError: the folder is damaged, unsafe, quantised, or its config and weights contradict each other;
                there is no such model; the adapter does not fit.
        """
        folder, over = resolve_parts(ModelReference.of(model))
        config = read_config(folder)
        infos = without_tied_head(read_headers(folder), language_config(config))
        refuse_quantised(folder, config, infos)
        _match_config(folder, language_config(config), infos)
        home, adapter = folder, None
        if over is not None:
            adapter = Adapter.read(over)
            home = adapter.tokenizer_folder(folder)
            config, infos, _ = adapter.apply(infos, config)
        return cls(name, folder, language_config(config), infos, _tokenizer(home), chat_template(home), adapter)


Pool = Mapping[str, Path | ModelReference]


def check_pool(base: Path | ModelReference, models: Pool, allow: Collection[str] = ()) -> Layout:
    """The layout that all models of the pool share.

    `allow` names what may differ all the same: config keys of `CONFIG_KEYS`, "tokenizer", "chat_template". Shapes and
    names of tensors never may.

    Raises:
        CheckpointError: a folder cannot be read safely.
        PoolError: the models differ in architecture, config, tensors, vocabulary, tokenizer or chat template; the
            message lists every difference.
        RecipeError: `allow` names something else.
    """
    _check_allowed(allow)
    root = ModelFolder.read("base", base)
    pool = [ModelFolder.read(name, model) for name, model in models.items()]
    found = {model.name: differences(root, model, allow) for model in pool}
    lines = [f"{name} ({models[name]}):\n" + _indent(parts) for name, parts in found.items() if parts]
    if "chat_template" not in allow and (templates := template_differences([root, *pool])):
        lines.append("chat templates:\n" + _indent(templates))
    if lines:
        mend = "merge only models that were trained from this base without changes to architecture or tokenizer"
        settings = {key for model in pool for key in config_differences(root, model)} - set(allow)
        if settings and not any(differences(root, model, {*allow, *settings}) for model in pool):
            mend += f", or allow these to differ: {', '.join(sorted(settings))}"
        raise PoolError(
            f"the pool cannot be merged; differences from the base ({base}):\n" + "\n".join(lines), mend=mend
        )
    return Layout.of(root.infos)


def config_differences(base: ModelFolder, model: ModelFolder) -> dict[str, str]:
    """The config keys in which two models differ, with a line about each."""
    found = {}
    for key in CONFIG_KEYS:
        ours, theirs = _setting(base.config, key), _setting(model.config, key)
        if ours is not None and theirs is not None and ours != theirs:
            found[key] = f"config {key}: {_short(ours)} in the base, {_short(theirs)} here"
    return found


def differences(base: ModelFolder, model: ModelFolder, allow: Collection[str] = ()) -> list[str]:
    """What keeps `model` from being merged with `base`, a line or short block each; empty where nothing does.

    `allow`: see `check_pool`. Chat templates are compared by `template_differences`.
    """
    lines = [line for key, line in config_differences(base, model).items() if key not in allow]
    missing = [name for name in base.infos if name not in model.infos]
    added = [name for name in model.infos if name not in base.infos]
    lines += _some("- tensor {} missing here", missing) + _some("+ tensor {} not in the base", added)
    reshaped = [name for name, info in base.infos.items() if _shape(model, name) not in (None, info.shape)]
    pairs = [
        f"{name}: {list(base.infos[name].shape)} in the base, {list(model.infos[name].shape)}" for name in reshaped
    ]
    lines += _some("tensor {} here", pairs)
    return lines if "tokenizer" in allow else lines + _tokenizer_differences(base.tokenizer, model.tokenizer)


def chat_template(folder: Path) -> str | None:
    """The default chat template of a model folder: chat_template.jinja, else the one in tokenizer_config.json.

    Raises:
        CheckpointError: too large, not JSON, or a tokenizer that asks for code of its own.
    """
    template: object = None
    if file := file_of(folder, "tokenizer_config.json"):
        settings = read_json(file, MAX_TOKENIZER)
        refuse_code(settings, folder / "tokenizer_config.json")
        template = settings.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default")
    if file := file_of(folder, "chat_template.jinja"):
        if file.stat().st_size > MAX_CONFIG:
            raise CheckpointError(f"{folder}/chat_template.jinja: over {MAX_CONFIG:,} bytes")
        template = file.read_text(encoding="utf-8", errors="replace")
    return template if isinstance(template, str) else None


def template_folder(base: Path, models: Iterable[Path]) -> Path:
    """Whose tokenizer files and chat template a merge carries: the base's, or, where the base was never taught to
    chat, those of the first model that has a template."""
    return next((folder for folder in (base, *models) if chat_template(folder) is not None), base)


def _check_allowed(allow: Collection[str]) -> None:
    for key in allow:
        if key not in ALLOWABLE:
            near = difflib.get_close_matches(key, ALLOWABLE, n=1)
            raise RecipeError(
                f"allowed to differ: {key!r} found, which is not compared",
                mend=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(ALLOWABLE)}",
            )


def _match_config(folder: Path, config: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> None:
    """Refuse a config that promises another model than the headers hold, before anything is built from it."""
    layout = Layout.of(infos)
    embeddings = [infos[name].shape for name in layout.members("embedding") if len(infos[name].shape) == 2]
    rows = max((shape[0] for shape in embeddings), default=None)
    widths = {width for shape in embeddings for width in shape}
    layers, hidden, words = (config.get(key) for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
    if layers is not None and layout.layers and layers != layout.layers:
        contradiction = f"num_hidden_layers {layers:,}, the weights have {layout.layers}"
    elif hidden is not None and widths and hidden not in widths:
        contradiction = f"hidden_size {hidden:,}, the embedding has shape {list(embeddings[0])}"
    elif words is not None and rows is not None and words > rows:
        contradiction = f"vocab_size {words:,}, the embedding has {rows:,} rows"
    else:
        return
    raise CheckpointError(f"{folder}: config.json says {contradiction}", mend=FETCH)


def _setting(config: Mapping[str, Any], key: str) -> Any:
    """A config value; transformers 5 keeps rope_theta and rope_scaling inside rope_parameters."""
    if key == "rope_parameters":
        return None
    value = config.get(key)
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        if key == "rope_theta" and value is None:
            return rope.get("rope_theta")
        if key == "rope_scaling" and value is None:
            value = {k: v for k, v in rope.items() if k != "rope_theta"}
    if key == "rope_scaling":
        kind = value.get("rope_type", value.get("type", "default")) if isinstance(value, dict) else "default"
        rest = {k: v for k, v in value.items() if k not in ("rope_type", "type")} if isinstance(value, dict) else {}
        return "default" if kind == "default" else {"rope_type": kind, **rest}
    return value


def _tokenizer(folder: Path) -> dict[str, Any]:
    """What decides how text becomes ids: vocabulary, merges, added tokens, normaliser and splitter.

    Padding, truncation and the post-processor are settings of a run, which trainers leave behind; they are left out.
    """
    if file := file_of(folder, "tokenizer.json"):
        try:
            return _token_rules(read_json(file, MAX_TOKENIZER))
        except (AttributeError, TypeError, ValueError):
            raise CheckpointError(f"{folder}/tokenizer.json: not a tokenizer's file", mend="fetch it again") from None
    return {f"file {name}": file.read_bytes() for name in SENTENCEPIECE if (file := file_of(folder, name))}


def _token_rules(whole: Mapping[str, Any]) -> dict[str, Any]:
    """The deciding parts of a tokenizer.json, in one notation whatever version wrote it."""
    model = whole.get("model") or {}
    vocabulary = model.get("vocab") or {}
    if isinstance(vocabulary, list):  # unigram models: [[token, score], …]
        vocabulary = {str(token): [index, score] for index, (token, score) in enumerate(vocabulary)}
    return {
        "kind": model.get("type"),
        "vocabulary": dict(vocabulary),
        "merges": [" ".join(pair) if isinstance(pair, list) else pair for pair in model.get("merges") or []],
        "added tokens": {str(entry.get("content")): entry.get("id") for entry in whole.get("added_tokens") or []},
        "normalizer": whole.get("normalizer"),
        "pre_tokenizer": whole.get("pre_tokenizer"),
    }


def _tokenizer_differences(base: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Both say how they tokenise, and not the same. A folder without tokenizer files is taken to use its base's."""
    lines: list[str] = []
    if not base or not model or base == model:
        return lines
    if base.keys() != model.keys():
        return [f"tokenizer: {', '.join(base)} in the base, {', '.join(model)} here"]
    for part, ours in base.items():
        theirs = model[part]
        if ours == theirs:
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict) and part in ("vocabulary", "added tokens"):
            lines += _some(f"- tokenizer {part}: {{}} missing here", [repr(t) for t in ours if t not in theirs])
            lines += _some(f"+ tokenizer {part}: {{}} not in the base", [repr(t) for t in theirs if t not in ours])
            moved = [f"{t!r} is {ours[t]} in the base, {theirs[t]}" for t in ours if theirs.get(t, ours[t]) != ours[t]]
            lines += _some(f"tokenizer {part}: {{}} here", moved)
        else:
            lines.append(f"tokenizer {part} differs from the base's" + _first_difference(ours, theirs))
    return lines


def _first_difference(ours: Any, theirs: Any) -> str:
    if isinstance(ours, list) and isinstance(theirs, list):
        at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        if at is None:
            return f": {len(ours)} there, {len(theirs)} here"
        return f": number {at} is {ours[at]!r} there, {theirs[at]!r} here"
    if isinstance(ours, bytes):
        return ""
    return f": {_short(ours)} there, {_short(theirs)} here"


def template_differences(pool: Sequence[ModelFolder]) -> list[str]:
    """A diff for every model whose chat template is not the first one of the pool's."""
    owners = [model for model in pool if model.template is not None]
    lines: list[str] = []
    for model in owners[1:]:
        first, other = (owners[0].template or "").strip(), (model.template or "").strip()
        if first != other:
            diff = difflib.unified_diff(
                first.splitlines(), other.splitlines(), owners[0].name, model.name, lineterm="", n=0
            )
            shown = [_short(line) for line in diff]
            lines += shown[:12] + ([f"… {len(shown) - 12} more lines"] if len(shown) > 12 else [])
    return lines


def _shape(model: ModelFolder, name: str) -> tuple[int, ...] | None:
    info = model.infos.get(name)
    return info.shape if info else None


def _some(line: str, things: list[str]) -> list[str]:
    shown = [line.format(thing) for thing in things[:SHOWN]]
    return shown + ([f"… and {len(things) - SHOWN} more like the last"] if len(things) > SHOWN else [])


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:117] + "…"


def _indent(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
