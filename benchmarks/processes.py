"""A process, measured from outside: seconds from start to end, and the memory it took."""

import os
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.kit.bytecode import inherit

#: seconds between two looks at a process; a look takes 30 µs
_INTERVAL = 0.005
_LAST_WORDS = 2000


@dataclass(frozen=True)
class Usage:
    """What a process took.

    Attributes:
        seconds: from its start to its end.
        own_bytes: peak of the memory that is its own: anonymous and shared memory, not the pages of mapped files, which
            the system takes back when it needs them.
        resident_bytes: peak of everything that was resident, mapped files as well.
    """

    seconds: float
    own_bytes: int
    resident_bytes: int


def run(command: Sequence[str | Path], log: Path) -> Usage:
    """Run a command to its end, its output in `log`.

    The threads of its libraries are left as they are by default, whatever this process has set for its own, and what it
    imports stays compiled, so that only the first run of all pays for that.

    Raises:
        RuntimeError: the command failed; the end of its output is in the message.
    """
    environment = inherit({name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"})
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        peaks = [0, 0]
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - began
        ended.set()
        watcher.join()
    if code:
        words = log.read_text(errors="replace")[-_LAST_WORDS:]
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {code}:\n{words}")
    return Usage(seconds, *peaks)


def _watch(pid: int, peaks: list[int], ended: threading.Event) -> None:
    status = Path(f"/proc/{pid}/status")
    while not ended.wait(_INTERVAL):
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
        peaks[0] = max(peaks[0], sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0))
        peaks[1] = max(peaks[1], sizes.get("VmHWM", 0))


def evict(files: Iterable[Path]) -> None:
    """Make the system forget what it holds of these files, so that the next reader goes to the disk."""
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(files: Iterable[Path]) -> None:
    """Read the files, so that the next reader finds them in memory."""
    buffer = bytearray(8 << 20)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def sync(folder: Path) -> None:
    """Force every file under `folder` to disk."""
    for file in folder.rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
