import os
import subprocess
import sys
from pathlib import Path

from service.kit import bytecode
from tests.service.jobs.processes import ROOT


def test_compiled_modules_go_into_the_cache_where_they_may_not_lie_beside_the_sources(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "something.py").write_text("x = 1")
    code = "from service.kit import bytecode; bytecode.keep(); import something"
    environment = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "TEMPER_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": f"{ROOT}:{tmp_path / 'src'}",
    }
    environment.pop("PYTHONPYCACHEPREFIX", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path.name.partition(".")[0] for path in (tmp_path / "cache").rglob("something*.pyc")] == ["something"]
    assert not list((tmp_path / "src").rglob("*.pyc"))


def test_a_child_inherits_it_and_what_the_user_set_stays() -> None:
    assert bytecode.inherit({"A": "b"}) == {"A": "b"}
    child = bytecode.inherit({"PYTHONDONTWRITEBYTECODE": "1", "A": "b"})
    assert child == {"A": "b", "PYTHONPYCACHEPREFIX": str(bytecode.folder())}
    assert bytecode.inherit({"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/x"}) == {
        "PYTHONPYCACHEPREFIX": "/x"
    }
