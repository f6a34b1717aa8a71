"""The least that a merge can do, as a process of its own: read every byte of the inputs, write and sync one output.

    python -m benchmarks.floor OUT INPUT…

The output has the size of the first input. No arithmetic, no torch.
"""

import os
import sys
from pathlib import Path

_BUFFER = 8 << 20


def copy_once(out: Path, inputs: list[Path]) -> None:
    buffer = memoryview(bytearray(_BUFFER))
    with out.open("wb", buffering=0) as sink:
        for number, file in enumerate(inputs):
            with file.open("rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    left = buffer[:count] if number == 0 else buffer[:0]
                    while left:
                        left = left[sink.write(left) :]
        os.fsync(sink.fileno())


if __name__ == "__main__":
    target, *sources = map(Path, sys.argv[1:])
    copy_once(target, sources)
