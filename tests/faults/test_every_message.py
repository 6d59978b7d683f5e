"""Every message of a run: cut before it and after it, in both directions, and the runner killed at it.

After each fault a plain run again must reach what an undisturbed run reaches, and every statement must have had its
effect exactly once. The migrations write rows that nothing but a second execution could double.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import pytest

from proxy import Fault, FaultProxy
from sampling import sample_of_this_run
from servers import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    from conftest import Finished, Folder, Process, Slipway
    from proxy import Passage
    from servers import Cluster, Database, Embedded

pytestmark = pytest.mark.faults

WORKERS = 6
RUNS = 5
"""How often at most it is run again after a fault: an orphan may keep the lock for two seconds."""
MISSED = 0.03
"""The share of faults that may find no message of their number: a run sends a few more or less each time."""
HEALS = range(10, 20)

TRANSACTIONAL = {
    "001_tables.sql": """
        CREATE TABLE log (what text NOT NULL);
        CREATE TABLE a (n int, t text);
        INSERT INTO a SELECT n, n FROM generate_series(1, 100) AS n;
        CREATE INDEX a_old ON a (n, t);
        CREATE INDEX a_worn ON a (t, n);
        INSERT INTO log VALUES ('001');
    """,
    "002_slow.sql": """
        CREATE SCHEMA app;
        CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE
            AS 'BEGIN PERFORM pg_sleep(0.2); RETURN n; END';
        CREATE TABLE s (n int);
        INSERT INTO s VALUES (1);
        CREATE TABLE parts (n int, t text) PARTITION BY LIST (n);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
        CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
        INSERT INTO parts VALUES (1, 'one'), (2, 'two');
        INSERT INTO log SELECT '002' FROM pg_sleep(0.2);
    """,
}
STEPS = {
    "003_steps.sql": """-- no-transaction
        SET search_path = app, public;
        CREATE TABLE late (n int PRIMARY KEY); -- in app, if the line above holds when this is resumed
        INSERT INTO log VALUES ('003 late');
        CREATE INDEX CONCURRENTLY a_n ON a (n);
        CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a_t ON a (t);
        CREATE INDEX CONCURRENTLY s_slow ON s (slow(n));
        INSERT INTO log VALUES ('003 indexes');
        VACUUM a;
        DROP INDEX CONCURRENTLY a_old;
        REINDEX INDEX CONCURRENTLY a_worn;
        ALTER TABLE parts DETACH PARTITION parts_2 CONCURRENTLY;
        INSERT INTO late VALUES (1);
        INSERT INTO log VALUES ('003');
    """,
    "004_more.sql": """
        ALTER TABLE a ADD COLUMN more int;
        INSERT INTO parts VALUES (1, 'more');
        COPY log FROM stdin;
004
\\.
    """,
}
LOG = ["001", "002", "003", "003 indexes", "003 late", "004"]
NEXT = {
    "003_next.sql": "INSERT INTO log VALUES ('003')",
    "004_step.sql": "-- no-transaction\nVACUUM a;\nINSERT INTO log VALUES ('004')",
}
ADOPTED = """
CREATE TABLE theirs (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL);
INSERT INTO theirs VALUES (2, false);
"""
"""A history that says that another tool, which has a lock, has applied two files."""

CATALOGS = """
WITH ours AS (
    SELECT c.oid, c.oid::regclass::text AS name, relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
)
SELECT format('relation %s %s', name, relkind) FROM ours
UNION ALL
SELECT format('column %s.%s %s %s %s', name, attname, format_type(atttypid, atttypmod), attnotnull,
              pg_get_expr(adbin, adrelid))
  FROM ours JOIN pg_attribute ON attrelid = ours.oid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE attnum > 0 AND NOT attisdropped AND relkind <> 'i'
UNION ALL
SELECT format('constraint %s on %s %s %s', conname, name, pg_get_constraintdef(c.oid), convalidated)
  FROM ours JOIN pg_constraint c ON conrelid = ours.oid
UNION ALL
SELECT format('index %s valid %s ready %s live %s', pg_get_indexdef(indexrelid), indisvalid, indisready, indislive)
  FROM ours JOIN pg_index ON indexrelid = ours.oid
