"""The job file that a page shows."""

from datetime import UTC, datetime
from pathlib import Path

from service.dashboard.jobpage import request_yaml
from service.jobs import file
from service.jobs.schemas import MergeJob, Status
from tests.browser.sample import request


def test_it_is_a_file_that_submits_the_same_job(tmp_path: Path) -> None:
    job = MergeJob(
        id="job_1",
        name="field-assistant",
        status=Status.QUEUED,
        stage=None,
        progress=None,
        request=request(),
        created_at=datetime.now(UTC),
        started_at=None,
        finished_at=None,
    )
    path = tmp_path / "job.yaml"
    path.write_text(request_yaml(job), encoding="utf-8")
    assert file.read(path) == job.request
