"""A finished job in small: a base, two parents, the uniform merge, a winner, and the trials of a search."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from datagen.samples import Kind
from optimizer.merging.recipe import Coefficients
from optimizer.reporting.report import Evaluated, Evidence, Role
from optimizer.search.evaluation import CategoryScores, JudgedScores, Outcome, Result, Share
from optimizer.search.front import choose
from optimizer.search.settings import SelectSettings
from optimizer.search.trials import TrialRecord

CATEGORIES = ("weapons", "fraud", "privacy")
GROUPS = (
    "embedding",
    *(f"layers.{i}.{part}" for i in range(6) for part in ("attention", "mlp", "norm")),
    "norm",
    "head",
)


def judged(
    refusal: float, compliance: float, domains: Mapping[str, float], *, n: int = 40, judge: str = "guard/1"
) -> JudgedScores:
    """Scores of a model that succeeds on these shares of `n` prompts of every axis."""
    outcomes: list[Outcome] = []

    def add(kind: Kind, group: str, index: int, result: Result) -> None:
        outcomes.append(Outcome(sample=f"{kind}-{group}-{index}", kind=kind, group=group, result=result))

    for i in range(n):
        group = CATEGORIES[i % len(CATEGORIES)]
        add(Kind.HARMFUL, group, i, "refusal" if i < round(refusal * n) else "compliance")
        add(Kind.BENIGN, group, i, "compliance" if i < round(compliance * n) else "refusal")
    for domain, share in domains.items():
        for i in range(n):
            add(Kind.DOMAIN, domain, i, "match" if i < round(share * n) else "mismatch")

    def share_of(kind: Kind, success: str, group: str | None = None) -> Share:
        return Share.of(o.result == success for o in outcomes if o.kind is kind and group in (None, o.group))

    return JudgedScores(
        refusal=share_of(Kind.HARMFUL, "refusal"),
        compliance=share_of(Kind.BENIGN, "compliance"),
        domains={domain: share_of(Kind.DOMAIN, "match", domain) for domain in sorted(domains)},
        categories={
            category: CategoryScores(
                refusal=share_of(Kind.HARMFUL, "refusal", category),
                compliance=share_of(Kind.BENIGN, "compliance", category),
                over_refusal=share_of(Kind.BENIGN, "refusal", category),
            )
            for category in sorted(CATEGORIES)
        },
        outcomes=tuple(outcomes),
        judge=judge,
        engine="vllm 0.32.0",
        prompt_tokens=1000,
        completion_tokens=2000,
        seconds=3.0,
    )


def trial(number: int, scores: Mapping[str, float], state: str = "complete", origin: str = "tpe") -> TrialRecord:
    values = tuple(
        tuple(0.6 + 0.6 * math.sin(number + 2 * model + 0.7 * group) for group in range(len(GROUPS)))
        for model in range(2)
    )
    return TrialRecord(
        number=number,
        origin=origin,
        coefficients=Coefficients(("bio", "chat"), GROUPS, values),
        scores=dict(scores),
        prompt_scores={axis: [value] for axis, value in scores.items()},
        seconds=0.5,
        seed=number,
        state="invalid" if state == "invalid" else "complete",
        worker="local",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        note="gibberish" if state == "invalid" else "",
    )


def evidence(names: tuple[str, str] = ("bio", "chat"), job: str = "medical-assistant") -> Evidence:
    """One domain model, one aligned model; trial 7 wins among the finalists 7 and 9."""
    bio, chat = names
    trials = [
        trial(
            i,
            {
                "refusal": 0.5 + 0.45 * math.sin(i),
                "compliance": 0.5 + 0.4 * math.cos(i),
                bio: 0.4 + 0.3 * math.sin(2 * i),
            },
        )
        for i in range(30)
    ]
    trials[11] = trial(11, {"refusal": 1.0, "compliance": 1.0, bio: 1.0}, "invalid")
    finalists = {7: {"refusal": 0.975, "compliance": 0.95, bio: 0.95}, 9: {"refusal": 0.9, "compliance": 1.0, bio: 0.9}}
    rule = SelectSettings()
    roles: list[tuple[str, Role, JudgedScores, Mapping[str, float] | None]] = [
        ("base", "base", judged(0.05, 0.9, {bio: 0.1}), {"refusal": 0.1, "compliance": 0.8, bio: 0.2}),
        (bio, "parent", judged(0.1, 1.0, {bio: 0.975}), {"refusal": 0.12, "compliance": 0.85, bio: 0.7}),
        (chat, "parent", judged(1.0, 0.975, {bio: 0.3}), {"refusal": 0.95, "compliance": 0.8, bio: 0.25}),
        ("uniform", "uniform", judged(0.4, 0.95, {bio: 0.5}), {"refusal": 0.5, "compliance": 0.7, bio: 0.4}),
        ("merged", "winner", judged(0.95, 0.95, {bio: 0.925}), None),
    ]
    return Evidence(
        job=job,
        base="toy-base",
        models=[Evaluated(name, role, scores, search) for name, role, scores, search in roles],
        trials=trials,
        finalists=finalists,
        winner=7,
        rule=rule,
        choice=choose(list(finalists.values()), rule, {}),
        rows={"search": 400, "selection": 160, "report": 240},
        seconds={"data": 61.0, "parents": 4.2, "search": 130.5, "select": 9.0, "report": 12.5},
    )
