"""Candidates written in place, each beside what moving its bytes alone would take on this machine in the same run.

    python -m benchmarks.candidate [--small] [--methods ties,slerp|all] [--no-vllm] [--peer] [--json PATH]

A candidate of task arithmetic over a base and three models reads 4 × 2 bytes a number (bfloat16 stacks) and writes 2
(bfloat16 parameters) or 4 (float32): 4.9 or 5.9 GB of 494 million numbers. The floor is that, divided by the bandwidth
of a copy, whose bytes are counted where they are read and where they are written. torch's operations one after the
other, a conversion of four rows, three interpolations and one rounding, reach a quarter to 45 % of that on two cores,
calling them included; a kernel that keeps the numbers in registers (`optimizer/merging/kernels.py`), about half.
40 % of the copy's bandwidth, a ratio of 2.5, is the target.

Copy and candidate are timed in turn, the best of several rounds each: whatever else runs slows down both. Every round
changes every coefficient. "First" rows are the facts and the dropping, paid once a job; "one group" is a candidate that
differs from the last in the MLP of one layer; vLLM's rows are the worker's own seconds, its packing of linear layers
for the CPU taken apart. With `--peer` mergekit makes the same candidate its own way, through the disk.
"""

import gc
import json
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks import peer
from benchmarks.checkpoints import POOLS, SMALL, Pool, Sizes, make
from benchmarks.merge import ENTRIES, recipe_of
from benchmarks.table import Row, arguments, show
from datagen.engines.vllm import VllmEngine
from optimizer.merging import vllm_worker
from optimizer.merging.checkpoint.compatibility import check_pool
from optimizer.merging.layout import Layout
from optimizer.merging.recipe import Coefficients, Recipe, recipe_to_dict, recipe_to_json
from optimizer.merging.resident import ResidentMerge

#: seconds for which a figure is repeated
_PATIENCE = 6.0
_COPIED = 128 << 20
_TASK = "task_arithmetic"


def main() -> None:
    parser = arguments("Candidates in place against the bandwidth of the memory.")
    parser.add_argument("--small", action="store_true", help="74 million numbers a model instead of 494 million")
    parser.add_argument("--methods", default="all", help="names with commas between them, or all")
    parser.add_argument("--no-vllm", action="store_true", help="leave the engine out")
    parser.add_argument("--peer", action="store_true", help=f"mergekit {peer.VERSION} makes candidates as well")
    parser.add_argument("--peer-folder", type=Path, default=peer.PEER, help="its virtual environment")
    parser.add_argument("--folder", type=Path, default=POOLS, help="checkpoints are made and kept here")
    options = parser.parse_args()
    names = list(ENTRIES) if options.methods == "all" else options.methods.split(",")
    if unknown := [name for name in names if name not in ENTRIES]:
        parser.error(f"no method {unknown[0]!r}, there are {', '.join(ENTRIES)}")
    if options.peer:
        peer.check_peer(options.peer_folder)
    sizes = SMALL if options.small else Sizes()
    pool = make(options.folder, 3, sizes.layers, vocabulary=sizes.vocabulary)
    bench = Bench(pool)
    rows = list(bench.task_arithmetic())
    for name in names:
        if name != _TASK:
            rows += bench.method(name)
    if not options.no_vllm:
        rows += in_vllm(pool, bench)
    if options.peer:
        rows += list(by_peer(pool, options, bench))
    facts = {
        "numbers": bench.numbers,
        "threads": torch.get_num_threads(),
        "copy_bytes_per_second": bench.copied,
        "share_of_copy": bench.share,
    }
    title = f"candidates of {bench.numbers / 1e6:,.0f} million numbers, copying at {bench.copied / 1e9:.1f} GB/s"
    show(title, rows, options.json, facts)


