"""What a stage of a job gets: the request, a folder, places to leave results, and the duty to report progress."""

import time
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from datagen.engines.vllm import VllmEngine
from service.artifacts.store import Store
from service.events import repository as events
from service.jobs import repository
from service.jobs.claim import Claim
from service.jobs.desk import Desk, Meter
from service.jobs.schemas import MergeJobRequest, Progress, Stage
from service.jobs.tables import JobRow
from service.settings import Settings
from service.trials.log import JobTrials

#: shortest time between two progress lines in the database, in seconds
WRITE_SECONDS = 0.5


class Results:
    """What stages leave for later stages and for readers: one JSON object a stage."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    def get(self, stage: Stage) -> dict[str, Any]:
        """What `stage` left; empty before it did."""
        with self._claim.database.read() as session:
            row = repository.stage(session, self._claim.job_id, stage)
            return dict(row.result or {}) if row else {}

    def put(self, stage: Stage, result: dict[str, Any]) -> None:
        """Leave a result (JSON values, no NaN), in place of an earlier one."""

        def work(session: Session) -> None:
            row = repository.stage(session, self._claim.job_id, stage)
            if row is None:
                raise KeyError(f"stage {stage} of job {self._claim.job_id} has not begun")
            row.result = result

        self._claim.write(work)


class StageContext:
    """Everything one stage of one job may touch.

    Attributes:
        job_id, request: what runs.
        stage: which stage this is.
        folder: the job's working folder; survives restarts, is the worker's own.
        settings, worker: of the process that runs the stage.
        trials: the job's trials (a `TrialLog`).
        results: JSON that stages leave.
    """

    def __init__(self, claim: Claim, stage: Stage, request: MergeJobRequest, settings: Settings, desk: Desk) -> None:
        self._claim, self._desk = claim, desk
        self.job_id, self.worker = claim.job_id, claim.worker
        self.stage, self.request, self.settings = stage, request, settings
        self.folder = settings.jobs / claim.job_id
        self.trials = JobTrials(claim.database, claim.job_id, claim.write)
        self.results = Results(claim)
        self._meter = Meter()
        self._written = 0.0

    @property
    def seconds(self) -> dict[Stage, float]:
        """Time spent in each stage so far, the one that runs included."""
        with self._claim.database.read() as session:
            before = {stage: row.seconds for stage, row in repository.stages(session, self.job_id).items()}
        return {**before, self.stage: self._desk.spent()}

    def check(self) -> None:
        """Raises: JobStopped, when the job was cancelled. Free; call it anywhere."""
        self._claim.check()

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Say how far the stage is. Call it often: most calls cost nothing, and a cancel acts through it.

        Raises:
            JobStopped: the job was cancelled, or another worker has it.
        """
        self._claim.check()
        eta = self._meter.eta(done, total, unit)
        moment = time.monotonic()
        if moment - self._written < WRITE_SECONDS and done < total:
            return
        self._written = moment
        line = Progress(stage=self.stage, done=done, total=total, unit=unit, note=note, eta_seconds=eta)
        self._claim.write(lambda session: self._write_progress(session, line))

    def _write_progress(self, session: Session, line: Progress) -> None:
        repository.change(session, self.job_id, JobRow.owner == self.worker, progress=line.model_dump(mode="json"))
        row = repository.stage(session, self.job_id, self.stage)
        if row is None:
            return
        row.seconds = self._desk.spent()
        measure = f"{line.unit}/{line.total}"
        if line.done > row.furthest.get(measure, 0):
            row.furthest = {**row.furthest, measure: line.done}
            row.crashes = 0

    def message(self, text: str, **data: object) -> None:
        """A line of the job's history."""
        self._tell("message", text, data)

    def warning(self, text: str, **data: object) -> None:
        """A line of the job's history that asks for attention."""
        self._tell("warning", text, data)

    def _tell(self, kind: str, text: str, data: dict[str, object]) -> None:
        self._claim.write(lambda session: events.add(session, self.job_id, kind, text, data))

    def document(self, name: str, text: str) -> None:
        """Leave a text for readers; the report stage leaves `report.html`."""
        self._claim.write(lambda session: repository.put_document(session, self.job_id, name, text))

    def read_document(self, name: str) -> str:
        """A text that an earlier stage left; empty if there is none."""
        with self._claim.database.read() as session:
            return repository.document(session, self.job_id, name) or ""

    def choose(self, trial: int) -> None:
        """Note the number of the trial that won."""

        def work(session: Session) -> None:
            repository.change(session, self.job_id, winner=trial)
            events.add(session, self.job_id, "message", f"trial {trial} was chosen", {"trial": trial})

        self._claim.write(work)

    def engine(self, model: Path, *, max_model_len: int | None = None) -> VllmEngine:
        """The engine that writes text: started with `model` on the first call of a job, kept until the job ends.

        Returns at once; the engine starts beside whatever the stage does next. A later call gets the same engine,
        whatever `model` it names: `load` or `call` bring other weights.
        """
        self._claim.check()
        return self._desk.engine(model, max_model_len)

    def release_engine(self) -> None:
        """Stop the engine before the job's end, where its memory is needed; the next `engine` starts it anew."""
        self._desk.release()

    def publish(self, folder: Path) -> str:
        """Publish a finished checkpoint folder as the job's artifact, move it into the store.

        Returns:
            NAMESPACE/NAME@SHA. Publishing the same contents again gives the same.
        """
        self._claim.check()
        artifact = Store(self.settings.artifacts).publish(folder, self.settings.namespace, self.request.name)

        def work(session: Session) -> None:
            repository.change(session, self.job_id, artifact=artifact)
            events.add(session, self.job_id, "message", f"published {artifact}", {"artifact": artifact})

        self._claim.write(work)
        return artifact
