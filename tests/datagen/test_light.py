"""The API process imports these: they must stay light."""

import subprocess
import sys
from pathlib import Path

_MODULES = (
    *("errors", "samples", "settings", "taxonomy", "prompts", "pool", "revision", "storage", "card"),
    *("pipeline", "engines.base", "engines.vllm", "judges.base", "judges.rules"),
)
_HEAVY = ("torch", "transformers", "vllm", "pandas")


def test_neither_torch_nor_vllm_is_imported() -> None:
    imports = "; ".join(f"import datagen.{module}" for module in _MODULES)
    code = f"import sys; {imports}; print([name for name in {_HEAVY!r} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert run.stdout.strip() == "[]"
