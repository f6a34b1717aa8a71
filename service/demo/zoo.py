"""The tiny zoo: a base, an expert of gems, an expert of herbs and an aligned model, trained here in minutes.

`python -m service.demo.zoo` builds it (once; it is cached) and prints how every model does on unseen prompts.
"""

import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import TaskID, TimeElapsedColumn
from rich.table import Table
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import datagen.prompts
from datagen.taxonomy import load
from service.demo.curriculum import Lesson, curriculum
from service.demo.exam import examine_folder
from service.demo.training import batches, encode, train, train_tokenizer

#: (model, step, steps)
Progress = Callable[[str, int, int], None]

_TAXONOMY = Path(datagen.prompts.__file__).parent / "taxonomies" / "toy.yaml"
_SEED = 0
_THREADS = 4
_SOURCES = ("words.py", "language.py", "curriculum.py", "training.py", "zoo.py")


@dataclass(frozen=True)
class Zoo:
    """Checkpoint folders of the four models, all of one architecture with one tokenizer."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def aligned(self) -> Path:
        return self.folder / "chat"

    @property
    def experts(self) -> dict[str, Path]:
        """The domain experts by their topic."""
        return {"gems": self.folder / "gems", "herbs": self.folder / "herbs"}

    @property
    def models(self) -> dict[str, Path]:
        """All four, by name, the base first."""
        return {"base": self.base, **self.experts, "chat": self.aligned}


def _version() -> str:
    """A hash of everything that decides what the models learn: a change of the code builds a new zoo."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in (*(here / name for name in _SOURCES), Path(datagen.prompts.__file__), _TAXONOMY):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def zoo_folder(cache: Path | None = None) -> Path:
    """Where the zoo of this version lies or will lie.

    Under `cache`, by default `$TEMPER_CACHE`, else `temper` in the user's cache folder.
    """
    if cache is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = Path(os.environ.get("TEMPER_CACHE") or home / "temper")
    return cache / "zoo" / _version()


def build_zoo(cache: Path | None = None, *, progress: Progress | None = None) -> Zoo:
    """The zoo, built if it is not cached yet.

    It is built in a folder beside its place and moved there whole, so a zoo that exists is complete; of two processes
    that build at once the first to finish wins.
    """
    folder = zoo_folder(cache)
    if folder.is_dir():
        return Zoo(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with _own_torch():
            _build(building, progress)
        building.chmod(0o755)
        try:
            building.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Zoo(folder)


@contextmanager
def _own_torch() -> Iterator[None]:
    """Leave the caller's random state and thread count as they were.

    Matrices this small gain nothing from more than a few threads, and lose much where many cores wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, _THREADS))
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def _build(folder: Path, progress: Progress | None) -> None:
    lessons = curriculum({category.id: category for category in load("toy").categories})
    tokenizer = _tokenizer(lessons["base"])
    weights = None
    for name, lesson in lessons.items():
        model = _new_model(tokenizer)
        if weights is not None:
            model.load_state_dict(weights)
        rng = random.Random(f"{name} {_SEED}")
        made = batches(encode(tokenizer, lesson.turns(rng)), lesson.schedule.batch, tokenizer.pad_token_id, rng)
        report = None if progress is None else lambda step, steps, name=name: progress(name, step, steps)
        train(model, made, lesson.schedule, report)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        if name == "base":
            weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}


def _tokenizer(lesson: Lesson) -> PreTrainedTokenizerFast:
    turns = lesson.turns(random.Random(f"tokenizer {_SEED}"))[:6000]
    return train_tokenizer([text for turn in turns for text in (turn.user, turn.assistant)])


def _new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    torch.manual_seed(_SEED)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=256,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def main() -> None:
    """Build the zoo with a progress bar a model and print every model's marks."""
    console = Console()
    with RichProgress(*RichProgress.get_default_columns(), TimeElapsedColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, step: int, steps: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=steps)
            bars.update(tasks[name], completed=step)

        zoo = build_zoo(progress=show)
    table = Table(title=str(zoo.folder), title_justify="left")
    for column in ("model", "refusal", "compliance", *zoo.experts):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, path in zoo.models.items():
        table.add_row(name, *(f"{mark:.2f}" for mark in examine_folder(path).axes.values()))
    console.print(table)


if __name__ == "__main__":
    main()
