"""Where Temper differs on purpose from what mergekit does with a recipe: docs/parity.md lists all of it."""

import json
from pathlib import Path

import pytest
from torch import Tensor

from optimizer.errors import RecipeError
from tests.parity.cases import BASE, Case, weighted, write
from tests.parity.compare import TOLERANCE, largest, load
from tests.parity.conftest import Bench
from tests.parity.test_vocabulary import vocabulary

FRANKENMERGE = Case(
    "beyond: more layers than the configuration has types for",
    """
merge_method: passthrough
dtype: float32
slices:
  - sources: [{model: POOL/a, layer_range: [0, 3]}]
  - sources: [{model: POOL/b, layer_range: [1, 6]}]
""",
    "typed-depths",
)
NEOX = Case("beyond: GPT-NeoX", write("task_arithmetic", weighted(0.6, 0.3), **BASE), "gpt-neox")
NEW_TOKEN = Case(
    "beyond: a token that nobody has",
    write(
        "task_arithmetic",
        weighted(0.6, 0.3),
        **BASE,
        tokenizer={
            "source": "base",
            "tokens": {"<|new|>": {"source": {"kind": "model_token", "model": "POOL/a", "token": "<|tool|>"}}},
        },
    ),
    "vocabularies",
)
TWICE = Case(
    "beyond: two layers of one model",
    """
merge_method: linear
dtype: float32
slices:
  - sources:
      - {model: POOL/a, layer_range: [0, 2], parameters: {weight: 0.25}}
      - {model: POOL/a, layer_range: [2, 4], parameters: {weight: 0.75}}
""",
)
REFUSED = [
    Case("refused: unknown parameter", write("slerp", {"a": {}}, **BASE, parameters={"t": 0.5, "embed_slerp": True})),
    Case("refused: unknown key", write("linear", weighted(0.5, 0.5), normalise=False)),
    Case("refused: shared parameter of a model", write("ties", weighted(0.5, 0.4, normalize=False), **BASE)),
    Case("refused: filter outside a list", write("slerp", {"a": {}}, **BASE, parameters={"t": {"value": 0.5}})),
    Case("refused: t beyond the models", write("slerp", {"a": {}}, **BASE, parameters={"t": 1.5})),
    Case("refused: density above 1", write("ties", weighted(0.5, 0.4, density=1.5), **BASE)),
    Case("refused: weights that add up to nothing", write("linear", weighted(0.5, -0.5))),
]


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding in float32."""
    return largest(found.double() - expected.double()) <= TOLERANCE * largest(expected)


@pytest.mark.parametrize("case", [FRANKENMERGE])
def test_layers_that_mergekit_cannot_configure(case: Case, bench: Bench) -> None:
    assert bench.errors[case.name]
    ours, a, b = load(bench.tempers(case)), load(bench.pool(case) / "a"), load(bench.pool(case) / "b")
    config = json.loads((bench.tempers(case) / "config.json").read_text())
    assert config["num_hidden_layers"] == len(config["layer_types"]) == 8
    for layer in range(8):
        source, number = (a, layer) if layer < 3 else (b, layer - 2)
        own = {name: tensor for name, tensor in ours.items() if f"layers.{layer}." in name}
        assert own
        assert all(tensor.equal(source[name.replace(f".{layer}.", f".{number}.")]) for name, tensor in own.items())


@pytest.mark.parametrize("case", [NEOX])
def test_an_architecture_that_mergekit_cannot_read(case: Case, bench: Bench) -> None:
    assert bench.errors[case.name]
    ours, base, a, b = (load(folder) for folder in (bench.tempers(case), *folders(case, bench, "base", "a", "b")))
    assert ours.keys() == base.keys()
    assert all(close(ours[n], base[n] + 0.6 * (a[n] - base[n]) + 0.3 * (b[n] - base[n])) for n in base)


@pytest.mark.parametrize("case", [NEW_TOKEN])
def test_a_token_that_no_model_has(case: Case, bench: Bench) -> None:
    assert bench.errors[case.name]
    ours, (a,) = bench.tempers(case), folders(case, bench, "a")
    row = load(ours)["model.embed_tokens.weight"][vocabulary(ours)["<|new|>"]]
    assert close(row, load(a)["model.embed_tokens.weight"][vocabulary(a)["<|tool|>"]])


@pytest.mark.parametrize("case", [TWICE])
def test_a_model_twice_in_a_slice(case: Case, bench: Bench) -> None:
    assert bench.errors[case.name]
    ours, a = load(bench.tempers(case)), load(bench.pool(case) / "a")
    name = "model.layers.{}.mlp.up_proj.weight"
    assert close(ours[name.format(1)], 0.25 * a[name.format(1)] + 0.75 * a[name.format(3)])


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_temper_refuses_what_mergekit_takes_in_silence(case: Case, bench: Bench) -> None:
    assert load(bench.peers(case))
    with pytest.raises(RecipeError):
        bench.tempers(case)


def folders(case: Case, bench: Bench, *names: str) -> list[Path]:
    """The folders of these models."""
    return [bench.pool(case) / name for name in names]
