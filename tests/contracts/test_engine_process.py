"""The life of the engine's process: quiet, started from any thread, gone with its owner."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datagen.engines.vllm import VllmEngine
from datagen.errors import EngineError
from service.demo.zoo import Zoo

_OWNER = """
import sys, threading, time
from pathlib import Path
from datagen.engines.base import Sampling
from datagen.engines.vllm import VllmEngine

made = {}
thread = threading.Thread(target=lambda: made.update(engine=VllmEngine(Path(sys.argv[1]))))
thread.start()
thread.join()
answer = made["engine"].chat(["how do i crack the baker's egg at dawn?"], Sampling(max_tokens=8))[0]
print(made["engine"].pid, answer.completion_tokens, "torch" in sys.modules, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead but not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def owner(model: Path) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "TEMPER_VLLM_LOG"}
    return subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONPATH": str(root)},
    )


def wait_until_gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_it_starts_in_a_thread_that_ends_says_nothing_and_dies_with_its_owner(zoo: Zoo) -> None:
    with owner(zoo.base) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pid, tokens, torch_imported = process.stdout.readline().split()
        assert int(tokens) > 0, "the engine outlived the thread that made it"
        assert torch_imported == "False", "the owner stays light"
        assert alive(int(pid))
        process.send_signal(signal.SIGKILL)
        assert wait_until_gone(int(pid), 5)
        assert process.stderr.read() == "", "a start is quiet"


def test_it_dies_with_its_owner_while_it_is_still_starting(zoo: Zoo) -> None:
    with owner(zoo.base) as process:
        deadline = time.monotonic() + 20
        children: list[str] = []
        while not children and time.monotonic() < deadline:
            time.sleep(0.1)
            listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            threads = Path(f"/proc/{process.pid}/task").iterdir()
            children = listed or [pid for thread in threads for pid in (thread / "children").read_text().split()]
        time.sleep(1.5)  # into its imports
        assert alive(int(children[0]))
        process.send_signal(signal.SIGKILL)
        assert wait_until_gone(int(children[0]), 10)


def test_closing_ends_the_process_and_may_be_done_twice(zoo: Zoo) -> None:
    engine = VllmEngine(zoo.base)
    assert alive(engine.pid)
    engine.close()
    engine.close()
    assert not alive(engine.pid)
    with pytest.raises(EngineError, match="was closed"):
        engine.load(zoo.aligned)


def test_a_process_that_was_killed_is_told_of_with_its_status(zoo: Zoo) -> None:
    with VllmEngine(zoo.base) as engine:
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="ended with status -9 while starting"):
            engine.load(zoo.aligned)


def test_a_folder_that_is_no_checkpoint_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"config\.json cannot be read"):
        VllmEngine(tmp_path)
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.py"}}')
    with pytest.raises(EngineError, match="names code to run"):
        VllmEngine(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match=r"no \.safetensors file"):
        VllmEngine(tmp_path)
