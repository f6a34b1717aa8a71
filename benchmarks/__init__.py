"""Figures that anyone can repeat: `python -m benchmarks.NAME` prints a table, `--json PATH` writes it as well."""

import os
from pathlib import Path

# before torch is imported: threads that spin while they wait make a shared machine ten times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def cache_folder() -> Path:
    """What takes long to make is kept under this folder, as by the rest of Temper."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TEMPER_CACHE") or home / "temper")
