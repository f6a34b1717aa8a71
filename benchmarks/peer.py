"""mergekit 0.1.5, run beside Temper as its users run it: `mergekit-yaml RECIPE OUT`, in its own environment.

`make peer` makes that environment, in the user's cache folder. Nothing of it is imported here.
"""

import time
from pathlib import Path

from benchmarks import cache_folder
from benchmarks.processes import Usage, run, sync

VERSION = "0.1.5"
#: the virtual environment with mergekit in it
PEER = cache_folder() / "peer"


def check_peer(environment: Path) -> None:
    """Raises SystemExit, with what to do, if there is no mergekit."""
    if not (environment / "bin" / "mergekit-yaml").is_file():
        raise SystemExit(f"no mergekit in {environment}; `make peer` installs it there")


def merge(environment: Path, recipe: Path, out: Path, log: Path) -> Usage:
    """Merge as mergekit does by default.

    It leaves its output to the system to write; the seconds until it is on the disk are counted, as they are for Temper
    and for the floor.
    """
    usage = run([environment / "bin" / "mergekit-yaml", recipe, out, "--no-copy-tokenizer"], log)
    return Usage(usage.seconds + _seconds_to_sync(out), usage.own_bytes, usage.resident_bytes)


def _seconds_to_sync(out: Path) -> float:
    began = time.perf_counter()
    sync(out)
    return time.perf_counter() - began
