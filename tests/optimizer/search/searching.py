"""A small search that tests can run here, in threads, or in processes that are killed.

`python -m tests.optimizer.search.searching URL FOLDER [key=value …]` runs one worker on the study of FOLDER.
"""

import fcntl
import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from optimizer.merging.layout import Layout
from optimizer.merging.recipe import Coefficients, Granularity, MergeSettings
from optimizer.search.objectives.base import AxisScores, Scores
from optimizer.search.settings import SearchSettings
from optimizer.search.space import Space
from optimizer.search.study import Crew, StudyPlan, run_study
from optimizer.search.trials import TrialRecord

AXES = ("refusal", "compliance", "bio")
GROUPS = ("embedding", "layers.0.mlp", "layers.1.mlp", "head")


def space(bounds: tuple[float, float] = (0.0, 1.2)) -> Space:
    layout = Layout(GROUPS, {f"{group}.weight": group for group in GROUPS})
    return Space.of(layout, ("bio", "chat"), MergeSettings(granularity=Granularity.LAYER_COMPONENT, bounds=bounds))


def warm() -> tuple[tuple[str, Coefficients], ...]:
    points = {"model:bio": {"bio": 1.0}, "model:chat": {"chat": 1.0}, "uniform": {"bio": 0.5, "chat": 0.5}}
    return tuple((name, Coefficients.constant(("bio", "chat"), GROUPS, values)) for name, values in points.items())


def plan(**settings: object) -> StudyPlan:
    wanted: dict[str, object] = {"trials": 12, "sampler": "tpe", "seed": 3}
    return StudyPlan("a search", space(), AXES, SearchSettings.model_validate(wanted | settings), warm())


def score(coefficients: Coefficients) -> Scores:
    """Smooth, with another best point on each axis: bio wants its own model, refusal the other one."""
    bio, chat = coefficients.values

    def near(values: tuple[float, ...], target: float) -> float:
        return math.exp(-sum((value - target) ** 2 for value in values) / len(values))

    values = {"refusal": near(chat, 1.0), "compliance": near(chat, 0.3), "bio": near(bio, 0.9)}
    return Scores({axis: AxisScores(value, (value, value / 2), "nats") for axis, value in values.items()})


class FileLog:
    """Records as lines of a file that survives kills and is shared by processes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "records.jsonl"

    def record(self, trial: TrialRecord) -> None:
        append(self._path, asdict(trial) | {"created_at": trial.created_at.isoformat()})

    def finished(self) -> Mapping[int, TrialRecord]:
        found: dict[int, TrialRecord] = {}
        for line in lines(self._path):
            coefficients = Coefficients(
                tuple(line["coefficients"]["models"]),
                tuple(line["coefficients"]["groups"]),
                tuple(map(tuple, line["coefficients"]["values"])),
            )
            trial = TrialRecord(
                **line | {"coefficients": coefficients, "created_at": datetime.fromisoformat(line["created_at"])}
            )
            assert trial.number not in found, f"trial {trial.number} is recorded twice"
            found[trial.number] = trial
        return found


def append(path: Path, value: object) -> None:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class DyingLog(FileLog):
    """Dies of SIGKILL right after a record is kept, before the study hears of it."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder)
        self._at = at

    def record(self, trial: TrialRecord) -> None:
        super().record(trial)
        if len(self.finished()) == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def main(url: str, folder: Path, options: Mapping[str, str]) -> None:
    worker = options.get("worker", "local")
    others = set(filter(None, options.get("alive", "").split(",")))

    def evaluate(coefficients: Coefficients) -> Scores:
        append(folder / "asked.jsonl", {"worker": worker, "values": space().values(coefficients)})
        if len(lines(folder / "asked.jsonl")) == int(options.get("die_scoring", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(options.get("seconds", 0)))
        return score(coefficients)

    log = DyingLog(folder, int(options["die_recording"])) if "die_recording" in options else FileLog(folder)
    settings = {key: options[key] for key in ("trials", "sampler") if key in options}
    run_study(url, plan(**settings), evaluate, log, crew=Crew(worker, others.__contains__))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), dict(argument.split("=", 1) for argument in sys.argv[3:]))
