"""How jobs look in a terminal."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from service.jobs.schemas import EventView, MergeJob, MergeJobRequest, Progress, Stage, Status
from service.jobs.terminal import duration, follow, job_details, job_table, told

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def job(request_: MergeJobRequest) -> MergeJob:
    return MergeJob(
        id="job_1",
        name="toy",
        status=Status.RUNNING,
        stage=Stage.SEARCH,
        progress=Progress(stage=Stage.SEARCH, done=30, total=100, unit="trials", note="best [0.9]", eta_seconds=95),
        request=request_,
        created_at=MOMENT,
        started_at=MOMENT,
        finished_at=None,
        seconds={Stage.DATA: 61.5, Stage.PARENTS: 2.0, Stage.SEARCH: 40.0},
    )


def drawn(thing: object, *, terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), width=110, force_terminal=terminal, color_system=None)
    console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1:00 min"), (187.4, "3:07 min"), (7500, "2:05 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_running_job_shows_its_stages_and_one_bar(job: MergeJob) -> None:
    lines = drawn(job_details(job)).splitlines()
    assert "toy" in lines[0]
    assert "running" in lines[0]
    by_stage = {line.split()[1]: line for line in lines[1:]}
    assert "✓" in by_stage["data"]
    assert "1:02 min" in by_stage["data"]
    assert "›" in by_stage["search"]
    assert "30/100 trials" in by_stage["search"]
    assert "1:35 min left" in by_stage["search"]
    assert "best [0.9]" in by_stage["search"], "what a stage says is no markup"
    assert "·" in by_stage["export"]
    assert len(lines) == 7


def test_a_failed_job_shows_where_and_why(job: MergeJob) -> None:
    failed = job.model_copy(update={"status": Status.FAILED, "error": "no memory\n  mend: more", "finished_at": MOMENT})
    text = drawn(job_details(failed))
    assert "✗  search" in text
    assert "✓  parents" in text
    assert "no memory" in text
    assert "mend: more" in text


def test_the_list_has_a_line_a_job(job: MergeJob) -> None:
    done = job.model_copy(update={"id": "job_2", "status": Status.SUCCEEDED, "finished_at": MOMENT.replace(minute=6)})
    lines = drawn(job_table([job, done])).splitlines()
    assert len(lines) == 3
    assert "search 30/100" in lines[1]
    assert "succeeded" in lines[2]
    assert "2:00 min" in lines[2]


@pytest.mark.parametrize("kind", ["status", "stage", "progress", "trial"])
def test_what_the_picture_shows_is_not_told_again(kind: str) -> None:
    event = EventView(id=1, created_at=MOMENT, type=kind, message="x")  # type: ignore[arg-type]
    assert told(event) is None


class Played:
    """A job that goes on at every look."""

    def __init__(self, *looks: tuple[MergeJob, list[EventView]]) -> None:
        self._looks = list(looks)

    def job(self, _job_id: str) -> MergeJob:
        return self._looks[0][0]

    def events(self, _job_id: str, *, after: int) -> list[EventView]:
        events = [event for event in self._looks[0][1] if event.id > after]
        if len(self._looks) > 1:
            self._looks.pop(0)
        return events


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("as_json", [True, False])
def test_following_ends_with_the_job_and_misses_nothing(
    job: MergeJob, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool, as_json: bool
) -> None:
    monkeypatch.setattr("service.jobs.terminal.time.sleep", lambda _seconds: None)
    done = job.model_copy(update={"status": Status.SUCCEEDED, "progress": None, "artifact": "local/toy@0"})
    first = EventView(id=1, created_at=MOMENT, type="warning", message="a [warning]")
    last = EventView(id=2, created_at=MOMENT, type="message", message="published")
    console = Console(file=io.StringIO(), width=110, force_terminal=terminal, color_system=None)
    ticks: list[int] = []
    played = Played((job, [first]), (job, [first]), (done, [first, last]), (done, [first, last]))
    assert follow(played, "job_1", console, as_json=as_json, tick=lambda: ticks.append(1)) == done
    assert isinstance(console.file, io.StringIO)
    shown, printed = console.file.getvalue(), capsys.readouterr().out
    assert ticks
    if as_json:
        assert shown == ""
        assert [line[:7] for line in printed.splitlines()] == ['{"id":1', '{"id":2', '{"id":"']
    else:
        assert printed == ""
        assert shown.count("warning: a [warning]") == 1
        assert shown.count("published") == 1
