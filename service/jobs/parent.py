"""A child that must not outlive its parent: `temper serve` and `temper run` keep their worker this way."""

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """End this process as soon as `parent`, which started it, is gone, even by SIGKILL.

    The kernel does it on Linux. Elsewhere, and in any case, the end of standard input does: the parent holds the other
    end of that pipe and never writes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)
    threading.Thread(target=_watch_pipe, name="parent", daemon=True).start()


def _watch_pipe() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
