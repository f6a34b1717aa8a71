"""Methods that draw at random: neither side can know the other's draws, so each is held to the same law."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.parity.cases import BASE, Case, write


@dataclass(frozen=True)
class Draw:
    """A method with one model, whose weight is 1, or two."""

    method: str
    density: float
    rescale: bool = False
    models: int = 1

    @property
    def case(self) -> Case:
        models = {name: {"weight": 1.0, "density": self.density} for name in "ab"[: self.models]}
        shared = {"rescale": self.rescale, "normalize": False}
        name = f"draws: {self.method} {self.density:g}{' rescaled' if self.rescale else ''} of {self.models}"
        return Case(name, write(self.method, models, **BASE, parameters=shared), "large")


DRAWS: Mapping[str, Draw] = {
    draw.case.name: draw
    for draw in (
        *(
            Draw(method, density, rescale)
            for method in ("dare_linear", "dare_ties", "della", "della_linear")
            for density in (0.2, 0.7)
            for rescale in (False, True)
        ),
        *(Draw(method, 0.6, models=2) for method in ("dare_linear", "dare_ties", "della", "della_linear")),
    )
}
