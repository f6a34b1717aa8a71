"""The demo's result as a table for a terminal."""

from rich.table import Table

from optimizer.reporting.report import ModelScores, Report
from optimizer.search.evaluation import Share


def score_table(report: Report) -> Table:
    """Every model on the report split, an axis a column, with 95 % intervals."""
    table = Table(
        title=f"Per cent, with 95 % intervals, on {report.rows['report']} prompts that nothing was chosen on",
        title_justify="left",
        title_style="dim",
        box=None,
        header_style="dim",
        padding=(0, 2, 0, 0),
    )
    table.add_column("model", no_wrap=True)
    for axis in report.axes:
        table.add_column(axis, justify="right", no_wrap=True)
    for model in report.models:
        table.add_row(model.name, *_cells(report, model), style="bold" if model.role == "winner" else None)
    return table


def _cells(report: Report, model: ModelScores) -> list[str]:
    return [_cell(model.shares[axis]) for axis in report.axes]


def _cell(share: Share) -> str:
    return f"{100 * share.value:.1f}  {100 * share.low:.0f}–{100 * share.high:.0f}"
