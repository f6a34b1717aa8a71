"""Figures of the page as inline SVG: no script, no network, readable in light and dark by the page's colours.

Every text goes through `Markup.format`, which escapes it: names come from users and from models.
"""

import math
import re
from collections.abc import Sequence

from markupsafe import Markup

from optimizer.reporting.report import Candidate, ModelScores, Report

_DOTS = 1500  # more trials than this and only the front and the first of them are drawn
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
_LAYER = re.compile(r"^(?:.*\.)?layers?\.(\d+)\.(.+)$")


def intervals(report: Report) -> Markup:
    """One panel an axis, one row a model: the share on the report split and its 95 % interval."""
    columns = min(3, len(report.axes))
    width, left, row, gap = 1080 // columns - 16, 118, 26, 20
    height = 40 + row * len(report.models) + 24
    lines = -(-len(report.axes) // columns)
    panels = []
    for number, axis in enumerate(report.axes):
        x, y = (number % columns) * (width + 24), (number // columns) * (height + gap)
        panels.append(_interval_panel(report, axis, (x, y), (width, left, row)))
    label = "Shares on the report split with 95 % intervals, by axis and model"
    return _svg(columns * (width + 24) - 24, lines * (height + gap) - gap, label, panels)


def _interval_panel(report: Report, axis: str, at: tuple[int, int], size: tuple[int, int, int]) -> Markup:
    width, left, row = size
    span = width - left - 46
    bottom = 34 + row * len(report.models)
    parts = [Markup('<text class="title" x="0" y="16">{}</text>').format(axis)]
    for tick in (0.0, 0.5, 1.0):
        x = left + span * tick
        parts.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="28" y2="{1}"/>').format(_n(x), bottom))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{:.0%}</text>').format(
                _n(x), bottom + 15, tick
            )
        )
    for index, model in enumerate(report.models):
        share = model.shares.get(axis)
        if share is None:
            continue
        y = 44 + row * index
        low, mid, high = (left + span * value for value in (share.low, share.value, share.high))
        parts.append(
            Markup(
                '<g class="{role}"><title>{name}: {value:.1%} of {n} ({lo:.1%} … {hi:.1%})</title>'
                '<text class="name" x="{tx}" y="{ty}" text-anchor="end">{short}</text>'
                '<line class="bar" x1="{x1}" x2="{x2}" y1="{y}" y2="{y}"/><circle class="dot" cx="{x}" cy="{y}" r="5"/>'
                '<text class="value" x="{vx}" y="{ty}">{value:.0%}</text></g>'
            ).format(
                role=model.role, name=model.name, short=_short(model.name, 15), n=share.n, value=share.value,
                lo=share.low, hi=share.high, tx=left - 12, ty=y + 4, y=y, x1=_n(low), x2=_n(high), x=_n(mid),
                vx=left + span + 10,
            )
        )  # fmt: skip
    return _at(at, parts)


def fronts(report: Report) -> Markup:
    """Two panels, refusal and compliance against the mean over the domains, as the search saw the candidates."""
    panels = [_front_panel(report, axis, (number * 552, 0)) for number, axis in enumerate(("refusal", "compliance"))]
    return _svg(1096, 372, "Candidates of the search: refusal and compliance against the mean over the domains", panels)


def _front_panel(report: Report, axis: str, at: tuple[int, int]) -> Markup:
    left, top, width, height = 46, 30, 470, 310
    shown = [c for c in report.candidates if c.state == "complete" and axis in c.search]
    if len(shown) > _DOTS:
        shown = shown[:_DOTS] + [c for c in shown[_DOTS:] if c.on_front or c.number == report.winner.number]
    named = [model for model in report.models if model.search and axis in model.search]
    dots = [(c, _mean_domain(c.search), c.search[axis]) for c in shown]
    marks = [(m, _mean_domain(m.search or {}), (m.search or {})[axis]) for m in named]
    xs = _ticks([x for _, x, _ in dots] + [x for _, x, _ in marks])
    ys = _ticks([y for _, _, y in dots] + [y for _, _, y in marks])

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * (x - xs[0]) / (xs[-1] - xs[0]), top + height * (1 - (y - ys[0]) / (ys[-1] - ys[0]))

    parts = [Markup('<text class="title" x="0" y="16">{}</text>').format(f"{axis} against domains (mean)")]
    parts += _axes(xs, ys, (left, top, width, height))
    parts += [_dot(candidate, report.winner.number, place(x, y)) for candidate, x, y in dots]
    taken: list[tuple[float, float]] = []
    for model, x, y in sorted(marks, key=lambda mark: mark[0].role == "winner"):
        parts.append(_mark(model, place(x, y), taken, left + width))
    return _at(at, parts)


def _dot(candidate: Candidate, winner: int, at: tuple[float, float]) -> Markup:
    kind = "finalist" if candidate.judged is not None else "front" if candidate.on_front else "trial"
    title = f"trial {candidate.number} ({candidate.origin}): " + ", ".join(
        f"{axis} {value:.3f}" for axis, value in candidate.search.items()
    )
    if candidate.number == winner:
        title = "winner, " + title
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
        kind, _n(at[0]), _n(at[1]), 3 if kind == "trial" else 4.5, title
    )


