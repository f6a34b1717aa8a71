"""The HTTP service: submitting, reading, cancelling, errors, who may ask."""

import base64
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app, serve
from service.database import Database
from service.events import repository as events
from service.jobs import repository
from service.jobs.crew import Crew
from service.jobs.schemas import Stage
from service.kit.errors import ConflictError
from service.settings import Settings
from tests.service.jobs.test_runner import Bench

LOCAL = "http://127.0.0.1"


@pytest.fixture
def http(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


def submit(http: TestClient, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = http.post("/v1/merge_jobs", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = dict(answer.json())
    assert told["status"] == status
    assert {"type", "title", "detail"} <= told.keys()
    return told


def test_the_api_process_stays_light() -> None:
    heavy = ["torch", "transformers", "vllm", "pandas", "optuna", "dbos", "pyarrow", "alembic", "plotly"]
    code = f"import sys, service.app; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_start_costs_little(settings: Settings) -> None:
    """Processor time, since other tests may run beside this one; on an idle machine it is the time until ready."""
    code = "from service.app import create_app; from service.settings import Settings; create_app(Settings())"
    for _ in range(2):  # the first makes the database
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", f"from service.kit import bytecode; bytecode.keep(); {code}"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


class TestSubmit:
    def test_a_job_is_stored_and_queued(self, http: TestClient, body: dict[str, Any]) -> None:
        answer = http.post("/v1/merge_jobs", json=body)
        job = answer.json()
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/v1/merge_jobs/{job['id']}"
        assert (job["object"], job["status"], job["stage"]) == ("merge_job", "queued", None)
        assert http.get(answer.headers["location"]).json() == job

    def test_an_unknown_field_is_told_its_nearest_name(self, http: TestClient, body: dict[str, Any]) -> None:
        body["search"] = {"trails": 5}
        told = problem(http.post("/v1/merge_jobs", json=body), 422)
        assert told["errors"] == [
            {"pointer": "/search/trails", "detail": "unknown field `trails`", "mend": "did you mean `trials`?"}
        ]

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"search": {"trials": 0}}, "/search/trials"),
            ({"search": {"trials": 1_000_000}}, "/search/trials"),
            ({"data": {"max_tokens": 1_000_000_000}}, "/data/max_tokens"),
            ({"merge": {"bounds": [1.0, 0.0]}}, "/merge"),
            ({"trust_remote_code": True}, "/trust_remote_code"),
            ({"name": "../../etc"}, "/name"),
            ({"base": "/nowhere"}, "/base"),
            ({"models": {f"m{n}": {"path": "/x", "role": "aligned"} for n in range(10_000)}}, "/models"),
        ],
    )
    def test_what_a_job_may_not_say(
        self, http: TestClient, body: dict[str, Any], change: dict[str, Any], pointer: str
    ) -> None:
        told = problem(http.post("/v1/merge_jobs", json=body | change), 422)
        assert told["errors"][0]["pointer"] == pointer
        assert http.get("/v1/merge_jobs").json()["data"] == [], "nothing was stored"

    def test_nan_is_not_json(self, http: TestClient, body: dict[str, Any]) -> None:
        text = json.dumps(body | {"merge": {"bounds": [0.0, float("nan")]}})
        problem(http.post("/v1/merge_jobs", content=text, headers={"content-type": "application/json"}), 422)

    @pytest.mark.parametrize("content", [b"{", b"", b"[]", b'"x"', b"\xff", b"{" * 100_000])
    def test_a_body_that_is_no_job(self, http: TestClient, content: bytes) -> None:
        answer = http.post("/v1/merge_jobs", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == "application/problem+json"

    def test_a_huge_body_is_refused_unread(self, http: TestClient) -> None:
        problem(http.post("/v1/merge_jobs", content=b" " * 1_000_001), 413)

    def test_a_body_of_unknown_length_is_refused_unread(self, http: TestClient) -> None:
        problem(http.post("/v1/merge_jobs", content=iter([b"{}"])), 411)

    def test_an_incompatible_pool_is_refused_with_what_differs(
        self, http: TestClient, body: dict[str, Any], tmp_path: Path
    ) -> None:
        config = Path(body["models"]["chat"]["path"]) / "config.json"
        config.write_text(config.read_text().replace('"vocab_size": 16', '"vocab_size": 32'))
        (fault,) = problem(http.post("/v1/merge_jobs", json=body), 422)["errors"]
        assert fault["pointer"] == "/models/chat/path"
        assert "vocab_size" in fault["detail"]


class TestIdempotency:
    def test_the_same_key_and_body_give_the_first_answer(self, http: TestClient, body: dict[str, Any]) -> None:
        first = submit(http, body, **{"Idempotency-Key": "k1"})
        http.post(f"/v1/merge_jobs/{first['id']}/cancel")
        (Path(body["base"]) / "config.json").unlink()  # what is true now does not matter
        assert submit(http, body, **{"Idempotency-Key": "k1"}) == first
        assert len(http.get("/v1/merge_jobs").json()["data"]) == 1

    def test_the_same_key_with_another_body_is_refused(self, http: TestClient, body: dict[str, Any]) -> None:
        submit(http, body, **{"Idempotency-Key": "k1"})
        told = problem(
            http.post("/v1/merge_jobs", json=body | {"name": "other"}, headers={"Idempotency-Key": "k1"}), 422
        )
        assert "k1" in told["detail"]
        # the order of models is the order of coefficients: another order is another job
        turned = body | {"models": dict(reversed(body["models"].items()))}
        problem(http.post("/v1/merge_jobs", json=turned, headers={"Idempotency-Key": "k1"}), 422)

    def test_defaults_written_out_are_the_same_body(self, http: TestClient, body: dict[str, Any]) -> None:
        first = submit(http, body, **{"Idempotency-Key": "k1"})
        assert submit(http, first["request"], **{"Idempotency-Key": "k1"}) == first

    def test_no_key_is_two_jobs(self, http: TestClient, body: dict[str, Any]) -> None:
        assert submit(http, body)["id"] != submit(http, body)["id"]

    def test_a_refused_body_does_not_use_the_key_up(self, http: TestClient, body: dict[str, Any]) -> None:
        headers = {"Idempotency-Key": "k1"}
        problem(http.post("/v1/merge_jobs", json=body | {"base": "/nowhere"}, headers=headers), 422)
        submit(http, body, **headers)

    @pytest.mark.parametrize("key", ["", "k" * 256])
    def test_a_key_has_a_length(self, http: TestClient, body: dict[str, Any], key: str) -> None:
        problem(http.post("/v1/merge_jobs", json=body, headers={"Idempotency-Key": key}), 422)


class TestReading:
    def test_pages(self, http: TestClient, body: dict[str, Any]) -> None:
        ids = [submit(http, body)["id"] for _ in range(3)][::-1]
        first = http.get("/v1/merge_jobs", params={"limit": 2}).json()
        assert ([job["id"] for job in first["data"]], first["has_more"]) == (ids[:2], True)
        second = http.get("/v1/merge_jobs", params={"limit": 2, "after": first["last_id"]}).json()
        assert ([job["id"] for job in second["data"]], second["has_more"]) == (ids[2:], False)

    @pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=job_none"])
    def test_pages_that_are_none(self, http: TestClient, query: str) -> None:
        problem(http.get(f"/v1/merge_jobs?{query}"), 422)

    @pytest.mark.parametrize("path", ["", "/events", "/trials", "/front", "/report", "/report.html"])
    @pytest.mark.parametrize("job_id", ["job_none", "%2e%2e", "x%00y", "é"])
    def test_an_unknown_job(self, http: TestClient, job_id: str, path: str) -> None:
        problem(http.get(f"/v1/merge_jobs/{job_id}{path}"), 404)

    @pytest.mark.parametrize("action", ["cancel", "resume"])
    def test_nothing_can_be_done_with_an_unknown_job(self, http: TestClient, action: str) -> None:
        problem(http.post(f"/v1/merge_jobs/job_none/{action}"), 404)

    def test_other_methods_and_paths(self, http: TestClient) -> None:
        problem(http.delete("/v1/merge_jobs"), 405)
        problem(http.get("/v1/nothing"), 404)

    def test_trials_front_and_report(self, http: TestClient, settings: Settings, body: dict[str, Any]) -> None:
        job_id = submit(http, body)["id"]
        problem(http.get(f"/v1/merge_jobs/{job_id}/report"), 404)
        bench = Bench(settings, http.app.state.database, job_id)  # type: ignore[attr-defined]
        bench.run(bench.runner())
        page = http.get(f"/v1/merge_jobs/{job_id}/trials", params={"limit": 4, "after": 2}).json()
        assert [trial["number"] for trial in page["data"]] == [3, 4, 5, 6]
        assert page["has_more"]
        assert page["data"][0]["coefficients"] is None
        full = http.get(f"/v1/merge_jobs/{job_id}/trials", params={"limit": 1, "coefficients": True}).json()
        assert full["data"][0]["coefficients"]["chat"] == {"embedding": 0.0, "head": 0.0}
        front = http.get(f"/v1/merge_jobs/{job_id}/front").json()
        assert (front["axes"], front["winner"], len(front["data"])) == (["refusal", "compliance"], 0, 10)
        assert http.get(f"/v1/merge_jobs/{job_id}/report").json() == {"winner": 0}
        shown = http.get(f"/v1/merge_jobs/{job_id}/report", headers={"accept": "text/html"})
        assert shown.text == http.get(f"/v1/merge_jobs/{job_id}/report.html").text
        assert "<title>Report" in shown.text
        assert "sandbox" in shown.headers["content-security-policy"]


class TestCancel:
    def test_twice_is_once(self, http: TestClient, body: dict[str, Any]) -> None:
        job_id = submit(http, body)["id"]
        first, second = (http.post(f"/v1/merge_jobs/{job_id}/cancel") for _ in range(2))
        assert first.status_code == second.status_code == 200
        assert first.json()["status"] == "cancelled"
        assert first.json() == second.json()

    def test_a_job_that_has_ended_cannot_be_cancelled(
        self, http: TestClient, settings: Settings, body: dict[str, Any]
    ) -> None:
        for name, ends in (("toy", "succeeded"), ("unlucky", "failed")):
            job_id = submit(http, body | {"name": name})["id"]
            bench = Bench(settings, http.app.state.database, job_id)  # type: ignore[attr-defined]
            bench.run(bench.runner())
            assert ends in problem(http.post(f"/v1/merge_jobs/{job_id}/cancel"), 409)["detail"]

    def test_resume_queues_a_cancelled_job_again(self, http: TestClient, body: dict[str, Any]) -> None:
        job_id = submit(http, body)["id"]
        problem(http.post(f"/v1/merge_jobs/{job_id}/resume"), 409)
        http.post(f"/v1/merge_jobs/{job_id}/cancel")
        assert http.post(f"/v1/merge_jobs/{job_id}/resume").json()["status"] == "queued"
        problem(http.post(f"/v1/merge_jobs/{job_id}/resume"), 409)


class TestEvents:
    def tell(self, http: TestClient, job_id: str, *lines: str) -> None:
        database: Database = http.app.state.database  # type: ignore[attr-defined]
        with database.write() as session:
            for line in lines:
                events.add(session, job_id, "message", line)

    def test_a_list_goes_on_after_an_id(self, http: TestClient, body: dict[str, Any]) -> None:
        job_id = submit(http, body)["id"]
        self.tell(http, job_id, "one", "two", "three")
        page = http.get(f"/v1/merge_jobs/{job_id}/events", params={"limit": 2}).json()
        assert [event["message"] for event in page["data"]] == ["queued", "one"]
        rest = http.get(f"/v1/merge_jobs/{job_id}/events", params={"after": page["last_id"]}).json()
        assert [event["message"] for event in rest["data"]] == ["two", "three"]

    def stream(self, http: TestClient, job_id: str, **headers: str) -> Any:
        return http.get(f"/v1/merge_jobs/{job_id}/events", headers={"accept": "text/event-stream", **headers})

    def test_a_stream_tells_everything_and_ends_with_the_job(self, http: TestClient, body: dict[str, Any]) -> None:
        job_id = submit(http, body)["id"]

        def act() -> None:
            time.sleep(0.7)
            database: Database = http.app.state.database  # type: ignore[attr-defined]
            with database.write() as session:
                progress = {"stage": "search", "done": 3, "total": 9, "unit": "trials", "note": "", "eta_seconds": 2.0}
                repository.change(session, job_id, status="running", stage="search", progress=progress)
            self.tell(http, job_id, "λ & <b>")
            time.sleep(0.7)
            http.post(f"/v1/merge_jobs/{job_id}/cancel")

        thread = threading.Thread(target=act)
        thread.start()
        answer = self.stream(http, job_id)
        thread.join()
        assert answer.headers["content-type"].startswith("text/event-stream")
        texts = [text for text in answer.text.split("\n\n") if text]
        blocks = [dict(line.split(": ", 1) for line in text.splitlines()) for text in texts]
        told = [block for block in blocks if "event" in block]
        kinds = [block["event"] for block in told]
        assert sorted(kinds[1:3]) == ["message", "progress"]
        assert (kinds[0], kinds[-1], len(kinds)) == ("status", "status", 4)
        ids = [int(block["id"]) for block in told if "id" in block]
        assert ids == sorted(set(ids))
        assert len(ids) == 3, "progress has no id: it is not history"
        progress = json.loads(next(block["data"] for block in told if block["event"] == "progress"))
        assert progress["data"]["done"] == 3
        assert progress["data"]["stage"] == Stage.SEARCH

        after_first = self.stream(http, job_id, **{"last-event-id": str(ids[0])})
        assert f"id: {ids[0]}\n" not in after_first.text
        assert f"id: {ids[1]}\n" in after_first.text
        assert self.stream(http, job_id, **{"last-event-id": str(ids[-1])}).status_code == 204

    @pytest.mark.parametrize("last", ["x", "-1", "9" * 30])
    def test_a_last_event_id_is_an_id(self, http: TestClient, body: dict[str, Any], last: str) -> None:
        problem(self.stream(http, submit(http, body)["id"], **{"last-event-id": last}), 422)

    def test_a_quiet_stream_says_that_it_lives(
        self, http: TestClient, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.events.stream.HEARTBEAT_SECONDS", 0.2)
        job_id = submit(http, body)["id"]
        timer = threading.Timer(2.0, lambda: http.post(f"/v1/merge_jobs/{job_id}/cancel"))
        timer.start()
        assert ": ping\n\n" in self.stream(http, job_id).text


class TestHealth:
    def test_it_lives_and_is_ready(self, http: TestClient) -> None:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").json() == {"status": "ok", "workers": 0}

    def test_workers_that_live_are_counted(self, http: TestClient) -> None:
        database: Database = http.app.state.database  # type: ignore[attr-defined]
        Crew(database, "w1", "shared", 30).join()
        Crew(database, "w2", "shared", 30).join()
        with database.write() as session:
            session.connection().exec_driver_sql("UPDATE workers SET seen_at = '2020-01-01' WHERE name = 'w1'")
        assert http.get("/readyz").json()["workers"] == 1

    def test_without_its_tables_it_is_not_ready(self, http: TestClient, settings: Settings) -> None:
        database: Database = http.app.state.database  # type: ignore[attr-defined]
        with database.write() as session:
            session.connection().exec_driver_sql("UPDATE alembic_version_temper SET version_num = '0000'")
        problem(http.get("/readyz"), 503)
        assert http.get("/healthz").status_code == 200

    def test_the_api_describes_itself(self, http: TestClient) -> None:
        paths = http.get("/openapi.json").json()["paths"]
        assert {"/v1/merge_jobs", "/v1/merge_jobs/{job_id}/resume", "/v1/artifacts"} <= paths.keys()


class TestGuard:
    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "localhost.evil.example:8642"])
    def test_a_name_that_someone_else_owns_is_not_answered(self, http: TestClient, host: str) -> None:
        problem(http.get("/v1/merge_jobs", headers={"host": host}), 421)

    @pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:1", "LOCALHOST", "[::1]:8642"])
    def test_this_machine_is_answered(self, http: TestClient, host: str) -> None:
        assert http.get("/v1/merge_jobs", headers={"host": host}).status_code == 200

    def test_a_page_of_another_site_changes_nothing(self, http: TestClient, body: dict[str, Any]) -> None:
        job_id = submit(http, body)["id"]
        path = f"/v1/merge_jobs/{job_id}/cancel"
        problem(http.post(path, headers={"origin": "https://evil.example"}), 403)
        problem(http.post(path, headers={"origin": "null"}), 403)
        assert http.post(path, headers={"origin": LOCAL, "host": "127.0.0.1"}).status_code == 200

    def test_a_form_cannot_submit(self, http: TestClient, body: dict[str, Any]) -> None:
        answer = http.post("/v1/merge_jobs", content=json.dumps(body), headers={"content-type": "text/plain"})
        assert answer.status_code == 422

    def test_with_a_key_nothing_is_told_without_it(self, settings: Settings) -> None:
        keyed = Settings(home=settings.home, host="0.0.0.0", api_key="secret")
        basic = "Basic " + base64.b64encode(b"anyone:secret").decode()
        with TestClient(create_app(keyed), base_url="http://some.host") as http:
            for wrong in ("", "Bearer x", "Basic ???", "secret"):
                answer = http.get("/v1/merge_jobs", headers={"authorization": wrong} if wrong else {})
                problem(answer, 401)
                assert "Basic" in answer.headers["www-authenticate"]
            problem(http.get("/"), 401)
            for right in ("Bearer secret", "bearer secret", basic):
                assert http.get("/v1/merge_jobs", headers={"authorization": right}).status_code == 200
            assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200

    def test_it_does_not_listen_to_the_world_without_a_key(self, settings: Settings) -> None:
        with pytest.raises(ConflictError, match="TEMPER_API_KEY"):
            serve(Settings(home=settings.home, host="0.0.0.0"))

    def test_a_taken_port_is_said_at_once(self, settings: Settings) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ConflictError, match=r"cannot listen on 127\.0\.0\.1"):
                serve(Settings(home=settings.home, port=taken.getsockname()[1]))

    def test_an_error_of_ours_is_a_problem_too(self, http: TestClient, settings: Settings) -> None:
        for file in settings.home.glob("temper.sqlite*"):
            file.unlink()
        http.app.state.database.close()  # type: ignore[attr-defined]
        told = problem(http.get("/v1/merge_jobs"), 500)
        assert "sqlite" not in told["detail"], "what is inside stays inside"
