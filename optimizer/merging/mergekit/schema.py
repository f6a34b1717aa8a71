"""A recipe in mergekit's format, as values. Imports no torch.

The lines are those of the file, for errors; they take no part in comparisons.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optimizer.merging.checkpoint.models import ModelReference
from optimizer.merging.mergekit.names import known_as

#: interpolated linearly over the depth of a slice
Gradient = tuple[float, ...]


@dataclass(frozen=True)
class Choice:
    """A value for tensors whose name contains `filter`; None and "*" stand for all."""

    filter: str | None
    value: float | Gradient

    def covers(self, tensor: str) -> bool:
        """Whether it applies to the tensor of that name."""
        word = self.filter
        return word is None or word == "*" or any(word in name for name in known_as(tensor))


#: the value of a parameter: one number, a gradient, or the first fitting one of several choices
Setting = float | Gradient | tuple[Choice, ...]
Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class InputModel:
    """A model of a `models:` list, with its own parameters."""

    model: ModelReference
    parameters: Settings = field(default_factory=dict)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Source:
    """Layers `layer_range[0]` … `layer_range[1]` − 1 of a model, as input of a slice."""

    model: ModelReference
    layer_range: tuple[int, int]
    parameters: Settings = field(default_factory=dict)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the result, merged from as many layers of every source."""

    sources: tuple[Source, ...]
    base_model: ModelReference | None = None
    parameters: Settings = field(default_factory=dict)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Module:
    """How one part of a model with several (a vision tower, a decoder) is merged: by `models` or by `slices`."""

    models: tuple[InputModel, ...] = ()
    slices: tuple[Slice, ...] = ()
    parameters: Settings = field(default_factory=dict)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class TokenOf:
    """Another model's embedding row: that of its token `token` or number `token_id`."""

    model: ModelReference
    token: str | None = None
    token_id: int | None = None


@dataclass(frozen=True)
class ZeroRow:
    """A row of zeros."""


@dataclass(frozen=True)
class TokenRule:
    """Where a token's embedding comes from in models that lack it, or, with `force`, in all of them."""

    source: ModelReference | TokenOf | ZeroRow | None = None
    force: bool = False


@dataclass(frozen=True)
class TokenizerBlock:
    """The `tokenizer:` block. `source` is "base", "union" or a model."""

    source: str | ModelReference = "union"
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True)
class MergekitRecipe:
    """One document. Exactly one of `models`, `slices`, `modules` is filled.

    `name` is what other documents of the file call the result by.
    """

    merge_method: str
    base_model: ModelReference | None = None
    models: tuple[InputModel, ...] = ()
    slices: tuple[Slice, ...] = ()
    modules: Mapping[str, Module] = field(default_factory=dict)
    parameters: Settings = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | ModelReference | None = None
    tokenizer: TokenizerBlock | None = None
    chat_template: str | None = None
    name: str | None = None
    line: int = field(default=0, compare=False)
    origin: str = field(default="recipe", compare=False)

    def at(self, line: int) -> str:
        """File and line, as errors begin."""
        return f"{self.origin}, line {line}"

    @property
    def parts(self) -> Sequence[Module]:
        """The modules; a recipe without any is one by itself."""
        return tuple(self.modules.values()) or (Module(self.models, self.slices, line=self.line),)

    @property
    def references(self) -> tuple[ModelReference, ...]:
        """Every model whose weights are read, once each: the base first, then in order of appearance."""
        return tuple(dict.fromkeys(self._named()))

    @property
    def tokenizer_model(self) -> ModelReference | None:
        """The model that the tokenizer is taken from, where one is named."""
        source = self.tokenizer_source if self.tokenizer is None else self.tokenizer.source
        return source if isinstance(source, ModelReference) else None

    def _named(self) -> Iterator[ModelReference]:
        if self.base_model is not None:
            yield self.base_model
        for part in self.parts:
            yield from (entry.model for entry in part.models)
            for piece in part.slices:
                yield from () if piece.base_model is None else (piece.base_model,)
                yield from (source.model for source in piece.sources)
        for rule in () if self.tokenizer is None else self.tokenizer.tokens.values():
            if isinstance(rule.source, ModelReference):
                yield rule.source
            elif isinstance(rule.source, TokenOf):
                yield rule.source.model


def with_base(models: Sequence[InputModel], base: ModelReference | None) -> tuple[InputModel, ...]:
    """The inputs of a `models:` list: a base that is not among them comes last, without parameters of its own."""
    if base is None or any(entry.model == base for entry in models):
        return tuple(models)
    return (*models, InputModel(base, line=models[0].line))


def evaluate(setting: Setting, tensor: str, t: float, *, steps: bool = False) -> float | None:
    """The value for a tensor at depth `t` (0 … 1 within its slice); None where no choice covers it.

    A gradient of m numbers is read at position t·(m − 1): between two of them linearly, or, with `steps` (booleans),
    the number at or before it.
    """
    if isinstance(setting, float):
        return setting
    for entry in setting:
        if isinstance(entry, Choice):
            if entry.covers(tensor):
                return evaluate(entry.value, tensor, t, steps=steps)
        else:
            return _interpolated([number for number in setting if isinstance(number, float)], t, steps)
    return None


def _interpolated(gradient: Sequence[float], t: float, steps: bool) -> float:
    position = t * (len(gradient) - 1)
    # i/(n−1)·(n−1) may miss the whole number i by a rounding
    if abs(position - round(position)) < 1e-9:
        return gradient[round(position)]
    left = int(position)
    part = 0.0 if steps else position - left
    return gradient[left] * (1.0 - part) + gradient[left + 1] * part
