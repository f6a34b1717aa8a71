"""The process that runs vLLM: `python -m datagen.engines.vllm_process PARENT_PID`, spoken to in lines of JSON.

A message is `start`, `load`, `call`, `chat` or `abort`. Each but `abort` is answered by one line, which may be an
`error`; lines of `progress` come before the answer to `chat`. Standard input closing, or the parent being gone, ends
the process whatever it does at that moment: there is no engine without its owner.
"""

import json
import os
import queue
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WATCH_SECONDS = 1.0
_PROGRESS_SECONDS = 0.2
_CPU_CACHE_LIMIT = 4 << 30
_CPU_STEP_TOKENS = 4096


class Owner:
    """The other end of the streams. Messages are read by a thread, so that the end of the owner is never missed."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever prints goes to the log, not between the replies
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._watch, daemon=True, name="owner").start()

    def next(self) -> dict[str, Any]:
        return self._messages.get()

    def has_message(self) -> bool:
        return not self._messages.empty()

    def reply(self, message: dict[str, Any]) -> None:
        self._replies.write(json.dumps(message) + "\n")
        self._replies.flush()

    def _watch(self) -> None:
        pending = b""
        while True:
            readable, _, _ = select.select([0], [], [], _WATCH_SECONDS)
            chunk = os.read(0, 1 << 20) if readable else b""
            # a copy of the pipe's end may live on in another child of the owner: ask for the owner itself as well
            if (readable and not chunk) or os.getppid() != self._parent:
                _leave()
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._messages.put(json.loads(line))


def _own_temporary_folder() -> None:
    """vLLM leaves files behind where it keeps temporary ones: let that be a folder that goes with this process."""
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="temper-vllm-")


def _leave() -> None:
    """End this process and all it started at once. It leads its own session, so the group holds nothing else."""
    shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


class Server:
    """Holds vLLM's engine and the renderer of the model it has."""

    def __init__(self, owner: Owner, settings: dict[str, Any]) -> None:
        # these imports take most of the start: the owner is watched before they begin
        from vllm import EngineArgs, LLMEngine, SamplingParams
        from vllm.platforms import current_platform

        from datagen.engines.fit import read_config
        from datagen.engines.rendering import Renderer

        _inspect_models_here()
        self._owner = owner
        self._make_renderer, self._make_params = Renderer, SamplingParams
        self._first = self._renderer = Renderer(Path(settings["model"]))
        config = read_config(Path(settings["model"]))
        self._room = settings["max_model_len"] or min(_text(config).get("max_position_embeddings") or 4096, 4096)
        arguments: dict[str, Any] = {
            "model": settings["model"],
            "dtype": _dtype(config) if settings["dtype"] == "auto" else settings["dtype"],
            "max_model_len": self._room,
            "max_num_seqs": settings["max_num_seqs"],
            "worker_extension_cls": settings["worker_extension"],
            "skip_tokenizer_init": True,  # tokens go in and out; every model brings its own tokenizer
            "trust_remote_code": False,
            "disable_log_stats": True,
            "load_format": "safetensors",
            "seed": 0,
        }
        if current_platform.is_cpu():
            # compiling costs more than it gains at the sizes a CPU can serve; small blocks share short prefixes; a
            # prompt prefilled in parts draws once a part, which vLLM undoes on GPUs only: seeds need whole prefills
            arguments |= {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}
            arguments["max_num_batched_tokens"] = max(self._room, _CPU_STEP_TOKENS)
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
                arguments["kv_cache_memory_bytes"] = _cache_bytes(config, self._room, settings["max_num_seqs"])
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments | settings["options"]))

    def load(self, model: str) -> None:
        renderer = self._make_renderer(Path(model))
        self._engine.collective_rpc("load_checkpoint", args=(model,))
        self._forget()
        self._renderer = renderer

    def call(self, method: str, args: Sequence[Any]) -> None:
        self._engine.collective_rpc(method, args=tuple(args))
        self._forget()
        self._renderer = self._first

    def chat(self, prompts: Sequence[str], sampling: dict[str, Any]) -> list[list[Any]] | None:
        """Fields of a `Completion` a prompt; None when aborted."""
        # what an answer is must not depend on what was asked before it: cached prefixes shift the last bits
        self._forget()
        answers: dict[str, list[Any]] = {}
        waiting: dict[str, str] = {}
        for index, prompt in enumerate(prompts):
            tokens = self._renderer.tokens(prompt)
            room = min(sampling["max_tokens"], self._room - len(tokens))
            if room < 1:
                answers[str(index)] = ["", "length", len(tokens), 0]
                continue
            key = self._engine.add_request(
                str(index), {"prompt_token_ids": tokens}, self._params(sampling, index, room)
            )
            waiting[str(index)] = key or str(index)
        return self._step(answers, waiting, len(prompts))

    def _step(self, answers: dict[str, list[Any]], waiting: dict[str, str], total: int) -> list[list[Any]] | None:
        reported = 0.0
        while self._engine.has_unfinished_requests():
            if self._owner.has_message() and self._owner.next()["op"] == "abort":
                self._engine.abort_request(list(waiting.values()), internal=True)
                return None
            for output in self._engine.step():
                if output.finished:
                    made = output.outputs[0]
                    tokens = list(made.token_ids)
                    waiting.pop(output.request_id, None)
                    reason = "length" if made.finish_reason == "length" else "stop"
                    prompt_tokens = len(output.prompt_token_ids or ())
                    answers[output.request_id] = [self._renderer.text(tokens), reason, prompt_tokens, len(tokens)]
            if time.monotonic() - reported > _PROGRESS_SECONDS:
                reported = time.monotonic()
                self._owner.reply({"progress": [len(answers), total]})
        self._owner.reply({"progress": [total, total]})
        return [answers[str(index)] for index in range(total)]

    def _params(self, sampling: dict[str, Any], index: int, max_tokens: int) -> Any:
        return self._make_params(
            max_tokens=max_tokens,
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            seed=sampling["seed"] + index if sampling["temperature"] > 0 else None,
            stop_token_ids=self._renderer.stop_tokens,
            detokenize=False,
        )

    def _forget(self) -> None:
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, which holds what other weights computed")


