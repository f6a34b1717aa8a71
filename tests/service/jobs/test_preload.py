import sys
from pathlib import Path

import pytest

from service.jobs.preload import Preloaded
from service.jobs.schemas import Stage
from tests.service.jobs.short_stages import STAGES


def test_a_stage_is_there_when_it_is_asked_for() -> None:
    stages = Preloaded("tests.service.jobs.short_stages")
    assert {stage: stages[stage] for stage in stages} == STAGES
    assert len(stages) == len(Stage)


def test_who_asks_gets_the_imports_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_stages.py").write_text("raise OSError('libtorch.so: wrong ELF class')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OSError, match="wrong ELF class"):
        Preloaded("broken_stages")[Stage.DATA]
    sys.modules.pop("broken_stages", None)
