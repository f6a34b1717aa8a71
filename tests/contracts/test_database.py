"""What every database must do for jobs, trials and events: the same cases on SQLite and on PostgreSQL."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from optimizer.merging.recipe import Coefficients
from optimizer.search.trials import TrialRecord
from service import migration
from service.database import Base, Database, now
from service.events import repository as events
from service.jobs import repository
from service.jobs import service as jobs
from service.jobs.claim import Claim, JobCancelled, JobTaken
from service.jobs.crew import Crew
from service.jobs.schemas import MergeJobRequest, Stage, Status
from service.jobs.tables import JobRow
from service.trials import repository as trials
from service.trials.log import JobTrials
from tests.service.jobs.pool import write_pool
from tests.service.postgres import Postgres, running


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'temper.sqlite'}"
    else:
        url = request.getfixturevalue("postgres").create().replace("postgresql://", "postgresql+psycopg://")
    migration.upgrade(url)
    database = Database(url)
    yield database
    database.close()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> MergeJobRequest:
    return MergeJobRequest.model_validate(write_pool(tmp_path_factory.mktemp("pool")))


@pytest.fixture
def job_id(database: Database, asked: MergeJobRequest) -> str:
    return jobs.accept(database, asked).id


def trial(number: int, state: str = "complete", **scores: float) -> TrialRecord:
    return TrialRecord(
        number=number,
        origin="tpe",
        coefficients=Coefficients(("medical", "chat"), ("embedding", "head"), ((0.1, 0.2), (0.3, 0.4))),
        scores=scores,
        prompt_scores={axis: [score, 0.5] for axis, score in scores.items()},
        seconds=0.25,
        seed=7,
        state=state,  # type: ignore[arg-type]
        worker="w1",
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678000, UTC),
    )


def record(database: Database, job_id: str, *records: TrialRecord) -> None:
    for one in records:
        with database.write() as session:
            trials.record(session, job_id, one)


class TestJobs:
    def test_a_job_comes_back_as_it_was_asked_for(self, database: Database, asked: MergeJobRequest) -> None:
        job = jobs.accept(database, asked)
        with database.read() as session:
            read = jobs.read(session, job.id)
        assert read == job
        assert read.request == asked
        assert list(read.request.models) == ["medical", "chat"], "the order of models is the order of coefficients"
        assert read.status is Status.QUEUED
        assert read.created_at.tzinfo is not None

    def test_pages_list_every_job_once_from_the_newest_on(self, database: Database, asked: MergeJobRequest) -> None:
        made = [jobs.accept(database, asked).id for _ in range(5)]
        seen: list[str] = []
        after = None
        while True:
            with database.read() as session:
                page = jobs.listed(session, after=after, limit=2)
            seen += [job.id for job in page.data]
            if not page.has_more:
                break
            after = page.last_id
        assert seen == made[::-1]

    def test_an_error_rolls_everything_back(self, database: Database, asked: MergeJobRequest) -> None:
        def fail() -> None:
            with database.write() as session:
                jobs.submit(session, asked)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        with database.read() as session:
            assert jobs.listed(session, after=None, limit=10).data == []

    def test_the_same_key_at_the_same_moment_makes_one_job(self, database: Database, asked: MergeJobRequest) -> None:
        barrier = threading.Barrier(4)

        def submit() -> str:
            barrier.wait()
            try:
                return jobs.accept(database, asked, key="k").id
            except IntegrityError:
                return jobs.accept(database, asked, key="k").id

        with ThreadPoolExecutor(4) as pool:
            ids = {future.result() for future in [pool.submit(submit) for _ in range(4)]}
        assert len(ids) == 1
        with database.read() as session:
            assert len(jobs.listed(session, after=None, limit=10).data) == 1


class TestWriters:
    def test_many_at_once_lose_nothing(self, database: Database, job_id: str) -> None:
        """Each reads, then writes what it read plus one: without the write lock first, some fail or overwrite."""

        def count(_number: int) -> None:
            with database.write() as session:
                row = session.scalars(sa.select(JobRow).where(JobRow.id == job_id).with_for_update()).one()
                row.attempt += 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(count, range(80)))
        with database.read() as session:
            assert jobs.found(session, job_id).attempt == 81

    def test_readers_are_not_held_up_by_a_writer(self, database: Database, job_id: str) -> None:
        with database.write() as writer:
            repository.change(writer, job_id, name="changed")
            with database.read() as reader:
                assert jobs.read(reader, job_id).name == "toy"

    def test_insist_does_not_repeat_what_cannot_succeed(self, database: Database, job_id: str) -> None:
        tries = []

        def twice_the_same(session: sa.orm.Session) -> None:
            tries.append(1)
            session.add(JobRow(id=job_id, name="x", status="queued", request={}, digest="", attempt=1, lane="l"))

        with pytest.raises(IntegrityError):
            database.insist(twice_the_same)
        assert len(tries) == 1


class TestTrials:
    def test_a_record_comes_back_bit_for_bit(self, database: Database, job_id: str) -> None:
        one = trial(3, refusal=0.1 + 0.2, compliance=1 / 3)
        record(database, job_id, one)
        with database.read() as session:
            assert trials.finished(session, job_id) == {3: one}

    def test_a_number_is_kept_once(self, database: Database, job_id: str) -> None:
        record(database, job_id, trial(0, refusal=0.5), trial(0, refusal=0.9))
        with database.read() as session:
            assert [t.scores for t in trials.listed(session, job_id)] == [{"refusal": 0.5}]

    def test_no_number_is_not_a_number(self, database: Database, job_id: str) -> None:
        record(database, job_id, trial(0, "invalid", refusal=float("nan"), compliance=float("-inf")))
        with database.read() as session:
            kept = trials.finished(session, job_id)[0]
            assert trials.listed(session, job_id)[0].scores == {}
        assert kept.prompt_scores["refusal"][0] != kept.prompt_scores["refusal"][0]

    def test_the_front_is_kept_as_trials_arrive(self, database: Database, job_id: str) -> None:
        record(
            database,
            job_id,
            trial(0, a=0.5, b=0.5),
            trial(1, a=0.4, b=0.4),  # dominated
            trial(2, a=0.9, b=0.1),
            trial(3, a=0.6, b=0.5),  # pushes 0 off
            trial(4, a=0.6, b=0.5),  # the same point: neither dominates the other
            trial(5, "invalid", a=1.0, b=1.0),  # gibberish is never on the front
        )
        with database.read() as session:
            assert [t.number for t in trials.listed(session, job_id, front=True)] == [2, 3, 4]

    def test_one_query_lists_coefficients_and_scores(self, database: Database, job_id: str) -> None:
        record(database, job_id, *(trial(n, a=n / 10) for n in range(4)))
        with database.read() as session:
            page = trials.listed(session, job_id, after=1, limit=2, full=True)
        assert [t.number for t in page] == [2, 3]
        assert page[0].coefficients == {
            "medical": {"embedding": 0.1, "head": 0.2},
            "chat": {"embedding": 0.3, "head": 0.4},
        }

    def test_judged_scores_stand_beside(self, database: Database, job_id: str) -> None:
        record(database, job_id, trial(0, a=0.5), trial(1, a=0.6))
        with database.write() as session:
            trials.judge(session, job_id, {1: {"a": 0.75}})
        with database.read() as session:
            assert [t.judged for t in trials.listed(session, job_id)] == [None, {"a": 0.75}]


class TestEvents:
    def test_ids_grow_and_after_misses_none(self, database: Database, job_id: str) -> None:
        for number in range(5):
            with database.write() as session:
                events.add(session, job_id, "message", f"line {number}", {"n": number})
        with database.read() as session:
            everything = events.after(session, job_id, 0, 100)
            later = events.after(session, job_id, everything[2].id, 100)
        assert [event.message for event in everything] == ["queued", *(f"line {n}" for n in range(5))]
        assert [event.id for event in everything] == sorted({event.id for event in everything})
        assert later == everything[3:]


class TestOwnership:
    def test_of_many_workers_one_gets_a_job(self, database: Database, job_id: str) -> None:
        barrier = threading.Barrier(6)

        def take(name: str) -> bool:
            barrier.wait()
            return Claim(database, job_id, 1, name).take()

        with ThreadPoolExecutor(6) as pool:
            taken = [f.result() for f in [pool.submit(take, f"w{n}") for n in range(6)]]
        assert sum(taken) == 1
        with database.read() as session:
            told = [event.message for event in events.after(session, job_id, 0, 100)]
        assert told == ["queued", "running"]

    def test_the_same_worker_takes_its_job_up_again(self, database: Database, job_id: str) -> None:
        assert Claim(database, job_id, 1, "w1").take()
        assert Claim(database, job_id, 1, "w1").take()
        assert not Claim(database, job_id, 1, "w2").take()

    def test_a_cancelled_job_is_noticed_and_no_longer_written_to(self, database: Database, job_id: str) -> None:
        claim = Claim(database, job_id, 1, "w1")
        claim.take()
        with database.write() as session:
            jobs.cancel(session, job_id)
        claim.check()  # nobody has looked yet
        with pytest.raises(JobCancelled):
            claim.write(lambda session: events.add(session, job_id, "message", "too late"))
        with pytest.raises(JobCancelled):
            claim.check()
        with database.read() as session:
            assert "too late" not in [event.message for event in events.after(session, job_id, 0, 100)]

    def test_a_silent_worker_loses_its_job_and_notices(self, database: Database, job_id: str) -> None:
        sleeper, heir = Crew(database, "w1", "shared", 0.2), Crew(database, "w2", "shared", 0.2)
        sleeper.join()
        heir.join()
        claim = Claim(database, job_id, 1, "w1")
        claim.take()
        assert sorted(heir.living()) == ["w1", "w2"]
        threading.Event().wait(0.3)
        assert heir.living() == ["w2"]
        assert Claim(database, job_id, 1, "w2").take()
        claim.look()
        with pytest.raises(JobTaken):
            claim.check()
        with pytest.raises(JobTaken):
            JobTrials(database, job_id, claim.write).record(trial(0, a=0.5))
        with database.read() as session:
            assert trials.finished(session, job_id) == {}
        sleeper.beat()  # it wakes up, and is one of the crew again, without the job
        assert sorted(heir.living()) == ["w1", "w2"]

    def test_a_beating_worker_is_left_alone_whatever_its_clock_says(self, database: Database, job_id: str) -> None:
        runner, other = Crew(database, "w1", "shared", 0.3), Crew(database, "w2", "shared", 0.3)
        runner.join()
        other.join()
        for _ in range(4):
            runner.beat()
            with database.write() as session:  # its clock stands still at the epoch
                session.execute(sa.text("UPDATE workers SET seen_at = '1970-01-01 00:00:00' WHERE name = 'w1'"))
            assert "w1" in other.living()
            threading.Event().wait(0.15)

    def test_a_worker_that_comes_back_drops_what_was_cancelled_meanwhile(self, database: Database, job_id: str) -> None:
        Claim(database, job_id, 1, "w1").take()
        with database.write() as session:
            jobs.cancel(session, job_id)
        Crew(database, "w1", "shared", 30).join()
        with database.read() as session:
            assert jobs.found(session, job_id).owner is None


class TestStages:
    def test_seconds_add_up_in_the_order_of_the_stages(self, database: Database, job_id: str) -> None:
        with database.write() as session:
            for stage, seconds in ((Stage.SEARCH, 2.0), (Stage.DATA, 1.0)):
                repository.start_stage(session, job_id, stage)
                repository.finish_stage(session, job_id, stage, seconds, now())
        with database.read() as session:
            job = jobs.read(session, job_id)
        assert list(job.seconds.items()) == [(Stage.DATA, 1.0), (Stage.SEARCH, 2.0)]

    def test_documents_of_any_size_come_back(self, database: Database, job_id: str) -> None:
        page = "<p>λ" * 1_000_000
        for text in ("first", page):
            with database.write() as session:
                repository.put_document(session, job_id, "report.html", text)
        with database.read() as session:
            assert repository.document(session, job_id, "report.html") == page


class TestSchema:
    def test_the_migrations_make_what_the_models_say(self, database: Database) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        options = {"compare_type": True, "version_table": migration.VERSION_TABLE}
        with database.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, Base.metadata) == []


def test_work_goes_on_when_the_database_restarts(asked: MergeJobRequest, tmp_path: Path) -> None:
    with running() as server:
        url = server.create().replace("postgresql://", "postgresql+psycopg://")
        migration.upgrade(url)
        database = Database(url)
        job = jobs.accept(database, asked)
        done: list[int] = []
        failures: list[Exception] = []

        def work() -> None:
            try:
                for number in range(60):
                    database.insist(lambda session, n=number: trials.record(session, job.id, trial(n, a=n / 100)))
                    done.append(number)
                    threading.Event().wait(0.02)
            except OperationalError as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while len(done) < 10:
            threading.Event().wait(0.01)
        server.server.stop()
        threading.Event().wait(0.5)
        server.server.start()
        thread.join(60)
        assert not failures
        with database.read() as session:
            assert list(trials.finished(session, job.id)) == list(range(60))
        database.close()
