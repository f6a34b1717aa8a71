"""The `temper` command: what it prints, what it exits with."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

from service import cli
from service.app import create_app
from service.settings import Settings
from tests.service.jobs.processes import until
from tests.service.jobs.test_runner import Bench


class Temper:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["temper", *arguments])
        self._monkeypatch.setattr(cli, "console", cli.Console(stderr=True, highlight=False, width=120))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        self.out, self.err = self._capsys.readouterr()
        return int(caught.value.code or 0)

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def temper(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Temper:
    monkeypatch.delenv("TEMPER_URL", raising=False)
    return Temper(monkeypatch, capsys)


@pytest.fixture
def service(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A server at TEMPER_URL; calling it runs a job that was submitted."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: server.started)
    monkeypatch.setenv("TEMPER_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")

    def work(job_id: str) -> None:
        bench = Bench(settings, app.state.database, job_id)
        bench.run(bench.runner())

    yield work
    server.should_exit = True
    thread.join()


@pytest.fixture
def job_file(tmp_path: Path, body: dict[str, Any]) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(body, sort_keys=False))
    return str(path)


def submitted(temper: Temper, job_file: str) -> str:
    assert temper("submit", job_file, "--json") == 0
    (job,) = temper.json
    return str(job["id"])


class TestSubmit:
    def test_the_job_and_its_page_are_named(self, temper: Temper, service: Any, job_file: str) -> None:
        assert temper("submit", job_file) == 0
        assert "job_" in temper.err
        assert "/jobs/job_" in temper.err

    def test_json_is_the_job(self, temper: Temper, service: Any, job_file: str) -> None:
        assert temper("submit", job_file, "--json", "--key", "k") == 0
        (first,) = temper.json
        assert temper("submit", job_file, "--json", "--key", "k") == 0
        assert temper.json == [first]

    def test_a_fault_is_told_with_its_line_before_anyone_is_asked(
        self, temper: Temper, job_file: str, tmp_path: Path
    ) -> None:
        text = Path(job_file).read_text().replace("trials:", "trails:")
        line = 1 + text[: text.index("trails")].count("\n")
        Path(job_file).write_text(text)
        assert temper("submit", job_file, "--url", "http://127.0.0.1:1") == 2
        assert f"job.yaml:{line}: /search/trails: unknown field `trails` (did you mean `trials`?)" in temper.err

    def test_a_fault_that_the_service_finds_gets_its_line_too(
        self, temper: Temper, service: Any, job_file: str, body: dict[str, Any]
    ) -> None:
        (Path(body["models"]["chat"]["path"]) / "config.json").unlink()
        assert temper("submit", job_file) == 2
        lines = Path(job_file).read_text().splitlines()
        line = 1 + next(i for i, text in enumerate(lines) if "pool/chat" in text)
        assert f"job.yaml:{line}: /models/chat/path" in temper.err
        assert "has no config.json" in temper.err

    def test_programs_get_the_error_as_json(self, temper: Temper, tmp_path: Path) -> None:
        assert temper("submit", str(tmp_path / "none.yaml"), "--json") == 2
        assert "No such file" in temper.json[0]["error"]["detail"]

    def test_nobody_answers(self, temper: Temper, job_file: str) -> None:
        assert temper("submit", job_file, "--url", "http://127.0.0.1:1") == 3
        assert "temper serve" in temper.err

    def test_something_else_answers(self, temper: Temper, job_file: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                connection, _ = server.accept()
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                connection.close()

            threading.Thread(target=answer, daemon=True).start()
            assert temper("submit", job_file, "--url", f"http://127.0.0.1:{server.getsockname()[1]}") == 3
        assert "no Temper service" in temper.err


class TestFollowing:
    def test_watch_ends_with_the_job(self, temper: Temper, service: Callable[[str], None], job_file: str) -> None:
        job_id = submitted(temper, job_file)
        thread = threading.Thread(target=service, args=[job_id])
        thread.start()
        assert temper("watch", job_id) == 0
        thread.join()
        assert temper.out.strip().startswith("local/toy@"), "standard output is the artifact alone"
        assert "search took" in temper.err

    def test_a_job_that_failed_is_exit_code_1(
        self, temper: Temper, service: Callable[[str], None], job_file: str
    ) -> None:
        Path(job_file).write_text(Path(job_file).read_text().replace("name: toy", "name: unlucky"))
        job_id = submitted(temper, job_file)
        service(job_id)
        assert temper("watch", job_id) == 1
        assert "the finalists all write gibberish" in temper.err
        assert temper("watch", job_id, "--json") == 1
        assert temper.json[-1]["status"] == "failed"
        assert temper.json[0]["type"] == "status"

    def test_pull_by_job_and_by_name(
        self, temper: Temper, service: Callable[[str], None], job_file: str, tmp_path: Path
    ) -> None:
        job_id = submitted(temper, job_file)
        assert temper("pull", job_id) == 1
        assert "has published nothing" in temper.err
        service(job_id)
        assert temper("pull", job_id, "--to", str(tmp_path / "a")) == 0
        assert temper.out.strip() == str(tmp_path / "a")
        assert temper("pull", "local/toy", "--to", str(tmp_path / "b"), "--json") == 0
        assert temper.json[0]["path"] == str(tmp_path / "b")
        assert temper.json[0]["artifact"].startswith("local/toy@")
        files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab"]
        assert files[0] == files[1]


class TestJobs:
    def test_list_show_cancel_resume(self, temper: Temper, service: Any, job_file: str) -> None:
        assert temper("jobs", "list") == 0
        assert "no jobs yet" in temper.out
        ids = [submitted(temper, job_file) for _ in range(2)]
        assert temper("jobs", "list", "--json", "--limit", "1") == 0
        assert [job["id"] for job in temper.json] == ids[1:]
        assert temper("jobs", "list") == 0
        assert all(job_id in temper.out for job_id in ids)
        assert temper("jobs", "show", ids[0]) == 0
        assert "queued" in temper.out
        assert temper("jobs", "cancel", ids[0]) == 0
        assert f"{ids[0]} is cancelled" in temper.err
        assert temper("jobs", "resume", ids[0], "--json") == 0
        assert temper.json[0]["status"] == "queued"
        assert temper("jobs", "resume", ids[0]) == 1
        assert "only a failed or cancelled job" in temper.err
        assert temper("jobs", "show", "job_none") == 1
        assert "there is no merge job" in temper.err


class TestUse:
    @pytest.mark.parametrize(
        "arguments", [["nothing"], ["submit"], ["serve", "--port", "x"], ["jobs", "list", "--limit", "0"]]
    )
    def test_a_wrong_argument_is_exit_code_2(self, temper: Temper, arguments: list[str]) -> None:
        assert temper(*arguments) == 2

    @pytest.mark.parametrize(
        "command", ["serve", "worker", "migrate", "submit", "watch", "pull", "run", "demo", "jobs list", "jobs resume"]
    )
    def test_every_command_explains_itself(self, temper: Temper, command: str) -> None:
        assert temper(*command.split(), "--help") == 0
        assert "Usage" in temper.out

    def test_serve_refuses_to_be_open_to_the_world(self, temper: Temper, settings: Settings) -> None:
        assert temper("serve", "--host", "0.0.0.0") == 1
        assert "TEMPER_API_KEY" in temper.err

    def test_help_is_quick(self) -> None:
        heavy = ["torch", "fastapi", "sqlalchemy", "dbos", "optuna"]
        code = f"import sys, service.cli; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