def _mark(model: ModelScores, at: tuple[float, float], taken: list[tuple[float, float]], right: float) -> Markup:
    """A model with its name beside it, moved up or down where another name stands already."""
    x, y = at
    name = _short(model.name, 18)
    beside = x + 10 + 7 * len(name) < right
    label = y + 4
    while any(abs(label - other) < 14 and abs(x - there) < 130 for there, other in taken):
        label -= 14
    taken.append((x, label))
    shape = {
        "base": '<rect class="mark" x="{x0}" y="{y0}" width="10" height="10"/>',
        "parent": '<circle class="mark" cx="{x}" cy="{y}" r="6"/>',
        "uniform": '<path class="mark" d="M{x} {top}L{x1} {y1}L{x0} {y1}Z"/>',
        "winner": '<path class="mark" d="M{x} {top}L{far} {y}L{x} {low}L{near} {y}Z"/>',
    }[model.role]
    drawn = Markup(shape).format(
        x=_n(x), y=_n(y), x0=_n(x - 5), y0=_n(y - 5), x1=_n(x + 5), y1=_n(y + 5), top=_n(y - 8), low=_n(y + 8),
        far=_n(x + 8), near=_n(x - 8),
    )  # fmt: skip
    return Markup(
        '<g class="{}">{}<text class="label" x="{}" y="{}" text-anchor="{}">{}</text><title>{}</title></g>'
    ).format(
        model.role, drawn, _n(x + 11 if beside else x - 11), _n(label), "start" if beside else "end", name, model.name
    )


def _axes(xs: Sequence[float], ys: Sequence[float], box: tuple[int, int, int, int]) -> list[Markup]:
    """Grid and numbers at the ticks `xs` and `ys`, evenly spaced over the box."""
    left, top, width, height = box
    parts = []
    for index, tick in enumerate(xs):
        x = left + width * index / (len(xs) - 1)
        parts.append(
            Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(_n(x), top, top + height)
        )
        text = Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{:.2f}</text>')
        parts.append(text.format(_n(x), top + height + 17, tick))
    for index, tick in enumerate(ys):
        y = top + height * (1 - index / (len(ys) - 1))
        parts.append(
            Markup('<line class="grid" x1="{1}" x2="{2}" y1="{0}" y2="{0}"/>').format(_n(y), left, left + width)
        )
        text = Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{:.2f}</text>')
        parts.append(text.format(left - 7, _n(y + 4), tick))
    return parts


def heatmap(report: Report) -> Markup:
    """The winner's coefficients: a block a model, layers across, components down, what is in no layer on the left."""
    winner = report.winner
    layers = sorted({int(found[1]) for group in winner.groups if (found := _LAYER.match(group))})
    components = list(dict.fromkeys(found[2] for group in winner.groups if (found := _LAYER.match(group))))
    others = [group for group in winner.groups if not _LAYER.match(group)]
    cell = max(14, min(56, 700 // max(1, len(layers))))
    largest = max((abs(value) for row in winner.values for value in row), default=0.0) or 1.0
    rows = max(len(components), len(others), 1)
    block = 30 + rows * 26 + 26
    parts = []
    for number, (model, row) in enumerate(zip(winner.models, winner.values, strict=True)):
        cells = [Markup('<text class="title" x="0" y="16">{}</text>').format(model)]
        value_of = dict(zip(winner.groups, row, strict=True))
        for index, group in enumerate(others):
            cells.append(_row_name(group, 78, index))
            cells.append(_cell((84, 30 + index * 26), 56, value_of[group], largest, group))
        for index, component in enumerate(components):
            cells.append(_row_name(component, 244, index))
        for group in winner.groups:
            if found := _LAYER.match(group):
                x, y = 252 + layers.index(int(found[1])) * cell, 30 + components.index(found[2]) * 26
                cells.append(_cell((x, y), cell, value_of[group], largest, group))
        for index, layer in enumerate(layers):
            if len(layers) <= 24 or index % 4 == 0:
                cells.append(
                    Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                        _n(252 + (index + 0.5) * cell), 30 + len(components) * 26 + 14, layer
                    )
                )
        parts.append(_at((0, number * block), cells))
    width = max(720, 262 + cell * len(layers))
    return _svg(width, block * len(winner.models), "Coefficients of the winner by model, layer and component", parts)


def _row_name(name: str, x: int, index: int) -> Markup:
    return Markup('<text class="name" x="{}" y="{}" text-anchor="end">{}</text>').format(
        x, 30 + index * 26 + 17, _short(name, 13)
    )


def _cell(at: tuple[float, float], width: float, value: float, largest: float, group: str) -> Markup:
    strength = abs(value) / largest
    number = Markup('<text class="cell {}" x="{}" y="{}" text-anchor="middle">{:.2f}</text>').format(
        "strong" if strength > 0.55 else "", _n(at[0] + width / 2), at[1] + 17, value
    )
    return Markup(
        '<g><title>{}: {:.4f}</title><rect class="{}" fill-opacity="{:.3f}" x="{}" y="{}" width="{}" height="24" '
        'rx="3"/>{}</g>'
    ).format(
        group, value, "minus" if value < 0 else "plus", 0.06 + 0.9 * strength, _n(at[0]), _n(at[1]), _n(width - 2),
        number if width >= 34 else "",
    )  # fmt: skip


def _svg(width: float, height: float, label: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {0} {1}" width="{0}" role="img" aria-label="{2}">{3}</svg>').format(
        _n(width), _n(height), label, Markup("").join(parts)
    )


def _at(at: tuple[float, float], parts: Sequence[Markup]) -> Markup:
    return Markup('<g transform="translate({} {})">{}</g>').format(_n(at[0]), _n(at[1]), Markup("").join(parts))


def _mean_domain(scores: dict[str, float]) -> float:
    domains = [value for axis, value in scores.items() if axis not in ("refusal", "compliance")]
    return sum(domains) / len(domains) if domains else 0.0


def _ticks(values: Sequence[float]) -> list[float]:
    """Three to seven round numbers, evenly spaced, that hold all values between the first and the last."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    step = next((step for step in _STEPS if high - low <= 5 * step), 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * index for index in range(first, max(last, first + 2) + 1)]


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