def _inspect_models_here() -> None:
    """vLLM looks at an architecture it has not seen before in a process of its own, so that CUDA stays untouched until
    it forks. Nothing forks here, and that process costs 10–20 s of imports on a machine's first start.
    """
    from vllm.model_executor.models import registry

    if hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = lambda inspect: inspect()


def _text(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _dtype(config: dict[str, Any]) -> str:
    found = config.get("dtype") or config.get("torch_dtype")
    return found if found in ("float32", "bfloat16", "float16") else "auto"


def _cache_bytes(config: dict[str, Any], length: int, sequences: int) -> int:
    """Room for every running sequence at its longest, 4 GiB at most, yet never less than one sequence needs."""
    text = _text(config)
    heads = text.get("num_attention_heads") or 1
    kv_heads = text.get("num_key_value_heads") or heads
    head = text.get("head_dim") or (text.get("hidden_size") or 1024) // heads
    token = 2 * (text.get("num_hidden_layers") or 1) * kv_heads * head * (4 if _dtype(config) == "float32" else 2)
    blocks = length + 64  # a sequence fills its last block in part
    return int(max(min(token * blocks * sequences, _CPU_CACHE_LIMIT), 2 * token * blocks, 64 << 20))


def _handle(server: Server, message: dict[str, Any]) -> dict[str, Any]:
    match message["op"]:
        case "load":
            server.load(message["model"])
        case "call":
            server.call(message["method"], message["args"])
        case "chat":
            completions = server.chat(message["prompts"], message["sampling"])
            return {"completions": completions} if completions is not None else {"error": "aborted"}
        case unknown:
            return {"error": f"the engine was sent {unknown!r}, expected load, call or chat"}
    return {}


def _failure(error: Exception, what: str) -> dict[str, Any]:
    """The reply that says so; our own errors say it themselves."""
    traceback.print_exc()
    message = getattr(error, "message", None) or f"{what}: {type(error).__name__}: {error}"
    return {"error": message, "mend": getattr(error, "mend", None)}


def main() -> None:
    """Serve the owner until it closes the stream."""
    _own_temporary_folder()
    owner = Owner(int(sys.argv[1]))
    message = owner.next()
    try:
        server = Server(owner, message)
    except Exception as error:  # noqa: BLE001 - the owner is told whatever went wrong
        owner.reply(_failure(error, f"vLLM did not start with {message['model']}"))
        _leave()
    owner.reply({})
    while True:
        message = owner.next()
        if message["op"] == "abort":  # its request had finished meanwhile
            continue
        try:
            owner.reply(_handle(server, message))
        except Exception as error:  # noqa: BLE001 - the owner is told whatever went wrong
            owner.reply(_failure(error, f"vLLM failed to {message['op']}"))


if __name__ == "__main__":
    main()
