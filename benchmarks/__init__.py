"""Figures that anyone can repeat: `python -m benchmarks.NAME` prints a table, `--json PATH` writes it as well."""

import os

# before torch is imported: threads that spin while they wait make a shared machine ten times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
