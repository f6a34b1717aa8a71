"""A pool's data set from nothing: questions, answers, verdicts, filters, splits, card.

Work is ordered by model, so that each one's weights are swapped in once: the question writer asks and answers first,
then every other model answers, experts after they have questioned themselves. Every batch of requests is kept as it
comes (`datagen.requests`) and all else is computed from the batches: a run that was killed ends in the data set it
would have made.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datagen import domain, safety
from datagen.card import cluster_sizes, counts, shortfalls, stratum
from datagen.engines.base import Engine, Sampling
from datagen.errors import DataError, Shortfall
from datagen.filters import Gate, clusters
from datagen.judges.base import Judge
from datagen.pool import BASE, Member, Pool
from datagen.prompts import benign_question, domain_question, harmful_question
from datagen.questions import QUESTION_TOKENS, Question, Slot, fill, shares
from datagen.requests import Progress, Requests, Writer
from datagen.revision import revision, template_hash
from datagen.samples import DataSet, Kind, Provenance, Sample, Split
from datagen.seeds import seed_of
from datagen.settings import DataSettings
from datagen.splits import deal
from datagen.storage import is_whole, read, read_card, write
from datagen.taxonomy import Category, Taxonomy, load

#: raised when the same request would give other data: parsing, filters, splits
VERSION = 1


def request_key(pool: Pool, settings: DataSettings, judge: str = "rules/1") -> str:
    """What decides a data set, as 40 hex digits: models by content, settings, taxonomy, prompts, judge.

    Raises:
        DataError: a model folder or the taxonomy cannot be read.
    """
    probe = Category("id", "title", "definition")
    described = {
        "version": VERSION,
        "base": revision(pool.base),
        "members": [[member.name, revision(member.path), member.domain, member.topics] for member in pool.members],
        "questions_from": _question_writer(pool, settings).revision,
        "settings": settings.model_dump(mode="json"),
        "taxonomy": asdict(load(settings.safety.taxonomy)),
        "prompts": [harmful_question(probe), benign_question(probe), domain_question("topic", ["example"])],
        "judge": judge,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:40]


def generate(
    pool: Pool, settings: DataSettings, *, engine: Engine, judge: Judge, folder: Path, progress: Progress
) -> DataSet:
    """Make the data set of `pool` under `folder`, or read the one that is there.

    Args:
        folder: of this request alone (name it by `request_key`); becomes mode 0700.
        progress: called with (done, total, unit, note) often; may raise to cancel. `total` is an estimate that grows.

    Raises:
        DataError: a model or the taxonomy cannot be read, or a split ends empty.
        Shortfall: no usable question of a kind, or no refusal, could be had at all.
    """
    key = request_key(pool, settings, judge.name)
    if is_whole(folder) and read_card(folder).get("key") == key:
        return read(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    run = _Run(pool, settings, judge, load(settings.safety.taxonomy), Gate())
    run.requests = Requests(folder / "requests", engine, progress, run.expected_requests())
    run.write_safety_questions()
    for writer in run.in_order():
        run.let_answer(writer)
    progress(run.requests.done, run.requests.done, "requests", "splits")
    dataset = _split(run.rows(), settings)
    write(dataset, folder, run.card(dataset, key))
    progress(run.requests.done, run.requests.done, "requests", "done")
    return dataset


@dataclass(frozen=True)
class _Row:
    """A sample before its split."""

    kind: Kind
    category: str
    domain: str
    prompt: str
    answer: str
    provenance: Provenance


@dataclass
class _Run:
    pool: Pool
    settings: DataSettings
    judge: Judge
    taxonomy: Taxonomy
    gate: Gate
    requests: Requests = field(init=False)
    asked: list[safety.Asked] = field(default_factory=list)
    answers: safety.Answers = field(default_factory=safety.Answers)
    slots: dict[str, Slot] = field(default_factory=dict)
    domain_rows: dict[str, list[tuple[Question, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.writers = {name: _writer(name, path) for name, path in self.pool.models()}
        self.question_writer = _question_writer(self.pool, self.settings)
        self.quotas = shares(self.settings.domain.count, len(self.pool.experts)) if self.pool.experts else []
        self.sampling = Sampling(
            min(QUESTION_TOKENS, self.settings.max_tokens),
            self.settings.temperature,
            seed=seed_of(self.settings.seed, "safety"),
        )

    def expected_requests(self) -> int:
        """An estimate, for progress: some questions are asked for more than once."""
        written = 2 * self.settings.safety.count
        own = self.settings.domain.count if self.pool.experts else 0
        return round(1.2 * (written + own)) + written * len(self.writers) + own

    def in_order(self) -> Iterator[Writer]:
        """All models of the pool; the question writer, whose weights are in the engine already, first."""
        first = [writer for writer in self.writers.values() if writer.path == self.question_writer.path]
        yield from first
        yield from (writer for writer in self.writers.values() if writer not in first)

    def write_safety_questions(self) -> None:
        """
        Raises:
            Shortfall: not one harmful or not one benign question.
        """
        made = safety.slots(self.taxonomy, self.settings.safety.count)
        self.slots |= {slot.name: slot for _, _, slot in made}
        fill(
            [slot for _, _, slot in made],
            lambda prompts, drawn: self.requests.ask(
                self.question_writer, prompts, drawn, f"{self.question_writer.name} writes safety questions"
            ),
            self.gate,
            self.sampling,
            self.settings.attempts,
        )
        for category, kind, slot in made:
            self.asked += [safety.Asked(question, kind, category.id) for question in slot.accepted]
        for kind in (Kind.HARMFUL, Kind.BENIGN):
            if not any(entry.kind is kind for entry in self.asked):
                raise Shortfall(
                    f"{self.question_writer.name} wrote no usable {kind} question ({self._drops(f'{kind}/')})",
                    mend="let another model write them: data.safety.questions_from",
                )

    def let_answer(self, writer: Writer) -> None:
        """All that `writer` has to say: to its own questions, where it is an expert, and to the safety questions.

        Raises:
            Shortfall: an expert has not one usable question with its answer.
        """
        for expert, quota in zip(self.pool.experts, self.quotas, strict=True):
            if expert.name == writer.name:
                self._question_itself(writer, expert, quota)
        safety.answer(self.requests, self.judge, writer, self.asked, self.settings.max_tokens, self.answers)

    def _question_itself(self, writer: Writer, expert: Member, quota: int) -> None:
        slots = domain.write_questions(self.requests, writer, expert, quota, self.settings, self.gate)
        self.slots |= {f"domain/{slot.name}": slot for slot in slots}
        rows = domain.answer_questions(self.requests, self.judge, writer, slots, self.settings.max_tokens)
        if not rows:
            raise Shortfall(
                f"{expert.name} wrote and answered no usable question ({self._drops(f'domain/{expert.name}/')})",
                mend="check its topics and its chat template",
            )
        self.domain_rows[expert.name] = rows

    def rows(self) -> list[_Row]:
        """
        Raises:
            Shortfall: no model refused any harmful question, or none helped with any benign one.
        """
        rows = []
        for entry in self.asked:
            found = safety.choose(entry, self.answers, self._preferred(), self.settings.seed)
            if found is None:
                self.slots[f"{entry.kind}/{entry.category}"].tally.lose(entry.missed)
                continue
            provenance = self._provenance(self.question_writer, self.writers[found[0]], entry.question, self.sampling)
            rows.append(_Row(entry.kind, entry.category, "", entry.question.text, found[1], provenance))
        for kind, deed in ((Kind.HARMFUL, "refused a harmful"), (Kind.BENIGN, "helped with a benign")):
            if not any(row.kind is kind for row in rows):
                raise Shortfall(
                    f"no model of the pool {deed} question, of {sum(entry.kind is kind for entry in self.asked)}",
                    mend="add an aligned model to the pool",
                )
        for name, pairs in self.domain_rows.items():
            writer = self.writers[name]
            for question, answer in pairs:
                provenance = self._provenance(writer, writer, question, self.sampling)
                rows.append(_Row(Kind.DOMAIN, "", name, question.text, answer, provenance))
        return rows

    def _preferred(self) -> list[frozenset[str]]:
        experts = frozenset(member.name for member in self.pool.experts)
        return [frozenset(self.writers) - experts - {BASE}, frozenset({BASE}), experts]

    def _provenance(self, writer: Writer, answerer: Writer, question: Question, sampling: Sampling) -> Provenance:
        drawn = {name: value for name, value in asdict(sampling).items() if name != "seed"}
        return Provenance(
            writer=writer.name,
            writer_revision=writer.revision,
            answerer=answerer.name,
            answerer_revision=answerer.revision,
            template=answerer.template,
            engine=self.requests.engine_name,
            sampling=json.dumps(drawn, sort_keys=True),
            seed=question.seed,
            judge=self.judge.name,
        )

    def _drops(self, prefix: str) -> str:
        found = [slot.tally for name, slot in self.slots.items() if name.startswith(prefix)]
        reasons = sorted({reason for tally in found for reason in tally.dropped})
        generated = sum(tally.generated for tally in found)
        listed = ", ".join(f"{sum(tally.dropped[reason] for tally in found)} {reason}" for reason in reasons)
        return f"{generated} generated: {listed or 'nothing'}"

    def card(self, dataset: DataSet, key: str) -> dict[str, Any]:
        """Everything countable about the run; see `datagen.card`."""
        tallies = {name: slot.tally.as_json() for name, slot in self.slots.items()}
        return {
            "key": key,
            "counts": counts(dataset),
            "clusters": cluster_sizes(dataset),
            "tallies": tallies,
            "shortfalls": shortfalls(tallies),
            "judge": self.judge.name,
            "verdicts": {
                name: {
                    kind.value: {"questions": count.total()} | {label: n / count.total() for label, n in _all(count)}
                    for kind, count in kinds.items()
                }
                for name, kinds in self.answers.verdicts.items()
            },
            "models": {
                name: {"revision": writer.revision, "template": writer.template}
                for name, writer in (self.writers | {self.question_writer.name: self.question_writer}).items()
            },
            "engine": self.requests.engine_name,
            "taxonomy": self.taxonomy.name,
            "settings": self.settings.model_dump(mode="json"),
            "cost": asdict(self.requests.cost),
        }


def _all(count: Any) -> Iterator[tuple[str, int]]:
    return ((label, count[label]) for label in ("refusal", "partial", "compliance", "invalid"))


def _writer(name: str, path: Path) -> Writer:
    return Writer(name, path.resolve(), revision(path), template_hash(path))


def _question_writer(pool: Pool, settings: DataSettings) -> Writer:
    """
    Raises:
        DataError: `questions_from` is neither a model of the pool nor a folder.
    """
    wanted = settings.safety.questions_from or BASE
    models = dict(pool.models())
    if wanted not in models and not Path(wanted).is_dir():
        raise DataError(
            f"data.safety.questions_from is {wanted!r}, expected a model of the pool ({', '.join(models)}) or a folder",
            mend="leave it out to let the base write",
        )
    return _writer(wanted, models[wanted]) if wanted in models else _writer(Path(wanted).name, Path(wanted))


def _split(rows: list[_Row], settings: DataSettings) -> DataSet:
    """
    Raises:
        DataError: a kind or a domain has no row in one of the splits.
    """
    cluster_of = clusters([row.prompt for row in rows])
    strata = [stratum(row.kind, row.category, row.domain) for row in rows]
    whole = [stratum(row.kind, "", row.domain) if row.domain else str(row.kind) for row in rows]
    dealt = deal(strata, cluster_of, settings.splits, seed_of(settings.seed, "split"), whole)
    samples = [
        Sample(
            id=f"{row.kind}-{hashlib.sha256(row.prompt.encode()).hexdigest()[:12]}",
            kind=row.kind,
            split=split,
            category=row.category,
            domain=row.domain,
            prompt=row.prompt,
            answer=row.answer,
            cluster=cluster,
            provenance=row.provenance,
        )
        for row, split, cluster in zip(rows, dealt, cluster_of, strict=True)
    ]
    return DataSet(tuple(sample for split in Split for sample in samples if sample.split is split))