UNION ALL
SELECT format('partition %s of %s pending %s', name, inhparent::regclass, inhdetachpending)
  FROM ours JOIN pg_inherits ON inhrelid = ours.oid
UNION ALL
SELECT format('function %s', p.oid::regprocedure) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
UNION ALL
SELECT format('schema %s', nspname) FROM pg_namespace WHERE nspname !~ '^pg_'
"""
ROWS = {
    "log": "SELECT what FROM public.log",
    "history": "SELECT version, filename, checksum FROM public.schema_migrations",
    "journal": "SELECT version, step, done_at FROM public.schema_migrations_steps",
    "a": "SELECT n, t FROM public.a WHERE n < 3",
    "parts": "SELECT n, t FROM public.parts",
    "parts_2": "SELECT n, t FROM public.parts_2",
    "late": "SELECT n FROM app.late",
}
SESSIONS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgslipway'
"""


# --- what there is after a run ----------------------------------------------------------------------------------

Snapshot = Counter[str]


async def snapshot(database: Database, rows: Mapping[str, str] = ROWS) -> Snapshot:
    """Everything that a migration leaves, a line each: what is there twice is counted twice."""
    async with database.connection() as connection:
        found = Counter(row[0] for row in await connection.fetch(CATALOGS))
        for name, query in rows.items():
            try:
                found.update(f"{name}: {tuple(row)}" for row in await connection.fetch(query))
            except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
                continue  # its relation is not there either
    return found


def difference(expected: Snapshot, found: Snapshot) -> list[str]:
    """What is there too often or not often enough, in words."""
    lost = [f"{times} x missing: {line}" for line, times in sorted((expected - found).items())]
    return lost + [f"{times} x too many: {line}" for line, times in sorted((found - expected).items())]


# --- a run with a fault -----------------------------------------------------------------------------------------


class Means(StrEnum):
    """What happens to the run."""

    CUT = "cut"
    """A TCP reset of all its connections, for both sides."""
    KILL = "killed"
    """SIGKILL; the kernel closes its connections."""
    STOP = "stopped"
    """SIGTERM."""


LOST = 13
CODES = {Means.CUT: {0, LOST}, Means.KILL: {-signal.SIGKILL}, Means.STOP: {0, 128 + signal.SIGTERM}}
"""How a run may end after that; 0 where there was nothing left to do, or where it could connect again."""


@dataclass(frozen=True, slots=True)
class Place:
    """A fault: at which message, before or after it is handed on, by which means."""

    number: int
    after: bool
    means: Means = Means.CUT

    def __str__(self) -> str:
        return f"{self.means} {'after' if self.after else 'before'} {self.number}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a case came to."""

    place: object
    struck_at: Passage | None
    codes: tuple[int, ...]
    wrong: list[str]

    def __str__(self) -> str:
        where = self.struck_at or "never reached"
        return "\n    ".join([f"{self.place} ({where}): exit codes {self.codes}", *self.wrong])


