"""How figures and times read."""

import math
from datetime import UTC, datetime

import pytest

from service.dashboard.formatting import coefficient, count, duration, eta, moment, score, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (4320, "1 h 12 min"),
        (90000, "1 d 1 h"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3, "a few seconds left"),
        (41, "about 45 s left"),
        (70, "about 1 min left"),
        (7200, "about 2.0 h left"),
        (None, ""),
        (math.inf, ""),
    ],
)
def test_an_eta_claims_no_more_than_it_knows(seconds: float | None, text: str) -> None:
    assert eta(seconds) == text


def test_figures() -> None:
    assert score(0.95) == "0.950"
    assert score(None) == score(math.nan) == "–"
    assert coefficient(-0.5) == "−0.50"
    assert size(812) == "812 B"
    assert size(16_060_000_000) == "16.1 GB"
    assert count(1, "trial") == "1 trial"
    assert count(12_000, "trial") == "12\u2009000 trials"


def test_a_time_without_zone_is_utc() -> None:
    naive, aware = datetime(2026, 3, 14, 9, 26), datetime(2026, 3, 14, 9, 26, tzinfo=UTC)
    assert moment(naive) == moment(aware)
    assert 'datetime="2026-03-14T09:26:00+00:00"' in moment(aware)
    assert "14 Mar 2026, 09:26 UTC" in moment(aware)
