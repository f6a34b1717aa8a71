"""Models held in memory as stacks of rows, and merges of them written wherever the weights are wanted.

What is kept is not task vectors but the models themselves, in their own dtype: a bfloat16 pool takes half of what
float32 task vectors would, and nothing is lost, so that the result is exact to the one rounding of where it goes. What
a method finds out about a whole tensor (norms, angles, thresholds) is kept from one merge to the next, and so are the
numbers that it drops, since dropping one means nothing else than putting the base's in its place.
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from optimizer.errors import CheckpointError, RecipeError
from optimizer.merging.kernels import affine_into, elect_into, serves
from optimizer.merging.layout import Layout
from optimizer.merging.methods.base import (
    Block,
    Case,
    Look,
    Method,
    arithmetic_dtype,
    facts_of,
    matrix,
    state_of,
)
from optimizer.merging.methods.consensus import elect
from optimizer.merging.methods.registry import find_method
from optimizer.merging.plan import Step, make_case, make_plan
from optimizer.merging.recipe import Coefficients, Recipe, check_parameters
from optimizer.merging.stream import BLOCK, row_spans
from optimizer.merging.threads import single_threaded_torch

#: numbers of a tensor merged at a time. On a CPU a block's float32 rows lie in the last cache; shorter ones would fit
#: into the second, but then the time goes into calling torch instead of into arithmetic
SPAN = {"cpu": 1 << 18, "cuda": 1 << 24}

#: the same for a kernel, which keeps nothing but a stretch of numbers
KERNEL_SPAN = 1 << 22
#: bytes of a pool from which compiling a kernel, a second or two, is soon made up for
WORTH_A_KERNEL = 1 << 28

#: a number for all models, or one for each by name
Parameters = Mapping[str, float | Mapping[str, float]]

_Task = TypeVar("_Task")


@dataclass(frozen=True)
class Place:
    """Where a part of a tensor goes: `rows` and `columns` of it (see `matrix`) are written to `target`, a view of that
    shape. Sharded over several processes, each has only a part."""

    target: Tensor
    rows: slice
    columns: slice

    @classmethod
    def whole(cls, target: Tensor) -> "Place":
        """`target` [rows, columns] takes all of the tensor."""
        return cls(target, slice(0, target.shape[0]), slice(0, target.shape[1]))

    def takes(self, begin: int, end: int, columns: int) -> Tensor | None:
        """The target of rows `begin` … `end`, contiguous, if it takes them whole."""
        inside = self.rows.start <= begin and end <= self.rows.stop and self.columns == slice(0, columns)
        part = self.target[begin - self.rows.start : end - self.rows.start] if inside else None
        return part if part is not None and part.is_contiguous() else None

    def write(self, result: Tensor, begin: int) -> None:
        """Take over what it can of `result`, the rows from `begin` on of the merged tensor."""
        low, high = max(begin, self.rows.start), min(begin + result.shape[0], self.rows.stop)
        if low < high:
            part = result[low - begin : high - begin, self.columns]
            self.target[low - self.rows.start : high - self.rows.start].copy_(part)


@dataclass
class HeldTensor:
    """One tensor of all models: `stack` [1 + models, rows, columns], the base first, in the narrowest dtype that holds
    them all.

    `facts` belong to the values `key` of the parameters that they depend on. Where `sparse`, the stack holds what the
    method's `sparsify` leaves for these values.
    """

    step: Step
    group: int
    stack: Tensor
    key: tuple[object, ...] | None = None
    facts: Any = None
    sparse: bool = False
    settled: bool = True

    @property
    def name(self) -> str:
        return self.step.tensor.name

    def block(self, begin: int, end: int, wide: Tensor | None = None) -> Block:
        """Rows `begin` … `end` of all models; converted into `wide`, one long pass, where that is given."""
        rows = self.stack[:, begin:end]
        base, *models = (rows if wide is None else wide.copy_(rows)).unbind()
        return Block(base, tuple(models), begin * self.stack.shape[2])

    def spans(self, numbers: int) -> list[tuple[int, int]]:
        """The rows, cut into blocks of about so many numbers."""
        return row_spans(tuple(self.stack.shape[1:]), numbers)

    def fill(self) -> None:
        """Copy the models from where they come from into the stack.

        Raises:
            CheckpointError: NaN or infinity in one of them.
        """
        for row, (owner, source) in zip(self.stack, self.step.operands, strict=True):
            for begin, end in self.spans(SPAN["cpu"]):
                row[begin:end] = source.rows(begin, end)
            if not bool(row.sum(dtype=torch.float64).isfinite()) and not bool(row.isfinite().all()):
                raise CheckpointError(
                    f"tensor {self.name}: NaN or infinity in {owner}",
                    mend="fetch the checkpoint again, or leave this model out",
                )
        self.sparse = False

    def prepare(self, method: Method, case: Case) -> None:
        """Find the facts for this case, unless those at hand hold for it, and drop what the method drops.

        Numbers are dropped in the stack itself only while the parameters that decide about them have never changed:
        afterwards the stack keeps the models as they are, and every merge drops anew.
        """
        key = tuple(case.shared[name] if name in case.shared else case.each[name] for name in method.depends)
        if key == self.key:
            return
        self.settled = self.key is None
        if self.sparse:
            self.fill()
        # the same blocks as on the way to the disk, so that sums come out the same to the last bit
        spans = self.spans(BLOCK["cpu"])
        over: Callable[[Look], list[Any]] = lambda look: [look(self.block(*span)) for span in spans]  # noqa: E731
        self.key, self.facts = None, facts_of(method, case, over)
        if method.sparsify is not None and self.settled:
            self.sparse = True  # an interrupted pass leaves a stack that is filled again
            for begin, end in spans:
                kept = method.sparsify(self.block(begin, end), case, self.facts)
                for row, model in zip(self.stack[1:, begin:end], kept.models, strict=True):
                    row.copy_(model)
        self.key = key

    def left(self, method: Method, case: Case, begin: int, end: int, wide: Tensor | None = None) -> Block:
        """Rows of all models after the dropping, converted into `wide` where that is given."""
        block = self.block(begin, end, wide)
        return block if self.sparse or method.sparsify is None else method.sparsify(block, case, self.facts)


@dataclass(frozen=True)
class Settings:
    """Everything a merge is told: a coefficient of every model by group, and the method's other parameters."""

    columns: Sequence[tuple[float, ...]]
    shared: Mapping[str, float] = field(default_factory=dict)
    each: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def of_group(self, group: int) -> tuple[object, ...]:
        """What decides about the tensors of a group."""
        return self.columns[group], tuple(self.shared.items()), tuple(self.each.items())


