"""Killed at any moment, a job goes on and nothing that was finished is done again. Real processes, real SIGKILL."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.client import ClientError
from service.jobs.schemas import Stage, Status
from tests.service.jobs.processes import Processes, alive, until
from tests.service.postgres import Postgres

TRIALS = 60


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path / "home")
    yield processes
    processes.stop()


def assert_whole(running: Processes, job_id: str, trials: int, kills: int) -> None:
    """Every trial once in SQL, none evaluated again but the one that was in hand at each kill."""
    records = list(running.client.trials(job_id))
    assert [record.number for record in records] == list(range(trials))
    counts = Counter(running.evaluated(job_id))
    repeated = sum(count - 1 for count in counts.values())
    assert set(counts) == set(range(trials))
    assert repeated <= kills
    created = [record.created_at for record in records]
    assert created == sorted(created)


def test_a_job_survives_kills_of_the_server_at_random_moments(running: Processes, body: dict[str, Any]) -> None:
    draw = random.Random(os.environ.get("TEMPER_TEST_SEED", time.time_ns()))
    server = running.serve()
    job = running.client.submit(body | {"search": {"trials": TRIALS}})
    kills = 0
    for mark in (1, TRIALS // 3, TRIALS - 5):
        until(lambda mark=mark: len(running.evaluated(job.id)) >= mark)
        time.sleep(draw.uniform(0, 0.05))
        workers = running.worker_pids()
        server.send_signal(signal.SIGKILL)
        server.wait()
        until(lambda pids=workers: not any(map(alive, pids)), 5)  # the worker died with its server
        kills += 1
        began = time.monotonic()
        seen = len(running.evaluated(job.id))
        server = running.serve()
        if seen < TRIALS:
            until(lambda seen=seen: len(running.evaluated(job.id)) > seen)
            assert time.monotonic() - began < 30, "recovery is a matter of seconds, also on a busy machine"
    done = running.ended(job.id)
    assert done.status is Status.SUCCEEDED, done.error
    assert_whole(running, job.id, TRIALS, kills)
    assert running.client.artifact(done.artifact or "")["size"] > 10_000_000
    assert list(done.seconds) == list(Stage)


def test_a_killed_worker_is_started_again_and_the_service_says_so(running: Processes, body: dict[str, Any]) -> None:
    running.serve()
    job = running.client.submit(body | {"search": {"trials": TRIALS}})
    until(lambda: len(running.evaluated(job.id)) > 5)
    (worker,) = running.worker_pids()
    os.kill(worker, signal.SIGKILL)
    assert running.ended(job.id).status is Status.SUCCEEDED
    assert_whole(running, job.id, TRIALS, 1)
    assert "the worker was killed by SIGKILL; starting it again" in (running.home / "output.log").read_text()


def test_a_stop_and_a_start_lose_nothing(running: Processes, body: dict[str, Any]) -> None:
    server = running.serve()
    job = running.client.submit(body | {"search": {"trials": TRIALS}})
    until(lambda: len(running.evaluated(job.id)) > 5)
    server.send_signal(signal.SIGTERM)
    assert server.wait(15) == 0
    assert running.worker_pids() == []
    running.serve()
    assert running.ended(job.id).status is Status.SUCCEEDED
    assert_whole(running, job.id, TRIALS, 1)


def test_cancel_is_noticed_at_once_and_resume_goes_on(running: Processes, body: dict[str, Any]) -> None:
    running.serve()
    job = running.client.submit(body | {"search": {"trials": 400}})
    waiting = running.client.submit(body | {"search": {"trials": 2}})
    until(lambda: len(running.evaluated(job.id)) > 5)
    assert running.client.job(waiting.id).status is Status.QUEUED, "one job at a time"
    assert running.client.cancel(job.id).status is Status.CANCELLED
    assert running.client.cancel(job.id).status is Status.CANCELLED
    assert running.ended(waiting.id, 20).status is Status.SUCCEEDED, "the worker is free for the next job"
    stopped = len(running.evaluated(job.id))
    time.sleep(0.5)
    assert len(running.evaluated(job.id)) == stopped < 400
    assert until(lambda: _resumed(running, job.id)).status in (Status.QUEUED, Status.RUNNING)
    done = running.ended(job.id)
    assert done.status is Status.SUCCEEDED
    assert_whole(running, job.id, 400, 1)
    stages = [event.message for event in running.client.events(job.id) if event.type == "stage"]
    assert stages.count("data begins") == 1, "finished stages stay finished"
    assert stages.count("search goes on") == 1


def _resumed(running: Processes, job_id: str) -> Any:
    try:
        return running.client.resume(job_id)
    except ClientError as error:
        if error.status != 409:  # 409: its worker is still stopping
            raise
        return None


def test_a_lost_dbos_file_loses_no_job(running: Processes, body: dict[str, Any]) -> None:
    server = running.serve()
    job = running.client.submit(body | {"search": {"trials": TRIALS}})
    until(lambda: len(running.evaluated(job.id)) > 5)
    server.send_signal(signal.SIGKILL)
    server.wait()
    until(lambda: running.worker_pids() == [], 5)
    for file in running.home.glob("dbos.sqlite*"):
        file.unlink()
    running.serve()
    assert running.ended(job.id).status is Status.SUCCEEDED
    assert_whole(running, job.id, TRIALS, 1)


def test_on_postgresql_another_worker_takes_a_dead_ones_job_over(
    tmp_path: Path, body: dict[str, Any], postgres: Postgres
) -> None:
    url = postgres.create().replace("postgresql://", "postgresql+psycopg://")
    running = Processes(
        tmp_path / "home",
        TEMPER_DATABASE_URL=url,
        TEMPER_SILENCE_SECONDS="4",
        TEMPER_EMBEDDED_WORKER="false",
    )
    try:
        migrated = running.start("service.cli", "migrate")
        assert migrated.wait(60) == 0
        running.serve()
        workers = {name: running.worker(TEMPER_WORKER_NAME=name) for name in ("left", "right")}
        jobs = [running.client.submit(body | {"search": {"trials": TRIALS}}) for _ in range(2)]
        until(lambda: all(_owner(running, job.id) for job in jobs))
        owners = {_owner(running, job.id): job for job in jobs}
        assert set(owners) == {"left", "right"}, "two workers, two jobs at once"
        orphan = owners["left"]
        workers["left"].send_signal(signal.SIGKILL)
        for job in jobs:
            assert running.ended(job.id, 120).status is Status.SUCCEEDED
            assert_whole(running, job.id, TRIALS, 1)
        assert {record.worker for record in running.client.trials(orphan.id)} <= {"left", "right"}
        assert _owner(running, orphan.id) == "right"
    finally:
        running.stop()


def _owner(running: Processes, job_id: str) -> object:
    """Who began, or went on with, the job's last stage."""
    events = running.client.events(job_id)
    return next((e.data["worker"] for e in reversed(events) if e.type == "stage" and "worker" in e.data), None)
