"""Keeps compiled modules where the environment forbids to write them beside the sources (PYTHONDONTWRITEBYTECODE).

Images and test machines often set it, and then every start compiles everything anew: a second for the command line,
ten for a worker with torch. Compiled files go into the user's cache folder instead.
"""

import os
import sys
from pathlib import Path


def folder() -> Path:
    cache = (
        os.environ.get("TEMPER_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "temper"
    )
    return Path(cache) / "bytecode"


def keep() -> None:
    """For what this process imports from now on."""
    if sys.dont_write_bytecode and sys.pycache_prefix is None:
        sys.pycache_prefix, sys.dont_write_bytecode = str(folder()), False


def inherit(environment: dict[str, str]) -> dict[str, str]:
    """The environment for a child process that keeps them too."""
    child = dict(environment)
    if child.pop("PYTHONDONTWRITEBYTECODE", None):
        child.setdefault("PYTHONPYCACHEPREFIX", str(folder()))
    return child