@dataclass(slots=True)
class Ground:
    """Where cases run: a server, the migrations, and what an undisturbed run of them leaves."""

    cluster: Cluster
    slipway: Slipway
    migrations: Path
    before: str = ""
    """SQL for each database, before anything else."""
    settings: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=lambda: ROWS)
    expected: Snapshot = field(default_factory=Counter)
    passages: list[Passage] = field(default_factory=list)

    @asynccontextmanager
    async def fresh_database(self) -> AsyncIterator[Database]:
        """A database as it is before a run."""
        async with self.cluster.server.fresh_database() as database:
            if self.before:
                await database.execute(self.before)
            yield database

    @asynccontextmanager
    async def run_undisturbed(self) -> AsyncIterator[Database]:
        """Run once without a fault, note what there is to strike at and what it leaves; the database that it made."""
        async with self.fresh_database() as database:
            async with FaultProxy(database) as proxy:
                finished = await self.run(database.at(proxy.port))
            assert finished.code == 0, finished
            self.passages = proxy.passages
            self.expected = await snapshot(database, self.rows)
            yield database

    def start(self, database: Database) -> Process:
        return self.slipway.start(env={**database.environ, **self.settings}, migrations=self.migrations)

    async def run(self, database: Database) -> Finished:
        return await asyncio.to_thread(self.start(database).finish)

    async def examine(self, place: Place) -> Verdict:
        """Run with a fault, run again until it ends well, and compare."""
        async with self.fresh_database() as database, FaultProxy(database) as proxy:
            process = self.start(database.at(proxy.port))
            proxy.faults = [Fault(place.number, place.after, partial(strike, place.means, process, proxy))]
            return await self.conclude(place, database, proxy, process, place.means)

    async def conclude(
        self,
        place: object,
        database: Database,
        proxy: FaultProxy,
        process: Process,
        means: Means,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> Verdict:
        """Wait for the run to end, do `meanwhile`, run again until it ends well, and compare."""
        wrong: list[str] = []
        runs: list[Finished] = []
        try:
            runs.append(await asyncio.to_thread(process.finish))
            if meanwhile:
                await meanwhile()
            runs += await self.run_again(database)
        except (AssertionError, TimeoutError, pytest.fail.Exception) as error:
            wrong.append(str(error))
        wrong += misled(runs, CODES[means] if proxy.struck_at else {0})
        wrong += difference(self.expected, await snapshot(database, self.rows))
        wrong += [f"session {row['pid']} is left" for row in await database.fetch(SESSIONS)]
        if wrong:
            wrong += [f"log: {line}" for one in runs for line in one.err.splitlines()]
        return Verdict(place, proxy.struck_at, tuple(one.code for one in runs), wrong)

    async def run_again(self, database: Database) -> list[Finished]:
        """Run without the proxy, again while the exit code says that this can help."""
        runs = [await self.run(database)]
        while runs[-1].code in HEALS and len(runs) < RUNS:
            runs.append(await self.run(database))
        return runs


def strike(means: Means, process: Process, proxy: FaultProxy) -> None:
    match means:
        case Means.CUT:
            proxy.reset()
        case Means.KILL:
            process.terminate(signal.SIGKILL)
            proxy.close()
        case Means.STOP:
            process.terminate(signal.SIGTERM)


def misled(runs: list[Finished], allowed: set[int]) -> list[str]:
    """What exit codes and messages said and should not have; the first run had the fault."""
    if not runs:
        return []
    first, *again = runs
    told = [set(one.outcome["applied"]) if one.outcome else set() for one in runs]
    later = set().union(*told[1:])
    wrong = []
    if first.code not in allowed:
        wrong.append(f"exit code {first.code}")
    if again and again[-1].code != 0:
        wrong.append(f"exit code {again[-1].code} in the end")
    if first.code == 0 and later:
        wrong.append(f"exit code 0 before {later} was applied")
    if sum(map(len, told)) != len(set().union(*told)):
        wrong.append(f"applied more than once, by what was said: {told}")
    for claimed in set(re.findall(r"(\S+\.sql)(?: was|: cancelled and) (?:rolled back|not applied)", first.err)):
        if claimed not in told[0] | later:
            wrong.append(f"said that {claimed} was not applied, and it was")
    return wrong


Where = TypeVar("Where")


async def sweep(places: Iterable[Where], examine: Callable[[Where], Awaitable[Verdict]]) -> list[Verdict]:
    """Examine all, a few at a time; the verdicts in the same order."""
    todo = iter(list(enumerate(places)))
    verdicts: dict[int, Verdict] = {}

    async def work() -> None:
        for number, place in todo:
            verdicts[number] = await examine(place)

    async with asyncio.TaskGroup() as workers:
        for _ in range(WORKERS):
            workers.create_task(work())
    return [verdict for _, verdict in sorted(verdicts.items())]


def judge(verdicts: list[Verdict], record: Callable[[str, object], None], missed_at_most: float = MISSED) -> None:
    """Say how much was tried, and fail with every case that went wrong."""
    wrong = [str(verdict) for verdict in verdicts if verdict.wrong]
    missed = [str(verdict.place) for verdict in verdicts if verdict.struck_at is None]
    ends = Counter(code for verdict in verdicts for code in verdict.codes[:1])
    codes = ", ".join(f"{times} with {code}" for code, times in sorted(ends.items()))
    record("faults", f"{len(verdicts)} faults, {len(missed)} never reached, {len(wrong)} went wrong; ended {codes}")
    assert not wrong, f"{len(wrong)} of {len(verdicts)} went wrong\n" + "\n".join(wrong)
    assert len(missed) <= missed_at_most * len(verdicts), f"never reached: {missed}"


@pytest.fixture
def ground(embedded: Embedded, slipway: Slipway, folder: Folder) -> Ground:
    return Ground(embedded.cluster(max_connections=300).start(), slipway, folder(TRANSACTIONAL | STEPS))


async def test_undisturbed_run_has_each_effect_once(ground: Ground) -> None:
    async with ground.run_undisturbed() as database:
        logged = [row["what"] for row in await database.fetch("SELECT what FROM log ORDER BY what")]
        tables = [
            row[0] for row in await database.fetch("SELECT oid::regclass::text FROM pg_class WHERE relname = 'late'")
        ]

    assert logged == LOG
    assert tables == ["app.late"]


# --- every message ----------------------------------------------------------------------------------------------


def part_of(places: list[Place], record: Callable[[str, object], None]) -> list[Place]:
    """Those places that are examined this time."""
    chosen = sample_of_this_run().of(places)
    assert chosen
    record("faults", f"{len(chosen)} of {len(places)} messages: {sample_of_this_run()}")
    return chosen


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_cut_at_every_message(
    after: bool, ground: Ground, record_property: Callable[[str, object], None]
) -> None:
    async with ground.run_undisturbed():
        places = [Place(passage.number, after) for passage in ground.passages]

    judge(await sweep(part_of(places, record_property), ground.examine), record_property)


@pytest.mark.parametrize("means", [Means.KILL, Means.STOP])
async def test_end_of_the_runner_at_every_message(
    means: Means, ground: Ground, record_property: Callable[[str, object], None]
) -> None:
    """After what the runner sends and before what it would get: what lies between is the same for the server."""
    async with ground.run_undisturbed():
        places = [Place(passage.number, passage.from_client, means) for passage in ground.passages]

    judge(await sweep(part_of(places, record_property), ground.examine), record_property)


@pytest.fixture
def adopting(embedded: Embedded, slipway: Slipway, folder: Folder) -> Ground:
    """Two files were applied by another tool, and two are pending."""
    before = "".join(TRANSACTIONAL.values()) + ADOPTED
    settings = {"MIGRATE_ADOPT": "golang-migrate:public.theirs"}
    cluster = embedded.cluster(max_connections=300).start()
    return Ground(cluster, slipway, folder(TRANSACTIONAL | NEXT), before, settings)


async def test_undisturbed_adopting_run_has_each_effect_once(adopting: Ground) -> None:
    async with adopting.run_undisturbed() as database:
        logged = [row["what"] for row in await database.fetch("SELECT what FROM log ORDER BY what")]
        applied = await database.applied()

    assert logged == ["001", "002", "003", "004"]
    assert applied == ["001_tables.sql", "002_slow.sql", "003_next.sql", "004_step.sql"]
    assert any(b"INSERT INTO" in one.message.body and b"unnest" in one.message.body for one in adopting.passages)
    assert len({passage.connection for passage in adopting.passages}) > 1, "their lock is on a connection of its own"


ASKED_OR_DONE = {b"Q", b"E", b"Z"}
"""The kinds of messages between which the server's state changes: the driver prepares what it asks about tables."""


def turning_points(ground: Ground) -> list[Passage]:
    """The messages of a run that ask for something, or say that it is done."""
    return [passage for passage in ground.passages if passage.message.kind in ASKED_OR_DONE]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_adopting_run_is_cut_at_every_message(
    after: bool, adopting: Ground, record_property: Callable[[str, object], None]
) -> None:
    """What is adopted is all there or not at all: the expected rows of the history have the two files' checksums."""
    async with adopting.run_undisturbed():
        places = [Place(passage.number, after) for passage in turning_points(adopting)]

    judge(await sweep(part_of(places, record_property), adopting.examine), record_property)


@pytest.mark.parametrize("means", [Means.KILL, Means.STOP])
async def test_adopting_run_ends_at_every_message(
    means: Means, adopting: Ground, record_property: Callable[[str, object], None]
) -> None:
    async with adopting.run_undisturbed():
        places = [Place(passage.number, passage.from_client, means) for passage in turning_points(adopting)]

    judge(await sweep(part_of(places, record_property), adopting.examine), record_property)


# --- in the midst of a statement --------------------------------------------------------------------------------

WRITER = "BEGIN; LOCK TABLE a, s, parts IN ROW EXCLUSIVE MODE"
READER = "BEGIN; LOCK TABLE a, s, parts IN ACCESS SHARE MODE"
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"
VACUUM = "BEGIN; LOCK TABLE a IN SHARE UPDATE EXCLUSIVE MODE"
HALF_WAY = (
    (b"CREATE INDEX CONCURRENTLY a_n", WRITER, "index CREATE INDEX a_n .* valid f ready f"),
    (b"CREATE INDEX CONCURRENTLY a_n", SNAPSHOT, "index CREATE INDEX a_n .* valid f ready t"),
    (b"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a_t", WRITER, "index CREATE UNIQUE INDEX a_t .* valid f ready f"),
    (
        b"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a_t",
        SNAPSHOT,
        "index CREATE UNIQUE INDEX a_t .* valid f ready t",
    ),
    (b"VACUUM", VACUUM, "index CREATE INDEX a_n .* valid t"),
    (b"DROP INDEX CONCURRENTLY", READER, "index CREATE INDEX a_old .* valid f"),
    (b"REINDEX INDEX CONCURRENTLY", WRITER, "relation a_worn_ccnew"),
    (b"REINDEX INDEX CONCURRENTLY", SNAPSHOT, "relation a_worn_ccnew"),
    (b"REINDEX INDEX CONCURRENTLY", READER, "relation a_worn_ccold"),
    (b"ALTER TABLE parts DETACH", READER, "partition parts_2 of parts pending t"),
)
"""Statements, what another session may do that makes them wait half-way, and what is there if they end then."""
WAITS = """
SELECT FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'pgslipway' AND wait_event_type = 'Lock'
"""


@dataclass(frozen=True, slots=True)
class Midst:
    """A fault while a statement waits half-way for another session, and what its orphan does after that."""

    statement: bytes
    blocker: str
    leaves: str
    means: Means
    orphan_ends: bool
    """The server notices that the client is gone; else the statement may go on, and the next run finds it at work."""

    def __str__(self) -> str:
        orphan = "ends" if self.orphan_ends else "goes on"
        return f"{self.means} in {self.statement.decode()} which waits for {self.blocker!r}; its orphan {orphan}"


async def examine_midst(ground: Ground, midst: Midst) -> Verdict:
    async with (
        ground.fresh_database() as database,
        FaultProxy(database) as proxy,
        database.connection() as other,
    ):
        process = ground.start(database.at(proxy.port))

        async def block() -> None:
            await other.execute(midst.blocker)

        async def strike_while_it_waits() -> None:
            await eventually(lambda: database.fetch(WAITS), f"{midst} to wait", limit=10)
            strike(midst.means, process, proxy)
            if not midst.orphan_ends:
                await other.execute("COMMIT")

        async def let_the_orphan_end() -> None:
            if midst.orphan_ends:
                await eventually(partial(is_empty, database, SESSIONS), "the orphan to end", limit=5)
                left = "\n".join(await snapshot(database, ground.rows))
                assert re.search(midst.leaves, left), f"no {midst.leaves} in\n{left}"
                await other.execute("COMMIT")

        proxy.faults = [
            Fault(midst.statement, after=False, strike=block),
            Fault(midst.statement, after=True, strike=strike_while_it_waits),
        ]
        return await ground.conclude(midst, database, proxy, process, midst.means, let_the_orphan_end)


@pytest.mark.parametrize("means", list(Means))
async def test_fault_in_the_midst_of_each_concurrent_statement(
    means: Means, ground: Ground, record_property: Callable[[str, object], None]
) -> None:
    async with ground.run_undisturbed():
        places = [
            Midst(statement, blocker, leaves, means, orphan_ends)
            for statement, blocker, leaves in HALF_WAY
            for orphan_ends in (True, False)
        ]

    judge(await sweep(places, partial(examine_midst, ground)), record_property, missed_at_most=0)


# --- what the suites above would notice -------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_proxy_cuts_where_it_is_told(after: bool, ground: Ground) -> None:
    async with ground.cluster.server.fresh_database() as database, FaultProxy(database) as proxy:
        await database.execute("CREATE TABLE a (n int)")
        proxy.faults = [Fault(b"INSERT", after, proxy.reset)]
        with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
            await database.at(proxy.port).execute("INSERT INTO a SELECT 1 FROM pg_sleep(0.1)")

        ends = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'INSERT%' AND state = 'active'"
        await eventually(partial(is_empty, database, ends), "the statement to end")
        assert len(await database.fetch("SELECT FROM a")) == int(after)
        assert await database.at(proxy.port).fetch("SELECT 1"), "new connections are let through"


async def is_empty(database: Database, query: str) -> bool:
    return not await database.fetch(query)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("INSERT INTO log VALUES ('001')", "1 x too many: log: ('001',)"),
        ("DELETE FROM log WHERE what = '002'", "1 x missing: log: ('002',)"),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'a_n'::regclass",
            "x missing: index CREATE INDEX a_n",
        ),
        ("CREATE INDEX a_worn_ccnew ON a (t, n)", "1 x too many: relation a_worn_ccnew"),
        ("CREATE INDEX a_old ON a (n, t)", "1 x too many: relation a_old"),
        ("ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES IN (2)", "1 x too many: partition parts_2 of parts"),
        ("DELETE FROM schema_migrations WHERE version = 4", "1 x missing: history: (4,"),
        ("INSERT INTO schema_migrations_steps (version, step, checksum, line) VALUES (3, 1, '', 1)", "journal: (3, 1,"),
        ("DROP TABLE app.late", "1 x missing: late: (1,)"),
    ],
    ids=["twice", "never", "invalid", "leftover", "not dropped", "attached", "history", "journal", "table"],
)
async def test_comparison_finds(change: str, line: str, ground: Ground) -> None:
    async with ground.run_undisturbed() as database:
        undisturbed = difference(ground.expected, await snapshot(database))
        await database.execute(change)
        changed = difference(ground.expected, await snapshot(database))

    assert undisturbed == []
    assert line in "\n".join(changed)


