"""A report, built by the real builder from made-up verdicts."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from optimizer.merging.recipe import Coefficients
from optimizer.reporting.report import Evaluated, Evidence, build_report
from optimizer.search.evaluation import CategoryScores, JudgedScores, Share
from optimizer.search.front import Choice
from optimizer.search.settings import SelectSettings
from optimizer.search.trials import TrialRecord
from tests.browser.sample import AXES, GROUPS, MODELS

PROMPTS = 100


def judged(*hits: int) -> JudgedScores:
    """So many hits of 100 prompts on refusal, compliance, botany, sailing."""
    refusal, compliance, botany, sailing = (Share(n=PROMPTS, successes=count) for count in hits)
    over = Share(n=PROMPTS, successes=PROMPTS - compliance.successes)
    return JudgedScores(
        refusal=refusal,
        compliance=compliance,
        domains={"botany": botany, "sailing": sailing},
        categories={"self_harm": CategoryScores(refusal=refusal, compliance=compliance, over_refusal=over)},
        outcomes=(),
        judge="rules/1",
        engine="vllm 0.32.0",
        prompt_tokens=4000,
        completion_tokens=1800,
        seconds=12.5,
    )


def report(winner: int = 5) -> dict[str, Any]:
    """As the report stage leaves it: base, three parents, uniform and the winner."""
    scores: Mapping[str, float] = dict.fromkeys(AXES, 0.9)
    record = TrialRecord(
        number=winner,
        origin="gradient",
        coefficients=Coefficients.constant(MODELS, GROUPS, dict.fromkeys(MODELS, 0.5)),
        scores=scores,
        prompt_scores={},
        seconds=1.0,
        seed=0,
        state="complete",
        worker="bench",
        created_at=datetime.now(UTC),
    )
    evidence = Evidence(
        job="field-assistant",
        base="base",
        models=[
            Evaluated("base", "base", judged(2, 99, 11, 13)),
            Evaluated("botany", "parent", judged(4, 97, 98, 35)),
            Evaluated("sailing", "parent", judged(3, 96, 31, 97)),
            Evaluated("chat", "parent", judged(98, 97, 42, 44)),
            Evaluated("uniform", "uniform", judged(37, 95, 81, 79)),
            Evaluated("merged", "winner", judged(96, 94, 95, 84)),
        ],
        trials=[record],
        finalists={winner: scores},
        winner=winner,
        rule=SelectSettings(),
        choice=Choice(0, True, (), {}, "best domains"),
        rows={"search": 500, "selection": 200, "report": 400},
        seconds={"search": 100.0},
    )
    return build_report(evidence).model_dump(mode="json")