class HeldPool:
    """A pool in memory, ready to be merged with any coefficients.

    Args:
        recipe: base, models, method, its parameters and seed; what its coefficients are does not matter.
        layout: the groups of the pool's tensors, in the order of coefficients.
        device: where the stacks live and the arithmetic is done.
        steps: what to hold instead of the recipe's own tensors.
        group_of: the groups of these by name, where they are not those of the layout.

    Raises:
        RecipeError, PoolError: see `make_plan`.
        CheckpointError: a folder cannot be read, NaN or infinity in a model.
    """

    def __init__(
        self,
        recipe: Recipe,
        layout: Layout,
        device: torch.device,
        steps: Iterable[Step] | None = None,
        group_of: Mapping[str, str] | None = None,
    ) -> None:
        self.recipe, self.layout, self.device = recipe, layout, device
        self.models = tuple(recipe.models)
        self.method = find_method(recipe.method)
        check_parameters(recipe, self.method)
        numbers = {group: number for number, group in enumerate(layout.groups)}
        groups = layout.group_of if group_of is None else group_of
        wanted = make_plan(recipe).steps if steps is None else steps
        self.tensors = [
            _hold(step, numbers[groups[step.tensor.name]], device) for step in wanted if step.method is not None
        ]

    @property
    def nbytes(self) -> int:
        """Memory that the stacks take, in bytes."""
        return sum(held.stack.nbytes for held in self.tensors)

    def settings(self, coefficients: Coefficients | Tensor, parameters: Parameters | None = None) -> Settings:
        """What `write` needs; `parameters` other than the recipe's where given.

        Raises:
            RecipeError: other models or groups than this pool's, a coefficient that is not finite, an unknown
                parameter or a value outside its range.
        """
        recipe = self.recipe if parameters is None else replace(self.recipe, parameters=parameters)
        return Settings(self._columns(coefficients), *check_parameters(recipe, self.method))

    def case(self, held: HeldTensor, settings: Settings) -> Case:
        """A tensor's case under these settings."""
        return make_case(
            held.name,
            held.step.tensor.shape,
            self.recipe,
            self.method,
            settings.shared,
            settings.each,
            settings.columns[held.group],
        )

    @torch.no_grad()
    def write(self, tensors: Iterable[HeldTensor], places: Mapping[str, Sequence[Place]], settings: Settings) -> None:
        """Merge these tensors into their places."""
        method = self.method
        chosen = [(held, self.case(held, settings)) for held in tensors]
        threads = 1 if self.device.type != "cpu" else torch.get_num_threads()
        if method.prepare is not None or method.sparsify is not None:
            share(chosen, lambda one: one[0].prepare(method, one[1]), threads)
        summed = self.nbytes >= WORTH_A_KERNEL and (method.shares is not None or method.combine is elect)
        tasks = [
            (held, case, state, by_kernel, *rows)
            for held, case in chosen
            for state in (state_of(method, case, held.facts),)
            for by_kernel in (summed and serves(held.stack),)
            for rows in held.spans(KERNEL_SPAN if by_kernel else SPAN.get(self.device.type, SPAN["cpu"]))
        ]

        scratch = _Scratch()

        def work(task: tuple[HeldTensor, Case, Any, bool, int, int]) -> None:
            held, case, state, by_kernel, begin, end = task
            if by_kernel and _by_kernel(held, method, state, places[held.name], begin, end):
                return
            result = method.combine(held.left(method, case, begin, end, scratch.of(held, begin, end)), case, state)
            for place in places[held.name]:
                place.write(result, begin)

        share(tasks, work, threads)

    def _columns(self, coefficients: Coefficients | Tensor) -> list[tuple[float, ...]]:
        """λ of all models, group by group."""
        rows: Sequence[Sequence[float]]
        if isinstance(coefficients, Coefficients):
            if coefficients.models != self.models or coefficients.groups != self.layout.groups:
                raise RecipeError(
                    f"coefficients of {', '.join(coefficients.models)} in {len(coefficients.groups)} groups found, "
                    f"expected {', '.join(self.models)} in {len(self.layout.groups)} groups, in this order"
                )
            rows = coefficients.values
        else:
            if tuple(coefficients.shape) != (len(self.models), len(self.layout.groups)):
                raise RecipeError(
                    f"coefficients of shape {list(coefficients.shape)} found, expected [models, groups] = "
                    f"[{len(self.models)}, {len(self.layout.groups)}]"
                )
            rows = coefficients.detach().double().tolist()
        columns = list(zip(*rows, strict=True))
        for group, column in zip(self.layout.groups, columns, strict=True):
            if any(value - value != 0 for value in column):
                raise RecipeError(f"coefficients {column} in group {group}, expected finite numbers")
        return columns


