"""`temper serve` as a child process with a home folder of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from datagen.errors import TemperError

START_SECONDS = 60.0
STOP_SECONDS = 20.0


class ServerError(TemperError):
    """The service did not come up."""


class Server:
    """The service on a free port of the loopback, in a session of its own so that it can outlive its parent."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.log = home / "serve.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the service and wait until it answers.

        Raises:
            ServerError: it ended, or is not ready in time.
        """
        # the service is the demo's own: settings of another one in this shell are not for it
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TEMPER_")}
        command = [sys.executable, "-m", "service.cli", "serve", "--home", str(self.home), "--port", str(self._port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._ready():
                return
            time.sleep(0.1)
        self.stop()
        raise ServerError("the service did not become ready", mend=f"its log is {self.log}")

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Ask it to stop, then make it; a server that does not run is fine."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
