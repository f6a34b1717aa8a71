"""Where the tensors of a checkpoint land in the parameters of a model whose loader fuses, shards and repacks them.

vLLM joins q, k and v into one parameter, gives each process its shard, and on a CPU packs linear layers into a form of
their own and throws the parameter away. Its code for that differs from model to model, so it is watched instead of
told: while it loads the pool's base once, every copy out of the held stacks is noted. From then on a merge is written
to the same places directly.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from datagen.engines.vllm_worker import tied_modules
from optimizer.merging.held import HeldPool, HeldTensor, Place, Settings

#: bytes of parameters that are written before their layers are packed: it bounds the memory that this takes
_BATCH = 256 << 20
#: operations that may follow the copies without making a parameter something else than what was copied into it: they
#: write the padding of vocabularies
_HARMLESS = (torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default)


@dataclass(frozen=True)
class Landing:
    """`rows` and `columns` of a tensor (see `matrix`), and the strided view of a parameter that they are copied to."""

    tensor: str
    rows: slice
    columns: slice
    parameter: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    transposed: bool

    def place(self, parameter: Tensor) -> Place:
        """The view, as the merge writes to it."""
        view = parameter.as_strided(self.size, self.stride, parameter.storage_offset() + self.offset)
        if self.transposed:
            view = view.t()
        shape = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return Place(view.view(shape) if view.shape != shape else view, self.rows, self.columns)


@dataclass(frozen=True)
class _Form:
    """A parameter as it was when the tensors were copied into it."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> "_Form":
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def zeros(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device).zero_()


@dataclass
class _Layer:
    """A module and what was copied into its own parameters."""

    module: nn.Module
    forms: dict[str, _Form] = field(default_factory=dict)
    landings: list[Landing] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(form.dtype.itemsize * torch.Size(form.size).numel() for form in self.forms.values())

    def live(self, name: str) -> bool:
        """The parameter still is what it was when it was loaded, and may be written to."""
        own = self.module._parameters.get(name)
        return own is not None and _Form.of(own) == self.forms[name]


class LoadTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes, while active, every copy out of the base's rows of the held tensors into parameters of `model`."""

    def __init__(self, model: nn.Module, tensors: Sequence[HeldTensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._modules = list(model.modules())
        self._tensors = sorted(tensors, key=lambda held: held.stack.data_ptr())
        self._starts = [held.stack.data_ptr() for held in self._tensors]
        self._layers: dict[nn.Module, _Layer] = {}
        self._storages: dict[int, nn.Module] = {}
        self._odd: set[nn.Module] = set()
        self._last: nn.Module | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.is_mutable and args and isinstance(args[0], Tensor) and not args[0].is_meta:
            self._note(func, args)
        return result

    def layers(self) -> list[_Layer]:
        """The layers whose parameters hold copies of the tensors and nothing else."""
        return [layer for module, layer in self._layers.items() if module not in self._odd]

    def _note(self, func: Any, args: tuple[Any, ...]) -> None:
        target: Tensor = args[0]
        source: Tensor | None = args[1] if func is torch.ops.aten.copy_.default else None
        if source is not None and source.data_ptr() == target.data_ptr():
            return  # onto itself: what vLLM does with parameters that it reloads where they are
        landing = None
        if source is not None and (held := self._held(source)) is not None:
            owner = self._owner(target)
            landing = None if owner is None else _landing(held, source, owner[1], owner[2], target)
            if owner is not None and landing is not None:
                module, name, parameter = owner
                layer = self._layers.setdefault(module, _Layer(module))
                layer.forms[name] = _Form.of(parameter)
                if landing not in layer.landings:  # some are copied once to be counted, and once for good
                    layer.landings.append(landing)
                self._storages[target.untyped_storage().data_ptr()] = module
        if landing is None and func not in _HARMLESS:
            module_or_none = self._storages.get(target.untyped_storage().data_ptr())
            if module_or_none is not None and self._owner(target) is not None:
                self._odd.add(module_or_none)

    def _held(self, source: Tensor) -> HeldTensor | None:
        """Whose base `source` is a view of."""
        at = bisect_right(self._starts, source.data_ptr()) - 1
        if at < 0 or source.device != self._tensors[at].stack.device:
            return None
        base = self._tensors[at].stack[0]
        return self._tensors[at] if source.data_ptr() < base.data_ptr() + base.nbytes else None

    def _owner(self, target: Tensor) -> tuple[nn.Module, str, Tensor] | None:
        """The module with a parameter that `target` is a view of. Copies come layer by layer: the last is asked
        first."""
        storage = target.untyped_storage().data_ptr()
        for module in (*([self._last] if self._last is not None else ()), *self._modules):
            for name, parameter in module._parameters.items():
                if parameter is None or parameter.is_meta or parameter.numel() == 0:
                    continue
                if parameter.untyped_storage().data_ptr() == storage:
                    self._last = module
                    return module, name, parameter
        return None


def _landing(held: HeldTensor, source: Tensor, name: str, parameter: Tensor, target: Tensor) -> Landing | None:
    """None where the copied part is not a rectangle of the tensor's rows and columns."""
    width = held.stack.shape[2]
    position = (source.data_ptr() - held.stack.data_ptr()) // held.stack.element_size()
    top, left = divmod(position, width)
    flat = source if source.dim() > 1 else source.reshape(1, -1)
    transposed = flat.dim() == 2 and flat.stride(0) == 1 and flat.stride(1) == width and flat.shape[0] > 1
    if transposed:
        flat = flat.t()
    shape = flat.numel() // max(1, flat.shape[-1]), flat.shape[-1]
    if flat.numel() == 0 or left + shape[1] > width:
        return None
    rectangle = held.stack[0, top : top + shape[0], left : left + shape[1]]
    if rectangle.shape != shape or not _same_elements(flat, rectangle):
        return None
    if target.dim() != 2 and not target.is_contiguous():
        return None
    return Landing(
        held.name,
        slice(top, top + shape[0]),
        slice(left, left + shape[1]),
        name,
        int(target.storage_offset() - parameter.storage_offset()),
        tuple(target.shape),
        target.stride(),
        transposed,
    )


def _same_elements(tensor: Tensor, rectangle: Tensor) -> bool:
    """Both views have the same elements of memory in the same order."""
    if tensor.shape == rectangle.shape:
        pairs = zip(tensor.shape, tensor.stride(), rectangle.stride(), strict=True)
        return all(size == 1 or one == other for size, one, other in pairs)
    return tensor.is_contiguous() and rectangle.is_contiguous()


class LandedMerge:
    """Writes merges of a held pool into the layers of a model that a trace has seen being loaded.

    Args:
        layers: what `LoadTrace.layers` returned, the base being loaded at present.
        pack: makes a layer's working form from its parameters, None where parameters are what the model computes with.
            It is called for a layer after all its parameters have been written.
    """

    def __init__(
        self, model: nn.Module, pool: HeldPool, layers: Iterable[_Layer], pack: Callable[[nn.Module], None] | None
    ) -> None:
        self._pool, self.pack = pool, pack
        self._layers = [layer for layer in layers if pack is not None or self._holds_base(layer)]
        self._tied = tied_modules(model)
        self._by_name = {held.name: held for held in pool.tensors}
        landed = {landing.tensor for layer in self._layers for landing in layer.landings}
        #: names of tensors that have no known place: they cannot be written
        self.lost = tuple(held.name for held in pool.tensors if held.name not in landed)

    def write(self, groups: set[int], settings: Settings) -> None:
        """Merge the tensors of these groups into the model."""
        batch: list[_Layer] = []
        for layer in self._layers:
            if any(self._by_name[landing.tensor].group in groups for landing in layer.landings):
                batch.append(layer)
            if sum(one.nbytes for one in batch) > _BATCH:
                self._write(batch, settings)
                batch = []
        self._write(batch, settings)

    def _write(self, layers: Sequence[_Layer], settings: Settings) -> None:
        """All tensors of these layers: what is packed is packed as a whole."""
        places: dict[str, list[Place]] = {}
        fresh: list[tuple[nn.Module, str, Tensor]] = []
        for layer in layers:
            targets = {name: layer.module._parameters[name] for name in layer.forms if layer.live(name)}
            for name, form in layer.forms.items():
                if name not in targets:
                    fresh.append((layer.module, name, form.zeros()))
                    targets[name] = nn.Parameter(fresh[-1][2], requires_grad=False)
            for landing in layer.landings:
                target = targets[landing.parameter]
                assert target is not None
                places.setdefault(landing.tensor, []).append(landing.place(target.detach()))
        self._pool.write([self._by_name[name] for name in places], places, settings)
        for module, name, whole in fresh:
            setattr(module, name, nn.Parameter(whole, requires_grad=False))
        if self.pack is not None:
            for layer in layers:
                for module in (layer.module, *self._tied.get(layer.module, ())):
                    self.pack(module)

    @torch.no_grad()
    def _holds_base(self, layer: _Layer) -> bool:
        """The parameters are those that were loaded, with what was copied into them."""
        held = {one.name: one for one in self._pool.tensors}
        for landing in layer.landings:
            if not layer.live(landing.parameter):
                return False
            parameter = layer.module._parameters[landing.parameter]
            assert parameter is not None
            place = landing.place(parameter.detach())
            wanted = held[landing.tensor].stack[0, landing.rows, landing.columns]
            if not torch.equal(place.target, wanted.to(place.target)):
                return False
        return True


def base_tensors(pool: HeldPool) -> Iterator[tuple[str, Tensor]]:
    """The base's tensors by name, as views of the stacks."""
    for held in pool.tensors:
        yield held.name, held.stack[0].view(held.step.tensor.shape)
