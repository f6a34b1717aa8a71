"""Recipes whose result follows from the inputs: Temper and mergekit must agree on every tensor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Case:
    """A mergekit recipe; in its text `POOL/a` is model a of the pool.

    `ulps`: the result is in bfloat16 or float16, and one rounding may differ.
    """

    name: str
    recipe: str
    pool: str = "llama"
    ulps: int = 0

    def text(self, pool: Path) -> str:
        """The recipe for models that lie in `pool`."""
        return self.recipe.replace("POOL", str(pool))


def write(method: str, models: Mapping[str, Mapping[str, Any]], **rest: Any) -> str:
    """A recipe with the section `models:`, computed in float32 unless `rest` says otherwise."""
    listed = [{"model": f"POOL/{name}", **({"parameters": dict(own)} if own else {})} for name, own in models.items()]
    return yaml.safe_dump({"merge_method": method, "models": listed, "dtype": "float32", **rest}, sort_keys=False)


BASE = {"base_model": "POOL/base"}
A, AB, ABC = ({name: {} for name in names} for names in ("a", "ab", "abc"))
#: ends of a gradient that lie on no layer
UNEVEN = [0.1, 0.9, 0.4]
FILTERED = [
    {"filter": "self_attn", "value": [0.0, 0.5, 0.3, 0.7, 1.0]},
    {"filter": "mlp", "value": [1.0, 0.5, 0.7, 0.3, 0.0]},
    {"value": 0.5},
]


def weighted(*weights: Any, **each: Any) -> dict[str, dict[str, Any]]:
    """Models a, b, c with these weights; `each` are other parameters that all have."""
    return {name: {"weight": weight, **each} for name, weight in zip("abc", weights, strict=False)}


def averages() -> Iterator[Case]:
    yield Case("two", write("linear", weighted(1.0, 1.0)))
    yield Case("three", write("linear", weighted(0.7, 0.2, 0.4)))
    yield Case("not normalised", write("linear", weighted(0.7, 0.2, 0.4), parameters={"normalize": False}))
    yield Case("negative weight", write("linear", weighted(1.5, -0.4)))
    yield Case("base among the models", write("linear", {"base": {"weight": 0.5}, **weighted(0.3, 0.3)}, **BASE))
    yield Case("gradient", write("linear", weighted(UNEVEN, [1, 0])))
    yield Case("filters", write("linear", weighted(FILTERED, 0.5)))
    yield Case("independent models", write("linear", weighted(0.6, 0.4)), "qwen2")


def spheres() -> Iterator[Case]:
    for pool in ("llama", "qwen2"):
        for t in (0.0, 0.3, 1.0, UNEVEN, FILTERED):
            name = (
                {0.0: "0", 0.3: "0.3", 1.0: "1"}.get(t)
                if isinstance(t, float)
                else "list"
                if t is UNEVEN
                else "filters"
            )
            yield Case(f"slerp {name} {pool}", write("slerp", A, **BASE, parameters={"t": t}), pool)
        for flatten, rows in ((True, False), (False, False), (False, True)):
            shape = {"nuslerp_flatten": flatten, "nuslerp_row_wise": rows}
            for base in ({}, BASE):
                name = f"nuslerp {'flat' if flatten else 'rows' if rows else 'columns'}{' with base' if base else ''}"
                yield Case(f"{name} {pool}", write("nuslerp", weighted(0.3, 0.9), **base, parameters=shape), pool)
        for base in ({}, BASE):
            name = f"multislerp{' with base' if base else ''} {pool}"
            yield Case(f"{name} two", write("multislerp", weighted(0.3, 0.9), **base), pool)
            yield Case(f"{name} three", write("multislerp", weighted(0.3, 0.9, UNEVEN), **base), pool)
            raw = {"normalize_weights": False, "eps": 1e-6}
            yield Case(f"{name} raw", write("multislerp", weighted(0.3, 0.4), **base, parameters=raw), pool)
        yield Case(f"karcher two {pool}", write("karcher", AB), pool)
        yield Case(f"karcher three {pool}", write("karcher", ABC), pool)
        yield Case(f"karcher one step {pool}", write("karcher", ABC, parameters={"max_iter": 1}), pool)
    yield Case("slerp base listed last", write("slerp", {"a": {}, "base": {}}, **BASE, parameters={"t": 0.3}))
    yield Case("slerp base listed first", write("slerp", {"base": {}, "a": {}}, **BASE, parameters={"t": 0.3}))
    yield Case("nuslerp weights that cancel", write("nuslerp", weighted(0.5, -0.5)))
    yield Case("nuslerp gradient", write("nuslerp", weighted([0, 1], [1, 0])))
    yield Case("multislerp of one", write("multislerp", weighted(0.3), **BASE))
    yield Case("karcher with base", write("karcher", AB, **BASE))


def arithmetic() -> Iterator[Case]:
    yield Case("one", write("task_arithmetic", weighted(0.6), **BASE))
    yield Case("three", write("task_arithmetic", weighted(0.6, -0.3, 1.2), **BASE))
    yield Case("nothing", write("task_arithmetic", weighted(0.0, 0.0), **BASE))
    yield Case("lambda", write("task_arithmetic", weighted(0.6, 0.5), **BASE, parameters={"lambda": 0.7}))
    yield Case("normalised", write("task_arithmetic", weighted(0.6, 0.9), **BASE, parameters={"normalize": True}))
    unused = weighted(0.6, 0.5, density=0.3)
    yield Case("density without use", write("task_arithmetic", unused, **BASE, parameters={"int8_mask": True}))
    yield Case("weights that cancel", write("task_arithmetic", weighted(1, -1), **BASE, parameters={"normalize": 1.0}))
    yield Case("gradient and filters", write("task_arithmetic", weighted(UNEVEN, FILTERED), **BASE))
    yield Case("weight of all", write("task_arithmetic", AB, **BASE, parameters={"weight": UNEVEN}))
    listed = {"a": {"weight": 0.5}, "base": {"weight": 3.0}, "b": {"weight": 0.2}}
    yield Case("base among the models", write("task_arithmetic", listed, **BASE))
    for pool in ("llama-tied", "qwen2", "qwen3", "mistral", "gemma2", "phi3", "olmo2"):
        yield Case(f"family {pool}", write("task_arithmetic", weighted(FILTERED, UNEVEN, 0.3), **BASE), pool)


def sparse() -> Iterator[Case]:
    for density in (0.0, 1e-5, 0.3, 0.7, 1.0):
        yield Case(f"ties {density:g}", write("ties", weighted(0.6, 0.5, 0.4, density=density), **BASE))
    plain = weighted(0.6, 0.5, -0.4, density=0.4)
    yield Case("ties raw", write("ties", plain, **BASE, parameters={"normalize": False, "lambda": 0.8}))
    yield Case("ties int8_mask", write("ties", plain, **BASE, parameters={"int8_mask": True}))
    yield Case("ties rescaled", write("ties", plain, **BASE, parameters={"rescale": True}))
    yield Case("breadcrumbs rescaled", write("breadcrumbs", plain, **BASE, parameters={"rescale": True}))
    yield Case("ties of one", write("ties", weighted(0.6, density=0.2), **BASE))
    yield Case("ties gradients", write("ties", weighted(0.6, UNEVEN, density=[0.9, 0.2]), **BASE))
    for pool in ("qwen2", "llama-tied", "gemma2"):
        yield Case(f"ties filters {pool}", write("ties", weighted(FILTERED, 0.4, density=UNEVEN), **BASE), pool)
    for method in ("breadcrumbs", "breadcrumbs_ties"):
        for density, gamma in ((0.5, 0.01), (0.7, 0.2), (0.9, 0.3), (1.0, 0.1), (0.0, 0.1)):
            models = weighted(0.6, 0.5, -0.4, density=density, gamma=gamma)
            yield Case(f"{method} {density:g} {gamma:g}", write(method, models, **BASE))
        yield Case(f"{method} defaults", write(method, weighted(0.6, 0.5), **BASE))
        yield Case(f"{method} normalised", write(method, plain, **BASE, parameters={"normalize": True, "lambda": 1.1}))
    for method in ("dare_linear", "dare_ties", "della", "della_linear"):
        yield Case(f"{method} all kept", write(method, weighted(0.6, 0.5, -0.4), **BASE))
        yield Case(f"{method} nothing kept", write(method, weighted(0.6, 0.5, density=0.0), **BASE))


def others() -> Iterator[Case]:
    for pool in ("llama", "qwen2"):
        for filter_wise in (False, True):
            shape = {"filter_wise": filter_wise}
            name = f"model_stock {'rows' if filter_wise else 'whole'} {pool}"
            yield Case(f"{name} two", write("model_stock", AB, **BASE, parameters=shape), pool)
            yield Case(f"{name} three", write("model_stock", ABC, **BASE, parameters=shape), pool)
        for top in (0.0, 0.1, 0.6, 1.0):
            yield Case(f"sce {top:g} {pool}", write("sce", ABC, **BASE, parameters={"select_topk": top}), pool)
        for t in (0.0, 0.002, UNEVEN):
            name = "list" if t is UNEVEN else f"{t:g}"
            yield Case(f"nearswap {name} {pool}", write("nearswap", A, **BASE, parameters={"t": t}), pool)
        yield Case(f"arcee_fusion {pool}", write("arcee_fusion", A, **BASE), pool)
        yield Case(f"ram {pool}", write("ram", ABC, **BASE), pool)
        yield Case(f"ram epsilon {pool}", write("ram", ABC, **BASE, parameters={"epsilon": 1e-3}), pool)
        yield Case(f"ramplus_tl {pool}", write("ramplus_tl", ABC, **BASE), pool)
        changed = {"epsilon": 1e-3, "r": 0.5, "alpha": 2.0}
        yield Case(f"ramplus_tl changed {pool}", write("ramplus_tl", ABC, **BASE, parameters=changed), pool)
    yield Case("sce of one", write("sce", A, **BASE, parameters={"select_topk": 0.5}))
    yield Case("sce int8_mask", write("sce", AB, **BASE, parameters={"int8_mask": True, "select_topk": 0.4}))
    yield Case("passthrough", write("passthrough", A))
    yield Case(
        "passthrough scale", write("passthrough", {"a": {"scale": [{"filter": "o_proj", "value": 0.0}, {"value": 1}]}})
    )


def families() -> Iterator[tuple[str, Iterator[Case]]]:
    yield "linear", averages()
    yield "sphere", spheres()
    yield "arithmetic", arithmetic()
    yield "sparse", sparse()
    yield "other", others()


METHODS = [
    Case(f"{family}: {case.name}", case.recipe, case.pool, case.ulps) for family, own in families() for case in own
]
