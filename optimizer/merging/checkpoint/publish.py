"""A folder appears under its final name whole, or not at all. Imports no torch."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimizer.errors import CheckpointError


@contextmanager
def publishing(out: Path, needed: int = 0) -> Iterator[Path]:
    """A working folder beside `out`, which becomes `out` when the block ends without an error.

    Files are forced to disk before the rename. After an error the working folder is removed; after a kill or a power
    cut it stays as `.NAME.partial` and the next attempt to write `out` takes it over, which the lock on it allows only
    once its owner is gone.

    Args:
        needed: bytes that will be written; checked against the free space first.

    Raises:
        CheckpointError: `out` exists or cannot be created, another process writes it, or the disk is full.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists already", mend="choose another folder, or remove it")
    work = out.parent / f".{out.name}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _own(work, out)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error}", mend="choose another folder") from error
    try:
        free = shutil.disk_usage(work).free
        if needed > free:
            raise _full(out, f"{needed:,} bytes needed, {free:,} free")
        yield work
        for file in sorted(work.rglob("*")):
            _sync(file)
        _sync(work)
        os.rename(work, out)
        _sync(out.parent)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(out, error.strerror or "no space") from error
        raise
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _own(work: Path, out: Path) -> int:
    """Create or take over the working folder; returns the descriptor that holds its lock, emptied of leftovers."""
    while True:
        work.mkdir(exist_ok=True)
        lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise CheckpointError(
                f"{out}: another process is writing it", mend="wait for it, or choose another"
            ) from None
        # between mkdir and flock the folder may have been published or removed by its former owner
        if work.is_dir() and os.fstat(lock).st_ino == work.stat().st_ino:
            break
        os.close(lock)
    for leftover in work.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return lock


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(out: Path, found: str) -> CheckpointError:
    return CheckpointError(f"the disk of {out} is full: {found}", mend="free some space or choose another disk")
