"""PostgreSQL 14 to 18: what differs between them, on a real server of each (tests/setup/postgres-versions.sh)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from containers import ROOT
from pgslipway.engine.watch import PROGRESS
from proxy import RoundTrips
from real_folders import essence, servers, write_dump
from servers import eventually
from unfinished import (
    invalid_indexes,
    is_valid,
    numbers,
    steps_of,
    stop,
    transaction_on,
    wait_until_gone,
    without_transaction,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Finished, Folder, Process, Slipway
    from servers import Database, Embedded, Server

VERSIONS = (14, 15, 16, 17, 18)
WEBSHOP = ROOT / "examples" / "webshop"
INDEX = "CREATE INDEX CONCURRENTLY a_n ON a (n)"
TABLE = "CREATE TABLE a AS SELECT n FROM generate_series(1, 10) AS n"
PROCEDURE = """
CREATE TABLE log (n int);
CREATE PROCEDURE batches() LANGUAGE plpgsql AS $$
BEGIN INSERT INTO log VALUES (1); COMMIT; PERFORM pg_sleep(3600); END $$
"""
BY_HAND = """
CREATE TABLE schema_migrations (
    version INT PRIMARY KEY, filename TEXT NOT NULL, applied_at TIMESTAMPTZ DEFAULT NOW()
);
INSERT INTO schema_migrations VALUES (1, '001_a.sql');
"""
NEWS = {
    14: [
        "CREATE FUNCTION one() RETURNS int LANGUAGE SQL BEGIN ATOMIC SELECT 0; SELECT 1; END",
        "CREATE TABLE p (n int) PARTITION BY LIST (n); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
    ],
    15: [
        "CREATE TABLE u (n int, UNIQUE NULLS NOT DISTINCT (n))",
        "MERGE INTO u USING (SELECT 1 AS m) AS s ON n = m WHEN NOT MATCHED THEN INSERT VALUES (m)",
        "CREATE VIEW v WITH (security_invoker = on) AS SELECT n FROM u",
    ],
    16: [
        "CREATE TABLE s (t text STORAGE EXTERNAL)",
        "INSERT INTO u VALUES (0x_7f + 1_000)",
        "DO 'BEGIN PERFORM t.b FROM (SELECT 1 AS b) AS t, (SELECT 2); END'",
    ],
    17: [
        "MERGE INTO u USING (SELECT 2 AS m) AS s ON n = m WHEN NOT MATCHED BY SOURCE THEN DELETE",
        "SET LOCAL transaction_timeout = '1h'",
        "CREATE TABLE i (n int GENERATED ALWAYS AS IDENTITY) PARTITION BY LIST (n)",
    ],
    18: [
        "CREATE TABLE g (n int, twice int GENERATED ALWAYS AS (n * 2) VIRTUAL)",
        "ALTER TABLE g ADD CONSTRAINT there NOT NULL n NOT VALID",
        "ALTER TABLE g VALIDATE CONSTRAINT there",
        "ALTER TABLE g ADD CONSTRAINT small CHECK (n < 9) NOT ENFORCED",
        "UPDATE g SET n = 1 RETURNING old.n, new.n; SELECT uuidv7()",
    ],
}
"""For each version what it brought; each of the first statements is an error (24) in the version before."""


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def server(version: int) -> Iterator[Server]:
    """A small server of this version, for every `database` of this file."""
    for binaries in servers(version):
        yield binaries.cluster().start().server


def only(*versions: int) -> pytest.MarkDecorator:
    """Run a test on these versions, in the place of all."""
    return pytest.mark.parametrize("version", versions, indirect=True)


async def wait_for_log(process: Process, text: str) -> None:
    await asyncio.to_thread(process.wait_for_log, text)


async def run_again(slipway: Slipway, database: Database, folder: Folder) -> Finished:
    return await asyncio.to_thread(slipway, env=database.environ, migrations=folder.path)


async def test_webshop_is_applied_and_then_nothing_is_to_do_without_a_round_trip_more(
    version: int, database: Database, slipway: Slipway
) -> None:
    assert (await database.fetch("SHOW server_version_num"))[0][0].startswith(str(version))

    planned = slipway("plan", env=database.environ, migrations=WEBSHOP)
    applied = slipway("up", env=database.environ, migrations=WEBSHOP)
    async with RoundTrips(database) as proxy:
        again = await asyncio.to_thread(slipway, env=database.at(proxy.port).environ, migrations=WEBSHOP)
    status = slipway("status", "--json", "--exit-code", env=database.environ, migrations=WEBSHOP)

    names = sorted(path.name for path in WEBSHOP.glob("*.sql"))
    assert planned.code == applied.code == again.code == status.code == 0, planned
    assert all(name in planned.out for name in names), planned
    assert applied.outcome
    assert applied.outcome["applied"] == names
    assert proxy.after_handshake == 0
    assert [row["state"] for row in json.loads(status.out)] == ["applied"] * len(names)


async def test_dump_with_rows_is_a_file_on_the_same_server_and_the_newest(
    database: Database, server: Server, binaries: Embedded, folder: Folder, slipway: Slipway
) -> None:
    """As PostgreSQL 18's pg_dump writes it, which older servers do not know all of."""
    made = slipway(env=database.environ, migrations=WEBSHOP)
    await database.execute("INSERT INTO customers (name) SELECT E'tab\\t\\\\. ' || n FROM generate_series(1, 3) AS n")
    text = write_dump(database, binaries, "--verbose").read_text()

    async with server.fresh_database() as copy:
        finished = slipway(env=copy.environ, migrations=folder({"1_all.sql": text}))
        again = write_dump(copy, binaries, "--verbose").read_text()
    newest = binaries.cluster().start().database
    elsewhere = slipway(env=newest.environ, migrations=folder.path)

    assert made.code == finished.code == elsewhere.code == 0, f"{made}{finished}{elsewhere}"
    assert "FROM stdin;\n1\ttab\\t" in text
    assert essence(again.splitlines()) == essence(text.splitlines())
    assert await newest.fetch("SELECT name FROM customers ORDER BY 1") == await database.fetch(
        "SELECT name FROM customers ORDER BY 1"
    )


