"""The models that write and answer: a base and its members."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datagen.errors import DataError

#: the name the base goes by beside the members
BASE = "base"


@dataclass(frozen=True)
class Member:
    """One model of the pool. A `domain` model questions itself about its `topics` (its name, where it names none)."""

    name: str
    path: Path
    domain: bool
    topics: tuple[str, ...]


@dataclass(frozen=True)
class Pool:
    base: Path
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        """
        Raises:
            DataError: two models share a name, or a member is called "base".
        """
        names = [name for name, _ in self.models()]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise DataError(
                f"the pool names {', '.join(double)} more than once (the base is called {BASE!r})",
                mend="rename a model",
            )

    @property
    def experts(self) -> tuple[Member, ...]:
        """The domain models, in the pool's order."""
        return tuple(member for member in self.members if member.domain)

    def models(self) -> Iterator[tuple[str, Path]]:
        """Name and folder of every model, the base first."""
        yield BASE, self.base
        for member in self.members:
            yield member.name, member.path