async def test_effect_that_a_fault_doubles_is_found(ground: Ground, folder: Folder) -> None:
    """What no transaction takes back: nextval in a file that is cut off before its COMMIT and run again."""
    folder.path.rename(folder.path.with_name("unused"))
    dropped = "CREATE SEQUENCE ids; SELECT pg_advisory_unlock_all();"  # so the next file is the first of a run anew
    folder({"001_ids.sql": dropped, "002_next.sql": "SELECT nextval('ids'); SELECT 'here';"})
    ground.rows = {"ids": "SELECT last_value FROM ids"}
    async with ground.run_undisturbed():
        sent = next(passage.number for passage in ground.passages if b"'here'" in passage.message.body)

    before, after = await sweep([Place(sent, after=False), Place(sent, after=True)], ground.examine)

    assert before.wrong == []
    assert after.wrong[:2] == ["1 x missing: ids: (1,)", "1 x too many: ids: (2,)"]


async def test_faults_that_found_no_message_are_not_hidden(ground: Ground) -> None:
    async with ground.run_undisturbed():
        verdicts = await sweep([Place(100_000, after=False)], ground.examine)

    said: list[tuple[str, object]] = []
    with pytest.raises(AssertionError, match=r"never reached: .*100000"):
        judge(verdicts, lambda *pair: said.append(pair))
    assert said == [("faults", "1 faults, 1 never reached, 0 went wrong; ended 1 with 0")]
