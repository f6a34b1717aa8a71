"""Models that several tests read and none changes."""

from pathlib import Path

import pytest

from tests.optimizer.merging.vocabulary.speakers import BYTES, make_speaker


@pytest.fixture(scope="session")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """base (1): 258 tokens. tool (2): <tool> at 258. both (3): <x> at 258, <tool> at 259. turned (4): the base's, bytes
    in reverse. padded (5): the base's, with 300 rows. mute (6): no tokenizer."""
    home = tmp_path_factory.mktemp("speakers")
    return {
        "base": make_speaker(home / "base", 1, 258, template="base {{ messages }}"),
        "tool": make_speaker(home / "tool", 2, 259, special=["<tool>"], template="tool {{ messages }}"),
        "both": make_speaker(home / "both", 3, 260, special=["<x>", "<tool>"], template="tool {{ messages }}\n"),
        "turned": make_speaker(home / "turned", 4, 258, tokens=("<s>", "</s>", *BYTES[::-1])),
        "padded": make_speaker(home / "padded", 5, 300),
        "mute": make_speaker(home / "mute", 6, 258, tokenizer=False),
    }
