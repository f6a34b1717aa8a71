"""The report as one self-contained HTML page: no script, no network, light and dark by the reader's setting."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from optimizer.reporting.figures import fronts, heatmap, intervals
from optimizer.reporting.report import Report
from optimizer.search.evaluation import Share

_ENVIRONMENT = Environment(
    loader=PackageLoader("optimizer.reporting"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


_ENVIRONMENT.filters |= {"percent": _percent, "duration": _duration}


def render_page(report: Report) -> str:
    """The page. Every name and text is escaped; the figures are inline SVG."""
    winner = report.of("winner")[0]
    shown = [c for c in report.candidates if c.judged is not None]
    best: dict[str, Share] = {
        axis: max(
            (model.shares[axis] for model in report.models if axis in model.shares), key=lambda share: share.value
        )
        for axis in report.axes
    }
    return _ENVIRONMENT.get_template("report.html").render(
        report=report,
        winner=winner,
        best=best,
        finalists=sorted(shown, key=lambda c: c.number != report.winner.number),
        parents=report.of("parent"),
        intervals=intervals(report),
        fronts=fronts(report),
        heatmap=heatmap(report),
    )