class Bench:
    """A pool, the copy's bandwidth, and what task arithmetic took.

    `share` is the bandwidth of task arithmetic over the copy's, by the parameters' dtype.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.layout: Layout = check_pool(pool.base, pool.models)
        self.copied = 0.0
        self.numbers = 0
        self.share: dict[str, float] = {}
        self.seconds = 0.0
        self._from = torch.ones(_COPIED // 4)
        self._to = torch.zeros_like(self._from)

    def task_arithmetic(self) -> Iterator[Row]:
        """Whole candidates and one group, for parameters of both widths."""
        for dtype in (torch.float32, torch.bfloat16):
            model, merge = self._resident(_TASK, dtype)
            self.numbers = sum(parameter.numel() for parameter in model.parameters())
            moved = self.numbers * (8 + dtype.itemsize)
            name = str(dtype).removeprefix("torch.")
            self.seconds, copied = self._in_turn(self._candidates(merge))
            self.share[name] = moved / self.seconds / copied
            yield Row(f"{_TASK}, {name}", self.seconds, moved / copied, _floor(moved, copied), target=2.5)
            group = f"layers.{self.layout.layers // 2}.mlp"
            part = moved * sum(p.numel() for n, p in model.named_parameters() if self._group(n) == group)
            part //= self.numbers
            seconds, copied = self._in_turn(self._candidates(merge, group))
            yield Row(f"{_TASK}, {name}, one group", seconds, part / copied, _floor(part, copied))

    def method(self, name: str) -> list[Row]:
        """A method's candidates, in bfloat16; the floor is task arithmetic's time."""
        _, merge = self._resident(name, torch.bfloat16)
        candidate = self._candidates(merge)
        first, seconds = _seconds(candidate), self._in_turn(candidate)[0]
        floor = "task arithmetic, bfloat16"
        return [
            Row(name, seconds, self.seconds, floor, target=4 if name == "ties" else None),
            Row(f"{name}, first", first, self.seconds, floor),
        ]

    def tables(self) -> Iterator[Tensor]:
        """Coefficients [models, groups], all of them new each time."""
        generator = torch.Generator().manual_seed(0)
        while True:
            yield 0.1 + 0.3 * torch.rand(len(self.pool.models), len(self.layout.groups), generator=generator)

    def _candidates(self, merge: ResidentMerge, group: str | None = None) -> Callable[[], None]:
        """Writes another candidate at every call; `group`: only there it differs."""
        count, tables = len(merge.models), self.tables()
        last = next(tables)[:count]

        def write() -> None:
            nonlocal last
            new = next(tables)[:count]
            if group is not None:
                at = self.layout.groups.index(group)
                last = last.clone()
                last[:, at] = new[:, at]
            merge.apply(new if group is None else last)

        if group is not None:
            write()
        return write

    def _in_turn(self, write: Callable[[], None]) -> tuple[float, float]:
        """(seconds of a candidate, bytes a second of a copy), each the best of rounds that take turns."""
        began = time.perf_counter()
        seconds: list[float] = []
        copying: list[float] = []
        while len(seconds) < 3 or time.perf_counter() - began < _PATIENCE:
            copying.append(_seconds(lambda: self._to.copy_(self._from)))
            seconds.append(_seconds(write))
        copied = 2 * _COPIED / min(copying)
        self.copied = max(self.copied, copied)
        return min(seconds), copied

    def _resident(self, name: str, dtype: torch.dtype) -> tuple[nn.Module, ResidentMerge]:
        gc.collect()  # the merge before this one
        model: nn.Module = AutoModelForCausalLM.from_pretrained(self.pool.base, dtype=dtype, local_files_only=True)
        models_of_it = dict(list(self.pool.models.items())[: ENTRIES[name].models])
        parameters = {key: value for key, value in ENTRIES[name].parameters.items() if key != "t"}
        merge = ResidentMerge(model, self.pool.base, models_of_it, self.layout, method=name, parameters=parameters)
        return model, merge

    def _group(self, name: str) -> str:
        return self.layout.group_of[name]


class TimedWorker(vllm_worker.MergeWorker):
    """Inside vLLM: says how long candidates took, and how much of that vLLM's packing did."""

    def candidates(self, tables: list[str], report: str) -> None:
        """Write these candidates in place; `report` gets [[seconds, seconds of packing], …] as JSON."""
        assert self._held is not None
        landed = self._held.landed
        pack, packing = landed.pack, [0.0]

        def timed(module: nn.Module) -> None:
            assert pack is not None
            packing[0] += _seconds(lambda: pack(module))

        landed.pack = None if pack is None else timed
        found = []
        for table in tables:
            packing[0] = 0.0
            found.append([_seconds(partial(self.load_coefficients, table)), packing[0]])
        landed.pack = pack
        Path(report).write_text(json.dumps({"seconds": found, "lost": len(self._held.lost)}))


def in_vllm(pool: Pool, bench: Bench) -> list[Row]:
    """Candidates in an engine of the same models; the floor is the resident merge's time, in bfloat16."""
    tables = bench.tables()
    recipes = [_recipe(pool, bench.layout, next(tables)) for _ in range(8)]
    texts = [json.dumps(recipe_to_dict(recipe)["coefficients"]) for recipe in recipes]
    with tempfile.TemporaryDirectory(dir=pool.base.parent) as scratch:
        home = Path(scratch)
        for file in pool.base.iterdir():
            os.link(file, home / file.name)
        _add_tokenizer(home)
        worker = f"{__name__ if __name__ != '__main__' else 'benchmarks.candidate'}.{TimedWorker.__name__}"
        with VllmEngine(home, worker_extension=worker, max_model_len=64, max_num_seqs=1) as engine:
            engine.call("hold", recipe_to_json(recipes[0]))
            engine.call("candidates", texts, str(home / "report"))
        report = json.loads((home / "report").read_text())
    if report["lost"]:
        raise SystemExit(f"{report['lost']} tensors have no known place in vLLM: these figures would be of reloading")
    floor = "the resident merge, bfloat16"
    return [
        Row(f"{_TASK} in vLLM", min(total - packing for total, packing in report["seconds"]), bench.seconds, floor, 2),
        Row("vLLM's packing for the CPU", min(packing for _, packing in report["seconds"]), bench.seconds, floor),
    ]


def by_peer(pool: Pool, options: Namespace, bench: Bench) -> Iterator[Row]:
    """mergekit has no merge in memory: a candidate is a process that writes a checkpoint."""
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        home = Path(scratch)
        text, _ = recipe_of(_TASK, pool)
        (home / "recipe.yaml").write_text(text)
        usage = peer.merge(options.peer_folder, home / "recipe.yaml", home / "out", home / "log")
        name = f"{_TASK}, mergekit {peer.VERSION}"
        yield Row(name, usage.seconds, bench.seconds, "the resident merge, bfloat16", own_bytes=usage.own_bytes)


def _recipe(pool: Pool, layout: Layout, table: Tensor) -> Recipe:
    rows = tuple(tuple(row) for row in table.double().tolist())
    return Recipe(pool.base, pool.models, _TASK, Coefficients(tuple(pool.models), layout.groups, rows))


def _add_tokenizer(folder: Path) -> None:
    """The least that an engine starts with."""
    words: Mapping[str, int] = {"<s>": 0, "</s>": 1}
    core = Tokenizer(models.WordLevel(dict(words), unk_token="<s>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)


def _floor(moved: float, copied: float) -> str:
    return f"{moved / 1e9:.2f} GB at {copied / 1e9:.1f} GB/s"


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
