"""How numbers, times and names read on a page: the Jinja filters, all pure."""

import json
import math
import re
from datetime import UTC, datetime

from jinja2 import Environment
from markupsafe import Markup

_FORMS = {"full": "%-d %b %Y, %H:%M UTC", "short": "%-d %b, %H:%M", "clock": "%H:%M:%S"}
_UNITS = ("B", "KB", "MB", "GB", "TB")


def duration(seconds: float | None) -> str:
    """Seconds as people say them: "0.4 s", "43 s", "2 min 05 s", "1 h 12 min", "3 d 4 h"; an en dash when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def eta(seconds: float | None) -> str:
    """Remaining time, rounded the way a person would: "a few seconds left", "about 40 s left", "about 3 min left"."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 8:
        return "a few seconds left"
    if seconds < 55:
        return f"about {math.ceil(seconds / 5) * 5} s left"
    if seconds < 3300:
        return f"about {max(1, round(seconds / 60))} min left"
    return f"about {seconds / 3600:.1f} h left"


def score(value: float | None) -> str:
    """A score in 0 … 1 with three digits; an en dash when there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def coefficient(value: float) -> str:
    """λ with two digits and a real minus sign."""
    return f"{value:.2f}".replace("-", "−")


def size(count: int) -> str:
    """Bytes in decimal units, as file sizes are shown on the Hub."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def aware(moment: datetime) -> datetime:
    """`moment` in UTC; SQLite gives times back without their zone."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def moment(value: datetime | None, form: str = "full") -> Markup:
    """A `<time>` element in UTC, which the page's script turns into the reader's own zone."""
    if value is None:
        return Markup("–")
    utc = aware(value)
    text = utc.strftime(_FORMS[form])
    return Markup('<time datetime="{}" data-form="{}">{}</time>').format(utc.isoformat(), form, text)


def words(name: str) -> str:
    """An identifier as words: "lm_cocktail" → "lm cocktail"."""
    return re.sub(r"[_]+", " ", name)


def count(number: int, noun: str) -> str:
    """ "1 trial", "12 trials"; thousands are set apart by a thin space."""
    return f"{number:,}".replace(",", "\u2009") + f" {noun if number == 1 else noun + 's'}"


def as_json(value: object) -> str:
    """Readable JSON; autoescape makes it safe in HTML."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def install(environment: Environment) -> None:
    """Give the templates every filter of this file."""
    for function in (duration, eta, score, coefficient, size, moment, words, count, as_json):
        environment.filters[function.__name__] = function
