"""The main job over HTTP on the tiny zoo: killed in mid-search, gone on with, pulled, loaded, measured again."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from datagen.engines.vllm import VllmEngine
from datagen.judges.rules import RulesJudge
from datagen.samples import DataSet, Split
from datagen.storage import read
from optimizer.reporting.report import Report
from optimizer.search.evaluation import judged
from service.client import Client
from service.demo.check import differences, score_pulled
from service.demo.job import demo_job
from service.demo.server import Server
from service.demo.zoo import Zoo
from service.jobs.folders import dataset_folder
from service.jobs.schemas import MergeJob, Stage, Status, TrialView
from service.settings import Settings

KILLED_AFTER = 12  # trials


@dataclass(frozen=True)
class Finished:
    """A demo job whose server was killed once in mid-search."""

    server: Server
    client: Client
    job: MergeJob
    before: dict[int, TrialView]
    report: Report
    dataset: DataSet
    pulled: Path


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.2)


def children(pid: int) -> list[int]:
    """All processes below `pid`."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def finished(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("end-to-end")
    server = Server(folder / "home")
    server.start()
    client = Client(server.url)
    try:
        job = client.submit(demo_job(zoo))
        until(lambda: sum(1 for _ in client.trials(job.id)) >= KILLED_AFTER, 400)
        below = children(server.pid)
        server.kill()
        until(lambda: not any(map(alive, below)), 20)
        assert len(below) >= 2  # the worker and the engine

        server.start()
        before = {trial.number: trial for trial in client.trials(job.id, coefficients=True)}
        until(lambda: client.job(job.id).status.final, 400)
        job = client.job(job.id)
        assert job.status is Status.SUCCEEDED, job.error
        report = Report.model_validate(client.report(job.id))
        dataset = read(dataset_folder(job.request, Settings(home=folder / "home")))
        pulled = client.pull(str(job.artifact), folder / "pulled")
        yield Finished(server, client, job, before, report, dataset, pulled)
    finally:
        client.close()
        server.stop()


def test_the_job_went_on_and_no_finished_trial_was_repeated(finished: Finished) -> None:
    after = {trial.number: trial for trial in finished.client.trials(finished.job.id, coefficients=True)}
    assert len(finished.before) >= KILLED_AFTER
    for number, trial in finished.before.items():
        kept = after[number]
        assert (kept.created_at, kept.seconds, kept.coefficients) == (
            trial.created_at,
            trial.seconds,
            trial.coefficients,
        )
    assert len(after) == finished.job.request.search.trials
    origins = [trial.origin for trial in after.values() if ":" in trial.origin]
    assert len(set(origins)) == len(origins)  # no warm start twice


def test_every_stage_ran(finished: Finished) -> None:
    assert list(finished.job.seconds) == list(Stage)
    assert finished.job.winner is not None


def test_the_winner_keeps_what_its_parents_can(finished: Finished) -> None:
    report = finished.report
    winner, uniform = report.of("winner")[0], report.of("uniform")[0]
    parents = {parent.name: parent for parent in report.of("parent")}
    assert winner.refusal.value >= 0.9 * parents["chat"].refusal.value
    assert winner.compliance.value >= 0.9
    for domain, share in winner.domains.items():
        assert share.value >= 0.9 * parents[domain].domains[domain].value
    for axis, share in winner.shares.items():
        assert share.value > uniform.shares[axis].value or uniform.shares[axis].value >= 0.95


def test_the_pulled_files_are_those_of_the_manifest(finished: Finished) -> None:
    manifest = finished.client.artifact(str(finished.job.artifact))
    for file in manifest["files"]:
        content = (finished.pulled / file["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "recipe.yaml", "README.md"} <= set(
        os.listdir(finished.pulled)
    )


def test_the_card_states_the_scores_of_the_report(finished: Finished) -> None:
    card = (finished.pulled / "README.md").read_text()
    for share in finished.report.of("winner")[0].shares.values():
        assert f"{100 * share.value:.1f}" in card


def test_the_pulled_checkpoint_scores_the_same_in_transformers(finished: Finished) -> None:
    scores = score_pulled(finished.pulled, finished.dataset, finished.job.request.data.max_tokens)
    assert differences(scores, finished.report.of("winner")[0]) == {}


def test_the_pulled_checkpoint_scores_the_same_in_vllm(finished: Finished, vllm_engine: VllmEngine) -> None:
    vllm_engine.load(finished.pulled)
    samples = finished.dataset.of(Split.REPORT)
    scores = judged(vllm_engine, RulesJudge(), samples, finished.job.request.data.max_tokens)
    assert differences(scores, finished.report.of("winner")[0], tolerance=0.0) == {}


def test_the_pages_show_the_job(finished: Finished) -> None:
    with httpx.Client(base_url=finished.server.url, trust_env=False) as http:
        assert finished.job.id in http.get("/").text
        page = http.get(f"/jobs/{finished.job.id}")
        assert page.status_code == 200
        assert str(finished.job.artifact).partition("@")[0] in page.text
        report = http.get(f"/v1/merge_jobs/{finished.job.id}/report.html")
        assert report.headers["content-type"].startswith("text/html")


def test_the_same_data_is_not_generated_twice(finished: Finished) -> None:
    again = finished.client.submit(finished.job.request.model_copy(update={"name": "again"}))
    until(lambda: Stage.PARENTS in finished.client.job(again.id).seconds, 60)
    assert finished.client.job(again.id).seconds[Stage.DATA] < 5
    finished.client.cancel(again.id)
    until(lambda: finished.client.job(again.id).status is Status.CANCELLED, 20)