def _by_kernel(held: HeldTensor, method: Method, state: Any, places: Sequence[Place], begin: int, end: int) -> bool:
    """Merge some rows in one pass over memory, straight into their place where it can take them as they are; False
    where that cannot be done, and nothing was written."""
    if not held.sparse and method.sparsify is not None:
        return False
    stack = held.stack[:, begin:end]
    direct = places[0].takes(begin, end, held.stack.shape[2]) if len(places) == 1 else None
    out = torch.empty(stack.shape[1:], dtype=torch.float32) if direct is None else direct
    done = elect_into(stack, state, out) if method.shares is None else affine_into(stack, method.shares(state), out)
    if not done:
        return False
    if direct is None:
        for place in places:
            place.write(out, begin)
    return True


class _Scratch(threading.local):
    """Memory that a thread converts blocks into: the same for all of them, so that it stays in the cache."""

    def __init__(self) -> None:
        self._flat = torch.empty(0)

    def of(self, held: HeldTensor, begin: int, end: int) -> Tensor | None:
        """Room for these rows in the arithmetic's dtype, None where the stack has that."""
        dtype = arithmetic_dtype(held.stack)
        if held.stack.dtype == dtype:
            return None
        shape = (held.stack.shape[0], end - begin, held.stack.shape[2])
        numel = math.prod(shape)
        if self._flat.numel() < numel or self._flat.device != held.stack.device or self._flat.dtype != dtype:
            self._flat = torch.empty(numel, dtype=dtype, device=held.stack.device)
        return self._flat[:numel].view(shape)


def share(tasks: Sequence[_Task], work: Callable[[_Task], None], threads: int) -> None:
    """Do `work` on every task in that many threads."""
    threads = min(threads, len(tasks))
    coming = iter(tasks)

    def run() -> None:
        with torch.no_grad():
            for task in coming:  # the next task of a list goes to one thread only
                work(task)

    if threads < 2:
        run()
        return
    with single_threaded_torch(), ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(run) for _ in range(threads)]:
            done.result()


def _hold(step: Step, group: int, device: torch.device) -> HeldTensor:
    dtype = reduce(torch.promote_types, (tensor.dtype for _, tensor in step.operands))
    rows, columns = matrix(step.tensor.shape)
    held = HeldTensor(step, group, torch.empty(len(step.operands), rows, columns, dtype=dtype, device=device))
    held.fill()
    return held
