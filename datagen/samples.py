"""One row of data, and the set of all rows.

There is no field for a harmful answer: a harmful question carries the refusal that was kept for it, nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a row measures: refusal on HARMFUL, compliance on BENIGN, skill on DOMAIN."""

    HARMFUL = "harmful"
    BENIGN = "benign"
    DOMAIN = "domain"


class Split(StrEnum):
    """SEARCH is optimised on, SELECTION chooses among finalists, REPORT is seen once, at the end."""

    SEARCH = "search"
    SELECTION = "selection"
    REPORT = "report"


@dataclass(frozen=True)
class Provenance:
    """Where a row comes from; enough to generate it again.

    `writer` and `answerer` are names of the pool, the revisions content hashes of their folders, `template` the hash
    of the chat template, `sampling` the writer's settings as JSON, `judge` the name of the judge that kept the row.
    """

    writer: str
    writer_revision: str
    answerer: str
    answerer_revision: str
    template: str
    engine: str
    sampling: str
    seed: int
    judge: str


@dataclass(frozen=True)
class Sample:
    """One question with the answer worth imitating.

    `answer` is a refusal (HARMFUL), a helpful answer (BENIGN) or an expert's answer (DOMAIN). `category` names the
    hazard category of HARMFUL and BENIGN rows, `domain` the expert of DOMAIN rows; the other is empty. `cluster`
    numbers the group of near-alike questions, which never crosses a split.
    """

    id: str
    kind: Kind
    split: Split
    category: str
    domain: str
    prompt: str
    answer: str
    cluster: int
    provenance: Provenance


@dataclass(frozen=True)
class DataSet:
    """All rows, in a fixed order."""

    samples: tuple[Sample, ...]

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, sorted."""
        return tuple(sorted({s.domain for s in self.samples if s.kind is Kind.DOMAIN}))

    def of(self, split: Split, kind: Kind | None = None, domain: str | None = None) -> Sequence[Sample]:
        """The rows of one split, of one kind and domain where given."""
        return [
            s
            for s in self.samples
            if s.split is split and (kind is None or s.kind is kind) and (domain is None or s.domain == domain)
        ]
