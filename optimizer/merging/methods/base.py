"""What a merge method is: pure functions over blocks of rows, and what planner, search and gradients ask about it.

A tensor is merged in three steps. `prepare` looks at the whole tensor (a norm, a threshold, an angle) and returns facts
about it; `weigh` turns the facts and the parameters into a state, once a tensor; `combine` makes the result, block by
block. Whoever drives the method decides where blocks come from (a mapped file, a stack in memory), on which device and
in how many threads they are handled: the result is the same.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method. `per_model`: every model has its own value. `default` None: it must be given.

    `low` … `high` is what the formula allows, both ends included. `boolean` ones are handed over as 0.0 and 1.0.
    """

    name: str
    default: float | None = None
    per_model: bool = False
    low: float = -1e6
    high: float = 1e6
    boolean: bool = False
    meaning: str = ""


@dataclass(frozen=True)
class Case:
    """One tensor's merge.

    `tensor` is its name, `shape` its shape; `models` are keys of the models that are combined, the base not among
    them, in the order of everything else that is given per model. `shared["lambda"]` holds the parameters that all
    models share, `each["density"]` those of every model; all of a method's parameters are there, defaults filled in.
    `seed` is the recipe's.
    """

    tensor: str
    shape: tuple[int, ...]
    models: tuple[str, ...]
    shared: Mapping[str, float]
    each: Mapping[str, tuple[float, ...]]
    seed: int = 0


@dataclass(frozen=True)
class Block:
    """Consecutive whole rows of one tensor: `base` and each of `models` are [rows, columns], of any float dtype.

    Vectors and scalars are one row; tensors of more dimensions have the last one as columns. `begin` is the position
    of the first number in the flat tensor. `base` is None where the recipe has none. Never write into these tensors:
    they may be views of a file.
    """

    base: Tensor | None
    models: tuple[Tensor, ...]
    begin: int

    @property
    def root(self) -> Tensor:
        """The base, of a method that cannot do without."""
        assert self.base is not None
        return self.base


#: a look at one block; what it returns is small
Look = Callable[[Block], Any]
#: yields looks, is sent back the list of what each returned for every block in order, returns the facts
Prepare = Callable[[Case], Generator[Look, list[Any], Any]]


class Base(StrEnum):
    """What a method does with a base."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    UNUSED = "unused"


@dataclass(frozen=True)
class Method:
    """A row of the registry.

    Attributes:
        models: the fewest and the most models that are combined, the base not counted (None: any number).
        source: where the formula comes from.
        prepare: see above; None where nothing of the whole tensor is needed.
        depends: names of the parameters that the facts depend on. A merge held in memory prepares once, and again only
            when one of these changes.
        sparsify: (block, case, facts) → the block with the dropped numbers of every model replaced by the base's. It
            depends on nothing but `depends`, so a merge held in memory does this once, too.
        weigh: (case, facts) → the state that `combine` gets; None: it gets the facts themselves.
        combine: (sparsified block, case, state) → [rows, columns] in `arithmetic_dtype`, not yet rounded to what is
            stored.
        slopes: for methods that are linear in their coefficients as long as `normalize` is off: (sparsified block,
            case, state) → one [rows, columns] a model, ∂θ/∂weight_t. None: not linear.
        shares: of methods whose result is `affine_sum` of the sparsified block: state → its weights, one a model. What
            can do that sum in another way need not call `combine`.
        coefficient: the parameter that a search moves first ("weight", or "t" of the two-model methods).
        check: (case) → RecipeError where parameters that are each in range do not go together. Planning calls it, so
            that nothing is read in vain.
        affine: with a NaN in any input the result has one too, so that damage in a file cannot be missed.
    """

    name: str
    source: str
    parameters: tuple[Parameter, ...]
    combine: Callable[[Block, Case, Any], Tensor]
    models: tuple[int, int | None] = (1, None)
    base: Base = Base.REQUIRED
    prepare: Prepare | None = None
    depends: tuple[str, ...] = ()
    sparsify: Callable[[Block, Case, Any], Block] | None = None
    weigh: Callable[[Case, Any], Any] | None = None
    slopes: Callable[[Block, Case, Any], Sequence[Tensor]] | None = None
    shares: Callable[[Any], Sequence[float]] | None = None
    coefficient: str = "weight"
    check: Callable[[Case], object] | None = None
    affine: bool = False

    @property
    def linear(self) -> bool:
        """θ is linear in its coefficients with slopes s_t, so that ∂L/∂weight_t = ⟨∂L/∂θ, s_t⟩."""
        return self.slopes is not None

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name."""
        return next((row for row in self.parameters if row.name == name), None)


def arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 where one of the tensors has it."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def block_dtype(block: Block) -> torch.dtype:
    """The dtype of the arithmetic on a block."""
    return arithmetic_dtype(*block.models, *(() if block.base is None else (block.base,)))


def matrix(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a tensor as blocks see it."""
    if not shape:
        return 1, 1
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows, shape[-1]


def facts_of(method: Method, case: Case, over: Callable[[Look], list[Any]]) -> Any:
    """What `method.prepare` finds; `over` calls a look on every block of the tensor, in order."""
    if method.prepare is None:
        return None
    work = method.prepare(case)
    try:
        look = next(work)
        while True:
            look = work.send(over(look))
    except StopIteration as end:
        return end.value


def state_of(method: Method, case: Case, facts: Any) -> Any:
    """What `method.combine` is given beside block and case."""
    return facts if method.weigh is None else method.weigh(case, facts)


def merged(method: Method, block: Block, case: Case, facts: Any, state: Any) -> Tensor:
    """One block of the result, [rows, columns] in the dtype of the arithmetic."""
    if method.sparsify is not None:
        block = method.sparsify(block, case, facts)
    return method.combine(block, case, state)
