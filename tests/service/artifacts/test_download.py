"""Checkpoints over real HTTP: ranges, hashes, downloads that break off and go on."""

import base64
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from service.app import create_app
from service.artifacts.download import TransferError
from service.artifacts.store import MANIFEST, Store, parse
from service.client import Client, ClientError, UnreachableError
from service.settings import Settings
from tests.service.jobs.processes import until

WEIGHTS = os.urandom(9_000_000)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    settings.prepare()
    return settings


@pytest.fixture(scope="module")
def reference(home: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("new")
    (folder / "config.json").write_text('{"model_type": "toy"}')
    (folder / "empty.txt").write_text("")
    (folder / "a b").mkdir()
    (folder / "a b" / "naïve+.txt").write_text("a name that URLs do not like")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return Store(home.artifacts).publish(folder, "local", "toy")


@pytest.fixture(scope="module")
def url(home: Settings, reference: str) -> Iterator[str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(home), log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def weights(url: str, reference: str) -> str:
    return f"{url}/v1/artifacts/{reference}/files/model.safetensors"


class TestFiles:
    def test_a_file_comes_with_its_hash(self, weights: str, reference: str) -> None:
        answer = httpx.get(weights)
        digest = hashlib.sha256(WEIGHTS)
        assert answer.content == WEIGHTS
        assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
        assert answer.headers["x-checksum-sha256"] == digest.hexdigest()
        assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
        assert answer.headers["x-repo-commit"] == reference.partition("@")[2]
        assert answer.headers["accept-ranges"] == "bytes"
        assert "immutable" in answer.headers["cache-control"]

    def test_head_says_the_same_without_the_body(self, weights: str) -> None:
        head, get = httpx.head(weights), httpx.get(weights)
        assert head.content == b""
        names = ("content-length", "etag", "accept-ranges", "content-type", "x-checksum-sha256")
        assert [head.headers[name] for name in names] == [get.headers[name] for name in names]

    @pytest.mark.parametrize(
        ("asked", "begin", "end"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=10-19", 10, 20),
            ("bytes=8999990-", 8_999_990, 9_000_000),
            ("bytes=-5", 8_999_995, None),
            ("bytes=5000000-99999999", 5_000_000, None),
        ],
    )
    def test_a_range(self, weights: str, asked: str, begin: int, end: int | None) -> None:
        answer = httpx.get(weights, headers={"range": asked})
        assert answer.status_code == 206
        assert answer.content == WEIGHTS[begin:end]
        last = (end or len(WEIGHTS)) - 1
        assert answer.headers["content-range"] == f"bytes {begin}-{last}/{len(WEIGHTS)}"

    @pytest.mark.parametrize("asked", ["bytes=9000000-", "bytes=99999999-100000000"])
    def test_a_range_beyond_the_end(self, weights: str, asked: str) -> None:
        answer = httpx.get(weights, headers={"range": asked})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{len(WEIGHTS)}"

    def test_if_range_sends_all_of_another_file(self, weights: str) -> None:
        etag = httpx.head(weights).headers["etag"]
        same = httpx.get(weights, headers={"range": "bytes=5-9", "if-range": etag})
        other = httpx.get(weights, headers={"range": "bytes=5-9", "if-range": '"another"'})
        assert (same.status_code, same.content) == (206, WEIGHTS[5:10])
        assert (other.status_code, other.content) == (200, WEIGHTS)

    def test_what_the_client_has_is_not_sent_again(self, weights: str) -> None:
        etag = httpx.head(weights).headers["etag"]
        assert httpx.get(weights, headers={"if-none-match": f'"x", W/{etag}'}).status_code == 304
        assert httpx.get(weights, headers={"if-none-match": '"x"'}).status_code == 200

    @pytest.mark.parametrize(
        "path",
        [
            "../manifest.json",
            "%2e%2e/manifest.json",
            "..%2f..%2frefs%2fmain",
            "/etc/passwd",
            "manifest.json",
            "a b",
            "x%00",
        ],
    )
    def test_nothing_else_can_be_read(self, url: str, reference: str, path: str) -> None:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as raw:
            target = f"/v1/artifacts/{reference}/files/{path}".replace(" ", "%20")
            raw.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            assert b" 404 " in raw.makefile("rb").readline()

    def test_main_is_not_cached(self, url: str) -> None:
        answer = httpx.get(f"{url}/v1/artifacts/local/toy/files/config.json")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.json() == {"model_type": "toy"}

    @pytest.mark.parametrize("name", ["local/none", "none/toy", "local/toy@" + "0" * 40, "local/toy@main2", "../x"])
    def test_an_artifact_that_is_not_there(self, url: str, name: str) -> None:
        answer = httpx.get(f"{url}/v1/artifacts/{name}")
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"

    def test_the_list(self, url: str, reference: str) -> None:
        page = httpx.get(f"{url}/v1/artifacts").json()
        assert [artifact["id"] for artifact in page["data"]] == [reference]
        after = httpx.get(f"{url}/v1/artifacts", params={"after": reference}).json()
        assert after == {"object": "list", "data": [], "has_more": False, "last_id": None}


class TestPull:
    def test_everything_arrives_with_its_hash(self, url: str, reference: str, tmp_path: Path) -> None:
        told: list[tuple[int, int, str]] = []
        with Client(url) as client:
            folder = client.pull(reference, tmp_path / "pulled", lambda *step: told.append(step))
            manifest = client.artifact(reference)
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert names == {"config.json", "empty.txt", "a b/naïve+.txt", "model.safetensors", MANIFEST}
        for entry in manifest["files"]:
            assert hashlib.sha256((folder / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
        done = [step[0] for step in told]
        assert done == sorted(done)
        assert told[-1][0] == told[-1][1] == manifest["size"]
        assert len(told) > 5

    def test_main_and_a_name_alone_are_the_latest(self, url: str, reference: str, tmp_path: Path) -> None:
        with Client(url) as client:
            assert client.artifact("local/toy") == client.artifact("local/toy@main") == client.artifact(reference)

    def test_a_pull_that_was_cut_off_goes_on_where_it_was(self, url: str, reference: str, tmp_path: Path) -> None:
        class Cut(Exception):  # noqa: N818
            pass

        def cut(done: int, _total: int, path: str) -> None:
            if path == "model.safetensors" and done > 4_000_000:
                raise Cut

        with Client(url) as client:
            with pytest.raises(Cut):
                client.pull(reference, tmp_path / "pulled", cut)
            part = tmp_path / "pulled" / "model.safetensors.part"
            kept = part.stat().st_size
            assert 4_000_000 <= kept < len(WEIGHTS)
            first: list[int] = []

            def note(done: int, _total: int, path: str) -> None:
                if path == "model.safetensors":
                    first.append(done)

            client.pull(
                reference, tmp_path / "pulled", lambda done, _t, path: first.append(done) if "model" in path else None
            )
        assert first[0] > kept, "nothing that was kept came again"
        assert (tmp_path / "pulled" / "model.safetensors").read_bytes() == WEIGHTS
        assert not part.exists()

    def test_a_damaged_part_is_noticed_and_fetched_again(self, url: str, reference: str, tmp_path: Path) -> None:
        (tmp_path / "pulled").mkdir()
        (tmp_path / "pulled" / "model.safetensors.part").write_bytes(b"x" * 1_000_000)
        (tmp_path / "pulled" / "config.json").write_text('{"model_type": "tox"}')  # the right size, the wrong bytes
        with Client(url) as client:
            client.pull(reference, tmp_path / "pulled")
        assert (tmp_path / "pulled" / "model.safetensors").read_bytes() == WEIGHTS
        assert json.loads((tmp_path / "pulled" / "config.json").read_text()) == {"model_type": "toy"}

    def test_pulling_again_sends_nothing(self, url: str, reference: str, tmp_path: Path) -> None:
        with Client(url) as client:
            client.pull(reference, tmp_path / "pulled")
            before = (tmp_path / "pulled" / "model.safetensors").stat().st_ino
            client.pull(reference, tmp_path / "pulled")
        assert (tmp_path / "pulled" / "model.safetensors").stat().st_ino == before

    def test_a_folder_of_something_else_is_left_alone(self, url: str, reference: str, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        with Client(url) as client, pytest.raises(TransferError, match=r"mine\.txt"):
            client.pull(reference, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_a_file_that_was_damaged_on_the_server_is_not_kept(self, url: str, home: Settings, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "config.json").write_text("{}")
        reference = Store(home.artifacts).publish(tmp_path / "new", "local", "damaged")
        (Store(home.artifacts).get(*parse(reference)).folder / "config.json").write_text("[]")
        with Client(url) as client, pytest.raises(TransferError, match="another sha256"):
            client.pull(reference, tmp_path / "pulled")
        assert list((tmp_path / "pulled").iterdir()) == []

    @pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "", "a\\..\\evil"])
    def test_a_server_cannot_write_elsewhere(self, tmp_path: Path, path: str) -> None:
        def lie(_request: httpx.Request) -> httpx.Response:
            entry = {"path": path, "size": 1, "sha256": "0" * 64}
            return httpx.Response(
                200, json={"namespace": "n", "name": "m", "sha": "0" * 40, "size": 1, "files": [entry]}
            )

        http = httpx.Client(base_url="http://x", transport=httpx.MockTransport(lie))
        with Client(http=http) as client, pytest.raises(TransferError, match="outside"):
            client.pull("n/m", tmp_path / "pulled")
        assert not (tmp_path / "pulled").exists()

    def test_an_artifact_that_is_not_there(self, url: str, tmp_path: Path) -> None:
        with Client(url) as client, pytest.raises(ClientError, match="there is no artifact") as caught:
            client.pull("local/none", tmp_path / "pulled")
        assert caught.value.status == 404

    def test_nobody_answers(self, tmp_path: Path) -> None:
        with Client("http://127.0.0.1:1") as client, pytest.raises(UnreachableError, match="temper serve"):
            client.pull("local/toy", tmp_path / "pulled")


class _FlakyServer:
    """Sends a few bytes of a file, then drops the connection, again and again; honours ranges."""

    def __init__(self, content: bytes, piece: int) -> None:
        self.content, self.piece, self.asked = content, piece, list[str]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                lines = connection.recv(65536).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
                if "/files/" in lines[0]:
                    self._file(connection, headers.get("range", ""))
                else:
                    self._manifest(connection)

    def _manifest(self, connection: socket.socket) -> None:
        sha256 = hashlib.sha256(self.content).hexdigest()
        files = [{"path": "model.safetensors", "size": len(self.content), "sha256": sha256}]
        body = {"namespace": "n", "name": "m", "sha": "0" * 40, "size": len(self.content), "files": files}
        text = json.dumps(body).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text) + text)

    def _file(self, connection: socket.socket, asked: str) -> None:
        self.asked.append(asked)
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        rest = self.content[begin:]
        status = b"206 Partial Content" if asked else b"200 OK"
        head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(rest))
        connection.sendall(head + rest[: self.piece])

    def close(self) -> None:
        self._listener.close()


def test_a_connection_that_breaks_again_and_again_still_gets_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.artifacts.download.time.sleep", lambda _seconds: None)
    server = _FlakyServer(WEIGHTS[:3_000_000], piece=350_000)
    try:
        with Client(server.url) as client:
            client.pull("n/m", tmp_path / "pulled")
    finally:
        server.close()
    assert (tmp_path / "pulled" / "model.safetensors").read_bytes() == WEIGHTS[:3_000_000]
    begins = [int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0 for asked in server.asked]
    assert begins == sorted(set(begins)), "every connection went on where the last one broke"


def test_a_server_that_sends_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.artifacts.download.time.sleep", lambda _seconds: None)
    server = _FlakyServer(WEIGHTS[:1000], piece=0)
    try:
        with Client(server.url) as client, pytest.raises(UnreachableError):
            client.pull("n/m", tmp_path / "pulled")
    finally:
        server.close()


def test_any_of_these_ids_is_one_step_of_a_path(url: str) -> None:
    ids: list[Any] = ["../artifacts", "x/y", "a?b=c", "a#b", "%2e%2e", "", " ", "é"]
    with Client(url) as client:
        for job_id in ids:
            with pytest.raises(ClientError) as caught:
                client.job(job_id)
            assert caught.value.status == 404, job_id
