"""`temper serve` whose embedded worker runs short stages: `python -m tests.service.jobs.short_server`."""

import os
import sys

from service.app import serve
from service.kit import logs
from service.settings import Settings

if __name__ == "__main__":
    logs.configure("text")
    serve(Settings(), [sys.executable, "-m", "tests.service.jobs.short_worker", str(os.getpid())])