async def test_killed_concurrent_build_is_ended_by_the_server_and_mended_by_the_next_run(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The transaction that the build waits for is still open when the server notices that its client is gone."""
    await database.execute(TABLE)
    files = folder({"001_a.sql": without_transaction(INDEX)})
    async with transaction_on(database, "INSERT INTO a VALUES (0)"):
        process = slipway.start(env=database.environ, migrations=files)
        await wait_for_log(process, "001_a.sql:2: waiting for ShareLock on a virtualxid, held by pid")
        await stop("SIGKILL", process, database, "CREATE INDEX CONCURRENTLY%")
        await wait_until_gone(database, "CREATE INDEX CONCURRENTLY%")
        left, invalid = await steps_of(database), await invalid_indexes(database)

    again = await run_again(slipway, database, folder)

    assert (left, invalid) == ([(1, 2, False)], ["a_n"])
    assert again.code == 0, again
    assert "001_a.sql:2: half done; running DROP INDEX CONCURRENTLY IF EXISTS public.a_n" in again.err
    assert await is_valid(database, "a_n")
    assert await steps_of(database) == []


async def test_leftover_of_an_interrupted_reindex_is_dropped(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(f"{TABLE}; CREATE INDEX a_n ON a (n)")
    files = folder({"001_a.sql": without_transaction("REINDEX TABLE CONCURRENTLY a")})
    async with transaction_on(database, "INSERT INTO a VALUES (0)"):
        process = slipway.start(env=database.environ, migrations=files)
        await eventually(lambda: invalid_indexes(database), "the reindex has begun")
        await stop("pg_terminate_backend", process, database, "REINDEX%")
        left = await invalid_indexes(database)

    again = await run_again(slipway, database, folder)

    assert left == ["a_n_ccnew"]
    assert again.code == 0, again
    assert await invalid_indexes(database) == []
    assert await is_valid(database, "a_n")


async def test_interrupted_detach_of_a_partition_is_finalised(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(
        "CREATE TABLE p (n int) PARTITION BY LIST (n); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)"
    )
    files = folder({"001_a.sql": without_transaction("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY")})
    async with transaction_on(database, "SELECT FROM p"):
        process = slipway.start(env=database.environ, migrations=files)
        await eventually(
            lambda: database.fetch("SELECT FROM pg_inherits WHERE inhdetachpending"), "the detaching has begun"
        )
        await stop("pg_terminate_backend", process, database, "ALTER TABLE p DETACH%")

    again = await run_again(slipway, database, folder)

    assert again.code == 0, again
    assert "running ALTER TABLE public.p DETACH PARTITION public.p1 FINALIZE" in again.err
    assert await database.fetch("SELECT FROM pg_inherits WHERE inhparent = 'p'::regclass") == []


async def test_busy_table_is_an_exit_code_and_names_who_is_in_the_way(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(TABLE)
    files = folder({"001_a.sql": "ALTER TABLE a ADD COLUMN m int;"})
    async with database.connection() as billing:
        await billing.execute("SET application_name = 'billing'; BEGIN; SELECT FROM a")
        pid = billing.get_server_pid()

        finished = await asyncio.to_thread(
            slipway, env=database.environ, migrations=files, ddl_lock_timeout="100ms", ddl_retry="1s"
        )

    assert finished.code == 12, finished
    assert f"waiting for AccessExclusiveLock on a, held by pid {pid} (user postgres, billing, from" in finished.err


async def test_progress_of_long_statements_can_be_asked_for(database: Database) -> None:
    """The columns of the views differ. What is made of them takes seconds to see: test_busy.py does that once."""
    assert await database.fetch(PROGRESS.format(worker="true")) == []


async def test_interrupted_call_is_a_persons_decision_and_done_goes_on_after_it(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(PROCEDURE)
    files = folder({"001_a.sql": without_transaction("CALL batches()", "INSERT INTO log VALUES (2)")})
    process = slipway.start(env=database.environ, migrations=files)
    await eventually(lambda: database.fetch("SELECT FROM log"), "the first batch is committed")
    await stop("pg_terminate_backend", process, database, "CALL %")

    stuck = await run_again(slipway, database, folder)
    resolved = await asyncio.to_thread(slipway, "resolve", "1", "--done", env=database.environ, migrations=files)
    again = await run_again(slipway, database, folder)

    assert stuck.code == 25, stuck
    assert "pgslipway resolve 1 --done" in stuck.err
    assert resolved.code == again.code == 0, again
    assert await numbers(database) == [1, 2]


async def test_everything_belongs_to_the_role_also_outside_a_transaction(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    login = await database.create_role("versions_login", "LOGIN NOINHERIT")
    await database.execute(
        "CREATE ROLE versions_owner; GRANT versions_owner TO versions_login;"
        "GRANT ALL ON SCHEMA public TO versions_owner"
    )
    files = folder({"001_a.sql": TABLE, "002_b.sql": without_transaction(INDEX, "VACUUM a")})

    finished = await asyncio.to_thread(slipway, env=login.environ, migrations=files, role="versions_owner")

    owners = await database.fetch(
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )
    assert finished.code == 0, finished
    assert [row[0] for row in owners] == ["versions_owner"]


@only(16, 17, 18)
async def test_membership_without_set_is_an_access_failure(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    login = await database.create_role("versions_member")
    await database.execute("CREATE ROLE versions_unset; GRANT versions_unset TO versions_member WITH SET FALSE")

    finished = slipway(env=login.environ, migrations=folder({"001_a.sql": ""}), role="versions_unset")

    assert finished.code == 22, finished
    assert 'permission denied to set role "versions_unset"' in finished.err


async def test_login_without_a_grant_may_create_in_public_before_version_15_only(
    version: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    login = await database.create_role("versions_stranger")
    await database.execute("REVOKE ALL ON SCHEMA public FROM versions_stranger")
    files = folder({"001_a.sql": "CREATE TABLE a ();"})

    finished = slipway(env=login.environ, migrations=files)

    assert finished.code == (0 if version < 15 else 22), finished
    assert ("permission denied for schema public" in finished.err) == (version >= 15)


async def test_history_made_by_hand_is_taken_over(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute(BY_HAND)
    files = folder({"001_a.sql": "no SQL at all", "20260131120000_b.sql": "CREATE TABLE b ();"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert await database.applied() == ["001_a.sql", "20260131120000_b.sql"]


async def test_what_each_version_brought_is_understood_and_the_next_ones_is_refused_by_the_server(
    version: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    known = {f"{number:03}_a.sql": ";\n".join(NEWS[number]) + ";" for number in VERSIONS if number <= version}
    unknown = {f"{number:03}_a.sql": f"CREATE TABLE rolled_back ();\n{NEWS[number][0]};" for number in [version + 1]
               if number in NEWS}  # fmt: skip

    checked = slipway("check", env={}, migrations=folder(known | unknown))
    finished = slipway(env=database.environ, migrations=folder.path)

    assert checked.code == 0, checked
    assert finished.code == (24 if unknown else 0), finished
    assert all(f"{name}:2: " in finished.err for name in unknown), finished
    assert await database.applied() == sorted(known)
    assert (await database.fetch("SELECT to_regclass('rolled_back')"))[0][0] is None


async def test_timeouts_that_the_database_sets_do_not_end_a_migration(
    version: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    names = ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    names += ["transaction_timeout"] if version >= 17 else []
    for name in names:
        await database.execute(f"ALTER DATABASE {database.name} SET {name} = '200ms'")
    sleep = "SELECT pg_sleep(0.4)"
    files = folder({"001_a.sql": f"{sleep};{sleep};", "002_b.sql": without_transaction("SELECT 1", sleep, "SELECT 2")})

    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert finished.code == 0, finished


async def test_settings_of_the_connection_hold_in_every_file(
    version: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    owner = f"owner_of_{version}"
    await database.execute(
        f"CREATE ROLE {owner}; CREATE SCHEMA app AUTHORIZATION {owner}; GRANT ALL ON SCHEMA public TO {owner}"
    )
    options = {"PGOPTIONS": f"-c search_path=app -c role={owner}"}

    files = {"001_a.sql": "CREATE TABLE a ()", "002_b.sql": "CREATE TABLE b ()", "003_c.sql": "CREATE TABLE c ()"}
    files["004_d.sql"] = without_transaction("CREATE TABLE d ()")

    finished = slipway(env=database.environ | options, migrations=folder(files))

    assert finished.code == 0, finished
    found = await database.fetch("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'app' ORDER BY 1")
    assert [tuple(row) for row in found] == [(table, owner) for table in "abcd"]


@only(17, 18)
async def test_role_with_maintain_may_reindex_and_leaves_what_only_the_owner_can_drop(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    login = await database.create_role("versions_maintainer")
    await database.execute(f"{TABLE}; CREATE INDEX a_n ON a (n); GRANT MAINTAIN ON a TO versions_maintainer")
    files = folder({"001_a.sql": without_transaction("REINDEX TABLE CONCURRENTLY a", "VACUUM (ANALYZE) a")})
    async with transaction_on(database, "INSERT INTO a VALUES (0)"):
        process = slipway.start(env=login.environ, migrations=files)
        await eventually(lambda: invalid_indexes(database), "the reindex has begun")
        await stop("pg_terminate_backend", process, database, "REINDEX%")

    again = await asyncio.to_thread(slipway, env=login.environ, migrations=files)

    assert again.code == 0, again
    assert await invalid_indexes(database) == ["a_n_ccnew"]
    assert await is_valid(database, "a_n")
