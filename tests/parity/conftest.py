"""mergekit, run once for all recipes of the session, and Temper's merge of the same recipes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parity import pools
from tests.parity.cases import Case
from tests.parity.temper import merge

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("peer_driver.py")


@dataclass(frozen=True)
class Bench:
    """The session's recipes and what both sides made of them."""

    folder: Path
    errors: dict[str, str | None]

    def text(self, case: Case) -> str:
        """The recipe with the folders of its pool."""
        return case.text(self.pool(case))

    def pool(self, case: Case) -> Path:
        """The folder of the case's models."""
        return self.folder / "pools" / case.pool

    def out(self, case: Case, side: str) -> Path:
        """Where `side` writes its result."""
        return self.folder / side / _filename(case)

    def tempers(self, case: Case) -> Path:
        """Temper's result."""
        out = self.out(case, "temper")
        return out if out.exists() else merge(self.text(case), out)

    def peers(self, case: Case) -> Path:
        """mergekit's result; fails if there is none."""
        error = self.errors[case.name]
        assert error is None, f"mergekit failed: {error}\n{self.text(case)}"
        return self.out(case, "mergekit")


@pytest.fixture(scope="session")
def peer_python() -> Path:
    """An interpreter that has mergekit; installed into the user's cache folder if need be.

    Without it there is nothing to compare with, and the tests fail. TEMPER_NO_PEER=1 skips them.
    """
    if os.environ.get("TEMPER_NO_PEER") == "1":
        pytest.skip("TEMPER_NO_PEER is set")
    made = subprocess.run(
        ["make", "peer", f"BIN={Path(sys.executable).parent}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.fail(f"mergekit cannot be installed (`make peer`; TEMPER_NO_PEER=1 skips):\n{made.stdout}{made.stderr}")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TEMPER_CACHE") or home / "temper") / "peer/bin/python"


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest, peer_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """mergekit's results for the recipes of all tests that were collected."""
    found = (getattr(item, "callspec", None) for item in request.session.items)
    cases = {value.name: value for spec in found if spec for value in spec.params.values() if isinstance(value, Case)}
    own = Bench(tmp_path_factory.mktemp("parity"), {})
    for pool in sorted({case.pool for case in cases.values()}):
        pools.make(pool, own.folder / "pools" / pool)
    own.errors.update(_run_peer(peer_python, own, cases.values()))
    return own


def _run_peer(python: Path, bench: Bench, cases: Iterable[Case]) -> dict[str, str | None]:
    """How mergekit failed, by case; None where it did not."""
    jobs = []
    (bench.folder / "recipes").mkdir()
    for case in cases:
        recipe = bench.folder / "recipes" / f"{_filename(case)}.yaml"
        recipe.write_text(bench.text(case))
        tokenizer = any(bench.pool(case).glob("*/tokenizer.json"))
        out = str(bench.out(case, "mergekit"))
        jobs.append({"name": case.name, "recipe": str(recipe), "out": out, "seed": 1, "tokenizer": tokenizer})
    listed, results = bench.folder / "jobs.json", bench.folder / "results.json"
    listed.write_text(json.dumps(jobs))
    # without a base mergekit takes configuration and tokens from the models in the order of a set
    environment = {**os.environ, "PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [str(python), str(DRIVER), str(listed), str(results)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"mergekit's process failed:\n{done.stderr[-4000:]}")
    found: dict[str, str | None] = json.loads(results.read_text())
    return found


def _filename(case: Case) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in case.name)
