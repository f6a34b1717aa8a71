"""Real, short stages: they count trials into SQL, slowly enough to be killed in between."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from datagen.errors import DataError
from optimizer.merging.recipe import Coefficients
from optimizer.search.trials import TrialRecord
from service.jobs.context import StageContext
from service.jobs.schemas import Stage

#: seconds one trial takes
PACE = float(os.environ.get("TEMPER_TEST_PACE", "0.02"))


def _data(context: StageContext) -> None:
    for done in range(5):
        context.progress(done, 5, "questions")
        time.sleep(PACE)
    context.results.put(Stage.DATA, {"rows": 5})


def _parents(context: StageContext) -> None:
    assert context.results.get(Stage.DATA) == {"rows": 5}
    context.warning("the parents were not really looked at", parents=list(context.request.models))


def _search(context: StageContext) -> None:
    total = context.request.search.trials
    finished = context.trials.finished()
    for number in range(total):
        context.progress(len(finished), total, "trials", f"trial {number}")
        if number in finished:
            continue
        with (context.folder / "evaluated.txt").open("a") as log:  # every evaluation, also those repeated by mistake
            log.write(f"{number}\n")
        time.sleep(PACE)
        finished[number] = _trial(number, context)
        context.trials.record(finished[number])
    context.progress(total, total, "trials")


def _trial(number: int, context: StageContext) -> TrialRecord:
    models = tuple(context.request.models)
    return TrialRecord(
        number=number,
        origin="uniform" if number == 0 else "tpe",
        coefficients=Coefficients.constant(models, ("embedding", "head"), dict.fromkeys(models, number / 10)),
        scores={"refusal": number / 100, "compliance": 1 - number / 100},
        prompt_scores={"refusal": [0.5, 0.25], "compliance": [1.0]},
        seconds=PACE,
        seed=number,
        state="complete",
        worker=context.worker,
        created_at=datetime.now(UTC),
    )


def _select(context: StageContext) -> None:
    if context.request.name == "unlucky":
        raise DataError("the finalists all write gibberish", mend="search longer")
    if context.request.name == "deadly":
        os.kill(os.getpid(), 9)
    if context.request.name == "broken":
        raise ZeroDivisionError("division by zero")
    context.trials.judge({0: {"refusal": 1.0, "compliance": 0.5}})
    context.choose(0)


def _report(context: StageContext) -> None:
    context.results.put(Stage.REPORT, {"winner": 0})
    context.document("report.html", "<!doctype html><title>Report</title>")


def _export(context: StageContext) -> None:
    folder = context.folder / "export"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "toy"}))
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40_000)
    context.publish(Path(folder))


STAGES = {
    Stage.DATA: _data,
    Stage.PARENTS: _parents,
    Stage.SEARCH: _search,
    Stage.SELECT: _select,
    Stage.REPORT: _report,
    Stage.EXPORT: _export,
}
