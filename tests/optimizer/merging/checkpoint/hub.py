"""A server that answers `huggingface_hub` from folders, as the Hub does: `folders[name][commit]`, and branches."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub(ThreadingHTTPServer):
    """`folders`: repository → commit → folder. `branches`: (repository, branch) → commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.folders: dict[str, Mapping[str, Path]] = {}
        self.branches: dict[tuple[str, str], str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, kind, revision = "/".join(parts[2:4]), *(parts[4:6] or ["revision", "main"])
        else:
            name, kind, revision = "/".join(parts[:2]), *parts[2:4]
        commit = self.server.branches.get((name, revision), revision)
        folder = self.server.folders.get(name, {}).get(commit)
        if folder is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif kind == "resolve":
            data = (folder / parts[4]).read_bytes()
            self._send(200, data, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'})
        elif kind == "tree":
            files = [
                {"type": "file", "oid": "0" * 40, "size": p.stat().st_size, "path": p.name} for p in files_of(folder)
            ]
            self._send(200, json.dumps(files).encode(), {})
        else:
            siblings = [{"rfilename": path.name} for path in files_of(folder)]
            self._send(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode(), {})

    do_HEAD = do_GET  # noqa: N815  the name that http.server looks for

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub at work."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
