"""Recipes by what surrounds the method: slices, modules, stages, dtypes, levels of parameters."""

from tests.parity.cases import ABC, BASE, FILTERED, UNEVEN, Case, weighted, write

SLICES = [
    Case(
        "frankenmerge",
        """
merge_method: passthrough
dtype: float32
slices:
  - sources: [{model: POOL/a, layer_range: [0, 3]}]
  - sources: [{model: POOL/b, layer_range: [1, 2]}]
  - sources: [{model: POOL/b, layer_range: [1, 6]}]
""",
        "depths",
    ),
    Case(
        "a layer twice, its outputs scaled",
        """
merge_method: passthrough
dtype: float32
slices:
  - sources: [{model: POOL/a, layer_range: [0, 3]}]
  - sources:
      - model: POOL/a
        layer_range: [2, 3]
        parameters:
          scale:
            - {filter: o_proj, value: 0.0}
            - {filter: down_proj, value: 0.25}
            - value: 1.0
  - sources: [{model: POOL/a, layer_range: [3, 4]}]
""",
    ),
    Case(
        "slerp of layers at different depths",
        """
merge_method: slerp
base_model: POOL/base
dtype: float32
parameters:
  t: [0.2, 0.8]
slices:
  - sources:
      - {model: POOL/base, layer_range: [0, 3]}
      - {model: POOL/b, layer_range: [3, 6]}
  - sources:
      - {model: POOL/b, layer_range: [2, 3]}
      - {model: POOL/base, layer_range: [3, 4]}
    parameters:
      t:
        - {filter: mlp, value: [0.1, 0.6]}
        - {filter: lm_head, value: 0.9}
        - value: [0.3, 0.4]
""",
        "depths",
    ),
    Case(
        "another base and other models in every slice",
        """
merge_method: task_arithmetic
base_model: POOL/base
dtype: float32
parameters: {weight: 0.4, lambda: [1.0, 0.5]}
slices:
  - sources:
      - {model: POOL/base, layer_range: [0, 2]}
      - {model: POOL/c, layer_range: [1, 3]}
      - {model: POOL/a, layer_range: [0, 2], parameters: {weight: [0.1, 0.9]}}
  - base_model: POOL/a
    sources:
      - {model: POOL/c, layer_range: [2, 4]}
      - {model: POOL/a, layer_range: [2, 4]}
      - {model: POOL/b, layer_range: [1, 3], parameters: {weight: [{filter: norm, value: 2.0}]}}
    parameters: {lambda: 0.8}
""",
    ),
    Case(
        "filters see the number of the layer where it comes from",
        """
merge_method: linear
dtype: float32
slices:
  - sources:
      - model: POOL/a
        layer_range: [2, 4]
        parameters: {weight: [{filter: layers.2., value: 0.9}, {filter: layers.3., value: 0.2}, {value: 0.5}]}
      - model: POOL/b
        layer_range: [0, 2]
        parameters: {weight: [{filter: layers.0., value: 0.3}, {filter: layers.2., value: 0.8}, {value: 0.6}]}
""",
    ),
    Case(
        "shared filters see the number of the layer in the result",
        """
merge_method: task_arithmetic
base_model: POOL/base
dtype: float32
parameters:
  weight: 0.5
  lambda: [{filter: layers.0., value: 0.9}, {filter: layers.2., value: 0.2}, {value: 0.6}]
slices:
  - sources: [{model: POOL/base, layer_range: [2, 4]}, {model: POOL/b, layer_range: [2, 4]}]
""",
    ),
    Case(
        "ties in slices, gradients start anew in each",
        """
merge_method: ties
base_model: POOL/base
dtype: float32
parameters: {weight: 1.0}
slices:
  - sources:
      - {model: POOL/base, layer_range: [0, 1]}
      - {model: POOL/a, layer_range: [0, 1], parameters: {density: [0.2, 0.6]}}
      - {model: POOL/c, layer_range: [2, 3], parameters: {density: 0.5}}
  - sources:
      - {model: POOL/base, layer_range: [1, 4]}
      - {model: POOL/a, layer_range: [1, 4], parameters: {density: [0.2, 0.6]}}
      - {model: POOL/b, layer_range: [1, 4], parameters: {density: 0.4}}
""",
    ),
    Case(
        "norm and head of as many models as the first slice has",
        """
merge_method: linear
dtype: float32
slices:
  - sources: [{model: POOL/a, layer_range: [0, 2], parameters: {weight: 1}}]
  - sources:
      - {model: POOL/b, layer_range: [2, 4], parameters: {weight: 0.25}}
      - {model: POOL/c, layer_range: [2, 4], parameters: {weight: 0.75}}
""",
    ),
    Case(
        "modules with models",
        """
merge_method: linear
dtype: float32
modules:
  default:
    models:
      - {model: POOL/a, parameters: {weight: 0.3}}
      - {model: POOL/b}
    parameters: {weight: 0.6}
parameters: {weight: 0.1, normalize: false}
""",
    ),
    Case(
        "modules with slices",
        """
merge_method: passthrough
dtype: float32
modules:
  default:
    slices:
      - sources: [{model: POOL/a, layer_range: [0, 2]}]
      - sources: [{model: POOL/b, layer_range: [1, 4]}]
""",
    ),
]

