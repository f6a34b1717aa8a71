"""Runs mergekit for many recipes in one process. Started with the interpreter that has mergekit, never imported.

    python peer_driver.py JOBS RESULTS

JOBS: JSON, a list of {"name": text, "recipe": file, "out": folder, "seed": number or null, "tokenizer": whether the
models have one}. RESULTS: JSON, {name: error or null}.
A recipe of several documents is a `mergekit-multi` one, whose unnamed document goes to "out".
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts.multimerge import main as run_stages


def merge(job: dict[str, Any]) -> None:
    recipe, out = Path(job["recipe"]), Path(job["out"])
    documents = list(yaml.safe_load_all(recipe.read_text()))
    if len(documents) > 1:
        run_stages(
            [str(recipe), "--out-path", str(out), "-I", f"{out}-stages", "--quiet"],
            standalone_mode=False,
        )
        return
    options = MergeOptions(
        quiet=True,
        write_model_card=False,
        random_seed=job["seed"],
        copy_tokenizer=job["tokenizer"],
        lora_merge_cache=f"{out}-adapters",
    )
    run_merge(MergeConfiguration.model_validate(documents[0]), str(out), options)


def attempt(job: dict[str, Any]) -> str | None:
    """None, or how mergekit failed."""
    try:
        merge(job)
    except Exception as error:  # noqa: BLE001  whatever it is, the other recipes go on
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    jobs, results = sys.argv[1:]
    torch.set_num_threads(1)
    errors = {job["name"]: attempt(job) for job in json.loads(Path(jobs).read_text())}
    Path(results).write_text(json.dumps(errors))
