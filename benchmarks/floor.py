"""The least that a merge can do, as a process of its own: read every byte of the inputs, write and sync one output.

    python -m benchmarks.floor OUT INPUT…

The output has the size of the first input. No arithmetic, no torch. Prints the disk's speed as JSON, in bytes a second.
"""

import json
import os
import sys
import time
from pathlib import Path

_BUFFER = 8 << 20


def copy_once(out: Path, inputs: list[Path]) -> dict[str, float]:
    """Returns bytes a second of reading, and of writing and syncing."""
    buffer = memoryview(bytearray(_BUFFER))
    read = written = 0
    writing, began = 0.0, time.perf_counter()
    with out.open("wb", buffering=0) as sink:
        for number, file in enumerate(inputs):
            with file.open("rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    read += count
                    if number == 0:
                        start = time.perf_counter()
                        written += _write(sink.fileno(), buffer[:count])
                        writing += time.perf_counter() - start
        start = time.perf_counter()
        os.fsync(sink.fileno())
        writing += time.perf_counter() - start
    return {"read": read / (time.perf_counter() - began - writing), "write": written / writing}


def _write(descriptor: int, data: memoryview) -> int:
    size = len(data)
    while data:
        data = data[os.write(descriptor, data) :]
    return size


if __name__ == "__main__":
    target, *sources = map(Path, sys.argv[1:])
    print(json.dumps(copy_once(target, sources)))
