"""What a job does, stage by stage.

A stage can be killed anywhere and called again: it goes on from what it kept. It reads what earlier stages left in
`context.results` and leaves its own there; everything it computes is a call into `datagen` or `optimizer`.
"""

from collections.abc import Callable, Mapping

from service.jobs.context import StageContext
from service.jobs.schemas import Stage
from service.jobs.stages.data import make_data
from service.jobs.stages.export import export
from service.jobs.stages.parents import score_parents
from service.jobs.stages.report import report
from service.jobs.stages.search import search
from service.jobs.stages.select import select

__all__ = ["STAGES"]

STAGES: Mapping[Stage, Callable[[StageContext], None]] = {
    Stage.DATA: make_data,
    Stage.PARENTS: score_parents,
    Stage.SEARCH: search,
    Stage.SELECT: select,
    Stage.REPORT: report,
    Stage.EXPORT: export,
}