LEVELS = [
    Case(
        "a filter that matches nothing falls through",
        write(
            "task_arithmetic",
            {
                "a": {"weight": [{"filter": "k_proj", "value": 0.9}]},
                "b": {"weight": [{"filter": "nowhere", "value": 9}]},
            },
            **BASE,
            parameters={"weight": [{"filter": "*", "value": 0.2}]},
        ),
    ),
    Case(
        "the first match wins",
        write(
            "slerp",
            {"a": {}},
            **BASE,
            parameters={"t": [{"filter": "proj", "value": 0.2}, {"filter": "mlp", "value": 0.9}, {"value": 0.7}]},
        ),
    ),
    Case(
        "embedding and head held fixed",
        write(
            "slerp",
            {"a": {}},
            **BASE,
            parameters={
                "t": [{"filter": "embed_tokens", "value": 0.0}, {"filter": "lm_head", "value": 1.0}, {"value": UNEVEN}]
            },
        ),
    ),
    Case("booleans as numbers", write("ties", weighted(0.5, 0.4, density=0.5), **BASE, parameters={"normalize": 0.0})),
    Case(
        "filters of a boolean",
        write(
            "ties",
            weighted(0.5, 0.4, density=0.5),
            **BASE,
            parameters={"normalize": [{"filter": "mlp", "value": False}, {"value": True}]},
        ),
    ),
    Case("tied head", write("ties", weighted(FILTERED, UNEVEN, density=0.4), **BASE), "llama-tied"),
    Case("some heads tied", write("task_arithmetic", weighted(0.4, 0.3), **BASE), "heads"),
    Case("experts", write("task_arithmetic", weighted(FILTERED, UNEVEN, 0.3), **BASE), "mixtral"),
    Case("experts averaged", write("linear", weighted(0.4, UNEVEN)), "mixtral"),
]

DTYPES = [
    Case("inputs of three dtypes", write("task_arithmetic", weighted(0.4, 0.3), **BASE), "mixed"),
    Case(
        "float64", write("ties", weighted(0.4, 0.3, density=0.4), **{**BASE, "dtype": "float64"}, out_dtype="float32")
    ),
    Case("float64 stored", write("slerp", {"a": {}}, **{**BASE, "dtype": "float64"}, parameters={"t": 0.3})),
    *(
        Case(f"{out} {method}", write(method, models, **BASE, out_dtype=out, parameters=shared), "llama-bf16", ulps=1)
        for out in ("bfloat16", "float16")
        for method, models, shared in (
            ("task_arithmetic", weighted(0.6, -0.3, 0.7), {}),
            ("slerp", {"a": {}}, {"t": UNEVEN}),
            ("nuslerp", weighted(0.3, 0.6), {}),
            ("multislerp", weighted(0.3, 0.6, 0.4), {}),
            ("karcher", ABC, {}),
            ("model_stock", ABC, {}),
            ("nearswap", {"a": {}}, {"t": 0.002}),
            ("arcee_fusion", {"a": {}}, {}),
            ("ram", ABC, {}),
            ("della_linear", weighted(0.6, 0.3), {}),
        )
    ),
    Case("bfloat16 linear", write("linear", weighted(0.6, 0.3), out_dtype="bfloat16"), "llama-bf16", ulps=1),
    Case("bfloat16 passthrough", write("passthrough", {"a": {}}, out_dtype="bfloat16"), "llama-bf16"),
]

ADAPTERS = [
    Case("a base with an adapter", write("passthrough", {"base+POOL/all": {}}), "adapters"),
    Case(
        "adapters beside a model",
        write(
            "task_arithmetic",
            {
                "base+POOL/all": {"weight": 0.7},
                "a": {"weight": UNEVEN},
                "base+POOL/some": {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 1.0}]},
            },
            **BASE,
        ),
        "adapters",
    ),
    Case("ties of adapters", write("ties", {"base+POOL/some": {"weight": 1, "density": 0.5}}, **BASE), "adapters"),
]

STAGES = [
    Case(
        "a stage uses another",
        """
name: first
merge_method: linear
dtype: float32
models:
  - {model: POOL/a, parameters: {weight: 0.4}}
  - {model: POOL/b, parameters: {weight: 0.6}}
---
merge_method: slerp
base_model: POOL/c
dtype: float32
models: [{model: first}, {model: POOL/c}]
parameters: {t: [0.2, 0.7]}
""",
    ),
    Case(
        "stages out of order",
        """
merge_method: linear
dtype: float32
models:
  - {model: second, parameters: {weight: [0.5, 0.2]}}
  - {model: POOL/c, parameters: {weight: 0.5}}
---
name: second
merge_method: task_arithmetic
base_model: first
dtype: float32
models: [{model: POOL/b, parameters: {weight: 0.3}}]
---
name: first
merge_method: slerp
base_model: POOL/base
dtype: float32
models: [{model: POOL/a}]
parameters: {t: 0.4}
""",
    ),
]

SHAPES = [
    Case(f"{kind}: {case.name}", case.recipe, case.pool, case.ulps)
    for kind, cases in (
        ("slices", SLICES),
        ("levels", LEVELS),
        ("dtypes", DTYPES),
        ("adapters", ADAPTERS),
        ("stages", STAGES),
    )
    for case in cases
]
