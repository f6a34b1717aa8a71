"""`temper worker` with short stages: `python -m tests.service.jobs.short_worker [PARENT [LANE]]`."""

import sys

from service.jobs.parent import die_with
from service.jobs.service import SHARED
from service.jobs.worker import Worker
from service.kit import logs
from service.settings import Settings
from tests.service.jobs.short_stages import STAGES

if __name__ == "__main__":
    parent = sys.argv[1] if len(sys.argv) > 1 else "-"
    if parent != "-":
        die_with(int(parent))
    logs.configure("text")
    Worker(Settings(), STAGES, lane=sys.argv[2] if len(sys.argv) > 2 else SHARED).run()
