"""What was interrupted outside a transaction: the catalogs tell what became of it, and the next run mends it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from signal import SIGTERM
from typing import TYPE_CHECKING

import asyncpg
import pytest

from servers import eventually
from unfinished import (
    FAULTS,
    in_flight,
    invalid_indexes,
    is_valid,
    numbers,
    oid_of,
    steps_of,
    stop,
    transaction_on,
    wait_for_query,
    wait_until_gone,
    without_transaction,
)

if TYPE_CHECKING:
    from conftest import Finished, Folder, Slipway
    from servers import Database, Server

TABLE = "CREATE TABLE a AS SELECT n FROM generate_series(1, 10) AS n"
WRITES = "INSERT INTO a VALUES (0)"
INDEX = "CREATE INDEX CONCURRENTLY a_n ON a (n)"
UNIQUE = "CREATE UNIQUE INDEX CONCURRENTLY a_n ON a (n)"
TOOK_EFFECT = "001_a.sql:2: what an earlier run had in flight here took effect"
REPEATED = "001_a.sql:2: what an earlier run had in flight here did not take effect, and is repeated"


def running(mend: str) -> str:
    return f"001_a.sql:2: half done; running {mend}"


async def make_journal(database: Database, folder: Folder, slipway: Slipway) -> None:
    """Have a run make the journal as runs do; the file is not in the folder afterwards."""
    files = folder({"001_a.sql": without_transaction("SELECT 1")})
    assert slipway(env=database.environ, migrations=files).code == 0
    await database.execute("DELETE FROM schema_migrations")


async def run_with_in_flight(
    statement: str,
    database: Database,
    folder: Folder,
    slipway: Slipway,
    *,
    object_name: str | None = None,
    before: list[int] | None = None,
) -> Finished:
    """Run a file whose one statement an earlier run has left in flight."""
    await database.execute(in_flight(statement, object_name=object_name, before=before))
    files = folder({"001_a.sql": without_transaction(statement)})
    return await asyncio.to_thread(slipway, env=database.environ, migrations=files)


async def index_begun(database: Database, index: str) -> None:
    """Block until a concurrent build of an index has begun."""
    await eventually(
        lambda: database.fetch("SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid", index),
        f"the build of {index} has begun",
    )


# --- CREATE INDEX CONCURRENTLY: interrupted ---------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
async def test_interrupted_build_is_dropped_and_built_again(
    fault: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(f"{TABLE}; CREATE TABLE log (n int)")
    files = folder(
        {"001_a.sql": without_transaction(INDEX, "INSERT INTO log VALUES (1)"), "002_b.sql": "CREATE TABLE b ();"}
    )
    async with transaction_on(database, WRITES):
        process = slipway.start(env=database.environ, migrations=files)
        await index_begun(database, "a_n")
        await stop(fault, process, database, "CREATE INDEX CONCURRENTLY%")
        await wait_until_gone(database, "CREATE INDEX CONCURRENTLY%")
        left, invalid = await steps_of(database), await invalid_indexes(database)

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert (left, invalid) == ([(1, 2, False)], ["a_n"])
    assert again.code == 0, again
    assert running("DROP INDEX CONCURRENTLY IF EXISTS public.a_n") in again.err
    assert REPEATED in again.err
    assert await is_valid(database, "a_n")
    assert await invalid_indexes(database) == []
    assert await numbers(database) == [1]
    assert await steps_of(database) == []
    assert await database.applied() == ["001_a.sql", "002_b.sql"]


NAMED = {
    "plain": ("i", "a"),
    "folded": ("IdX", "A"),
    "quoted": ('"Odd ""Na\'me"', '"Odd ""Ta.ble"'),
    "umlaut": ("Éidx", '"Ä"'),
    "only": ("i", "ONLY a"),
    "method": ("i", "a USING btree"),
    "qualified": ("i", "app.b"),
    "quoted-qualified": ('"i.j"', '"app" . "B b"'),
    "long": ("i" * 70, "a"),
    "search-path": ("i", "found"),
    "keyword": ("location", "app.include"),
}


@pytest.mark.parametrize(("index", "table"), NAMED.values(), ids=NAMED)
async def test_interrupted_build_of_any_name_is_built_again(
    index: str, table: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The first build is ended by hand, as it would be if its runner was killed between two messages."""
    await database.execute(
        'CREATE SCHEMA app; CREATE TABLE a (n int); CREATE TABLE "Odd ""Ta.ble" (n int); CREATE TABLE "Ä" (n int);'
        'CREATE TABLE app.b (n int); CREATE TABLE app."B b" (n int); CREATE TABLE app.found (n int);'
        "CREATE TABLE app.include (n int)"
    )
    path, build = "SET search_path = public, app", f"CREATE INDEX CONCURRENTLY {index} ON {table} (n)"
    files = folder({"001_a.sql": without_transaction(path, build)})
    target = table.removeprefix("ONLY ").removesuffix(" USING btree")
    async with transaction_on(database, f"{path}; INSERT INTO {target} VALUES (0)"):
        process = slipway.start(env=database.environ, migrations=files)
        await eventually(lambda: invalid_indexes(database), "the build has begun")
        await stop("pg_terminate_backend", process, database, "CREATE INDEX CONCURRENTLY%")

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert again.code == 0, again
    assert "001_a.sql:3: half done; running DROP INDEX CONCURRENTLY IF EXISTS" in again.err
    assert await invalid_indexes(database) == []
    assert len(await database.fetch("SELECT FROM pg_index WHERE indrelid::regclass::text !~ '^(pg_|schema_)'")) == 1


async def test_build_that_was_never_sent_is_done(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)

    finished = await run_with_in_flight(INDEX, database, folder, slipway, object_name="public.a_n", before=[])

    assert finished.code == 0, finished
    assert REPEATED in finished.err
    assert "half done" not in finished.err
    assert await is_valid(database, "a_n")


async def test_build_that_ended_unseen_is_not_done_again(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)
    await database.execute(INDEX)
    oid = await oid_of(database, "a_n")

    finished = await run_with_in_flight(INDEX, database, folder, slipway, object_name="public.a_n", before=[])

    assert finished.code == 0, finished
    assert TOOK_EFFECT in finished.err
    assert await oid_of(database, "a_n") == oid
    assert await steps_of(database) == []


async def test_mend_is_done_again_where_it_is_interrupted_itself(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    await database.execute("CREATE TABLE a (n int); INSERT INTO a VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute(UNIQUE)
    await database.execute("DELETE FROM a")
    await database.execute(in_flight(UNIQUE, object_name="public.a_n", before=[]))
    files = folder({"001_a.sql": without_transaction(UNIQUE)})
    async with transaction_on(database, WRITES):
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="1h")
        await stop("pg_terminate_backend", process, database, "DROP INDEX CONCURRENTLY%")

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert again.code == 0, again
    assert await is_valid(database, "a_n")
    assert await invalid_indexes(database) == []


async def test_mend_waits_as_long_as_the_build_would(database: Database, folder: Folder, slipway: Slipway) -> None:
    """A drop that is done concurrently blocks nobody, so there is no reason to give up."""
    await make_journal(database, folder, slipway)
    await database.execute("CREATE TABLE a (n int); INSERT INTO a VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute(UNIQUE)
    await database.execute("DELETE FROM a")
    await database.execute(in_flight(UNIQUE, object_name="public.a_n", before=[]))
    files = folder({"001_a.sql": without_transaction(UNIQUE)})
    async with transaction_on(database, WRITES):
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="20ms", ddl_retry="100ms")
        await asyncio.to_thread(process.wait_for_log, "waiting for ")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert await is_valid(database, "a_n")


# --- CREATE INDEX CONCURRENTLY: refused -------------------------------------------------------------------------


async def test_refused_build_is_mended_at_once_and_the_corrected_file_goes_on(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a (n int); INSERT INTO a VALUES (1), (1)")
    refused = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(UNIQUE, "SELECT 1")}))
    left, invalid = await steps_of(database), await invalid_indexes(database)

    corrected = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(INDEX, "SELECT 1")}))

    assert refused.code == 24, refused
    assert refused.outcome
    assert refused.outcome["message"].startswith(
        '001_a.sql:2: could not create unique index "a_n"\ndetail: Key (n)=(1) is duplicated.\n'
    )
    assert running("DROP INDEX CONCURRENTLY IF EXISTS public.a_n") in refused.err
    assert (left, invalid) == ([], [])
    assert corrected.code == 0, corrected


async def test_build_that_the_statement_timeout_ends_is_mended_sooner_or_later(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The transaction that is in the way of the build is in the way of the drop, too."""
    await database.execute(TABLE)
    files = folder({"001_a.sql": without_transaction(INDEX)})
    async with transaction_on(database, WRITES):
        refused = await asyncio.to_thread(
            slipway, env=database.environ, migrations=files, statement_timeout="200ms", limit=20
        )

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert refused.code == 24, refused
    assert "001_a.sql:2: canceling statement due to statement timeout" in refused.err
    assert again.code == 0, again
    assert await is_valid(database, "a_n")
    assert await invalid_indexes(database) == []


async def test_build_that_is_the_victim_of_a_deadlock_is_tried_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(TABLE)
    files = folder({"001_a.sql": without_transaction(INDEX)})
    async with database.connection() as other:
        await other.execute(f"BEGIN; SET LOCAL deadlock_timeout = '1h'; {WRITES}")
        process = slipway.start(env=database.environ, migrations=files)
        await index_begun(database, "a_n")
        await other.execute("LOCK TABLE a IN SHARE UPDATE EXCLUSIVE MODE; COMMIT")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert "deadlock detected" in finished.err
    assert running("DROP INDEX CONCURRENTLY IF EXISTS public.a_n") in finished.err
    assert await is_valid(database, "a_n")
    assert await invalid_indexes(database) == []


@pytest.mark.parametrize("statement", [INDEX, "DROP INDEX CONCURRENTLY b_n", "REINDEX INDEX CONCURRENTLY b_n"])
async def test_what_blocks_nobody_is_not_bounded_by_the_lock_timeout(
    statement: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(f"{TABLE}; CREATE INDEX b_n ON a (n)")
    async with transaction_on(database, WRITES):
        process = slipway.start(
            env=database.environ,
            migrations=folder({"001_a.sql": without_transaction(statement)}),
            ddl_lock_timeout="20ms",
            ddl_retry="0",
        )
        await asyncio.to_thread(process.wait_for_log, "001_a.sql:2: waiting for ShareLock on a virtualxid")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert "trying again" not in finished.err


# --- CREATE INDEX CONCURRENTLY: of somebody else ----------------------------------------------------------------


async def make_invalid(database: Database, name: str = "a_n", table: str = "a") -> int:
    """An index that somebody else's build left behind; its oid."""
    await database.execute(f"INSERT INTO {table} VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} (n)")
    oid = await oid_of(database, name)
    assert oid
    return oid


async def test_valid_index_of_somebody_else_is_an_error_without_if_not_exists(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(f"{TABLE}; CREATE INDEX a_n ON a (n)")
    oid = await oid_of(database, "a_n")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(INDEX)}))

    assert finished.code == 24, finished
    assert '001_a.sql:2: relation "a_n" already exists' in finished.err
    assert await oid_of(database, "a_n") == oid
    assert await steps_of(database) == []


async def test_valid_index_of_somebody_else_is_taken_with_if_not_exists(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(f"{TABLE}; CREATE INDEX a_n ON a (n)")
    oid = await oid_of(database, "a_n")
    build = INDEX.replace("a_n", "IF NOT EXISTS a_n")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(build)}))

    assert finished.code == 0, finished
    assert await oid_of(database, "a_n") == oid


@pytest.mark.parametrize("if_not_exists", ["", "IF NOT EXISTS "], ids=["plain", "if-not-exists"])
@pytest.mark.parametrize("interrupted", [False, True], ids=["first", "interrupted"])
async def test_invalid_index_of_somebody_else_is_an_error_and_stays(
    interrupted: bool, if_not_exists: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Also where a run was killed on it: the oid was noted before."""
    await make_journal(database, folder, slipway)
    await database.execute("CREATE TABLE a (n int)")
    oid = await make_invalid(database)
    build = INDEX.replace("a_n", f"{if_not_exists}a_n")
    if interrupted:
        await database.execute(in_flight(build, object_name="public.a_n", before=[oid]))
    files = folder({"001_a.sql": without_transaction(build)})

    refused = slipway(env=database.environ, migrations=files)
    left, stays = await steps_of(database), await oid_of(database, "a_n")
    await database.execute("DROP INDEX CONCURRENTLY a_n")
    dropped = slipway(env=database.environ, migrations=files)

    assert refused.code == 24, refused
    if if_not_exists:
        assert refused.outcome
        assert refused.outcome["message"].startswith(
            "001_a.sql:2: the index public.a_n exists but is invalid: left by a build that did not end, or being "
            "built; drop it with DROP INDEX CONCURRENTLY and run again"
        )
    else:
        assert '001_a.sql:2: relation "a_n" already exists' in refused.err
    assert "half done" not in refused.err
    assert (left, stays) == ([], oid)
    assert dropped.code == 0, dropped
    assert await is_valid(database, "a_n")


async def test_invalid_index_of_the_same_name_elsewhere_is_left_alone_after_an_interruption(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    await database.execute("CREATE SCHEMA z; CREATE TABLE z.a (n int); CREATE TABLE a (n int)")
    oid = await oid_of_invalid_elsewhere(database)

    finished = await run_with_in_flight(INDEX, database, folder, slipway, object_name="public.a_n", before=[])

    assert finished.code == 0, finished
    assert await is_valid(database, "public.a_n")
    assert await oid_of(database, "z.a_n") == oid
    assert await invalid_indexes(database) == ["z.a_n"]


async def oid_of_invalid_elsewhere(database: Database) -> int | None:
    await database.execute("INSERT INTO z.a VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute("CREATE UNIQUE INDEX CONCURRENTLY a_n ON z.a (n)")
    return await oid_of(database, "z.a_n")


async def test_table_that_has_the_name_of_the_index_is_left_alone(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(f"{TABLE}; CREATE TABLE a_n ()")
    build = INDEX.replace("a_n", "IF NOT EXISTS a_n")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(build)}))

    assert finished.code == 0, finished  # as Postgres has it
    assert await oid_of(database, "a_n")


async def test_index_that_was_mended_by_hand_is_taken_for_done(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)
    await database.execute(f"CREATE INDEX a_n ON a (n); {in_flight(INDEX, object_name='public.a_n', before=[1])}")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(INDEX)}))

    assert finished.code == 0, finished
    assert TOOK_EFFECT in finished.err


async def test_table_that_is_gone_meanwhile_is_an_error_in_its_place(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)

    finished = await run_with_in_flight(INDEX, database, folder, slipway, object_name="public.a_n", before=[])

    assert finished.code == 24, finished
    assert '001_a.sql:2: relation "a" does not exist' in finished.err
    assert await steps_of(database) == []


async def test_statement_in_flight_that_the_file_no_longer_has_is_mended_too(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    await database.execute("CREATE TABLE a (n int)")
    await make_invalid(database)
    await database.execute(in_flight(UNIQUE, object_name="public.a_n", before=[]))

    finished = slipway(
        env=database.environ,
        migrations=folder({"001_a.sql": without_transaction("CREATE INDEX CONCURRENTLY other ON a (n)")}),
    )

    assert finished.code == 0, finished
    assert await oid_of(database, "a_n") is None
    assert await is_valid(database, "other")


# --- DROP INDEX CONCURRENTLY ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["a_n", 'public . "a_n"'], ids=["plain", "qualified"])
async def test_interrupted_drop_is_ended(
    name: str, fault: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(f"{TABLE}; CREATE INDEX a_n ON a (n)")
    files = folder({"001_a.sql": without_transaction(f"DROP INDEX CONCURRENTLY {name}", "CREATE TABLE b ()")})
    async with transaction_on(database, WRITES):
        process = slipway.start(env=database.environ, migrations=files)
        await index_begun(database, "a_n")
        await stop(fault, process, database, "DROP INDEX CONCURRENTLY%")
        await wait_until_gone(database, "DROP INDEX CONCURRENTLY%")

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert again.code == 0, again
    assert running("DROP INDEX CONCURRENTLY IF EXISTS public.a_n") in again.err
    assert TOOK_EFFECT in again.err
    assert await oid_of(database, "a_n") is None


async def test_drop_that_ended_unseen_is_not_done_again(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)

    finished = await run_with_in_flight(
        "DROP INDEX CONCURRENTLY a_n", database, folder, slipway, object_name="public.a_n", before=[12345]
    )

    assert finished.code == 0, finished
    assert TOOK_EFFECT in finished.err


async def test_drop_that_was_never_sent_is_done(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(f"{TABLE}; CREATE INDEX a_n ON a (n)")
    oid = await oid_of(database, "a_n")
    assert oid

    finished = await run_with_in_flight(
        "DROP INDEX CONCURRENTLY a_n", database, folder, slipway, object_name="public.a_n", before=[oid]
    )

    assert finished.code == 0, finished
    assert REPEATED in finished.err
    assert await oid_of(database, "a_n") is None


async def test_drop_of_what_was_never_there_is_an_error(database: Database, folder: Folder, slipway: Slipway) -> None:
    refused = slipway(
        env=database.environ, migrations=folder({"001_a.sql": without_transaction("DROP INDEX CONCURRENTLY a_n")})
    )
    finished = slipway(
        env=database.environ,
        migrations=folder({"001_a.sql": without_transaction("DROP INDEX CONCURRENTLY IF EXISTS a_n")}),
    )

    assert refused.code == 24, refused
    assert '001_a.sql:2: index "a_n" does not exist' in refused.err
    assert finished.code == 0, finished


async def test_index_that_somebody_made_after_the_drop_is_left_alone(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """What is in flight dropped another one, by its oid."""
    await make_journal(database, folder, slipway)
    await database.execute(f"{TABLE}; CREATE INDEX a_n ON a (n)")
    oid = await oid_of(database, "a_n")

    finished = await run_with_in_flight(
        "DROP INDEX CONCURRENTLY a_n", database, folder, slipway, object_name="public.a_n", before=[1]
    )

    assert finished.code == 0, finished
    assert await oid_of(database, "a_n") == oid


@pytest.mark.parametrize("name", ["location", "app.location", "template", "force"])
async def test_index_whose_name_is_a_word_of_the_grammar_is_journalled_by_its_name(
    name: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(
        "CREATE SCHEMA app; CREATE TABLE a (n int); CREATE TABLE app.a (n int); CREATE INDEX location ON a (n);"
        "CREATE INDEX template ON a (n); CREATE INDEX force ON a (n); CREATE INDEX location ON app.a (n)"
    )
    oid = await oid_of(database, name)
    files = folder({"001_a.sql": without_transaction(f"DROP INDEX CONCURRENTLY {name}")})
    async with transaction_on(database, f"INSERT INTO {'app.a' if '.' in name else 'a'} VALUES (0)"):
        process = slipway.start(env=database.environ, migrations=files)
        await wait_for_query(database, "DROP INDEX CONCURRENTLY%")
        noted = await database.fetch("SELECT object, before FROM schema_migrations_steps")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert [tuple(row) for row in noted] == [(name if "." in name else f"public.{name}", [oid])]


# --- REINDEX CONCURRENTLY ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["SIGTERM", "pg_terminate_backend"])
@pytest.mark.parametrize(
    "statement",
    [
        "REINDEX INDEX CONCURRENTLY a_n",
        "REINDEX TABLE CONCURRENTLY a",
        "REINDEX (VERBOSE, CONCURRENTLY) TABLE a",
        "REINDEX SCHEMA CONCURRENTLY app",
    ],
    ids=["index", "table", "option", "schema"],
)
async def test_leftovers_of_an_interrupted_reindex_are_dropped_and_older_ones_stay(
    statement: str, fault: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE SCHEMA app; CREATE TABLE app.a (n int, t text); CREATE INDEX a_n ON app.a (n)")
    await database.execute("CREATE TABLE app.other (n int)")
    await make_old_leftover(database)
    older = await invalid_indexes(database)
    files = folder({"001_a.sql": without_transaction("SET search_path = app", statement)})
    async with transaction_on(database, "INSERT INTO app.a VALUES (0)"):
        process = slipway.start(env=database.environ, migrations=files)
        await eventually(
            lambda: database.fetch("SELECT FROM pg_class WHERE relname ~ 'a_n_ccnew'"), "the reindex has begun"
        )
        await stop(fault, process, database, "REINDEX%")
        left = await invalid_indexes(database)

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert len(left) > len(older)
    assert again.code == 0, again
    assert "001_a.sql:3: half done; running DROP INDEX CONCURRENTLY IF EXISTS app.a_n_ccnew" in again.err
    assert await invalid_indexes(database) == older
    assert await is_valid(database, "app.a_n")


async def make_old_leftover(database: Database) -> None:
    """What looks like the leftover of a REINDEX, and is not ours."""
    await database.execute("INSERT INTO app.other VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute("CREATE UNIQUE INDEX CONCURRENTLY other_ccnew ON app.other (n)")


async def test_leftover_on_a_toast_table_does_not_stop_a_role_that_may_not_look_there(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    owner = await database.create_role("mend_owner")
    await owner.execute("CREATE TABLE a (n int, t text); CREATE INDEX a_n ON a (n)")
    files = folder({"001_a.sql": without_transaction("REINDEX TABLE CONCURRENTLY a")})
    async with transaction_on(owner, "INSERT INTO a VALUES (0)"):
        process = slipway.start(env=owner.environ, migrations=files)
        await eventually(
            lambda: database.fetch("SELECT FROM pg_class WHERE relname ~ '^pg_toast.*_ccnew'"), "the reindex has begun"
        )
        await stop("pg_terminate_backend", process, database, "REINDEX%")

    again = await asyncio.to_thread(slipway, env=owner.environ, migrations=files)

    assert again.code == 0, again
    assert await is_valid(database, "a_n")


async def test_invalid_indexes_that_are_another_owners_or_no_leftovers_are_left_alone(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """To drop the one would be refused, and the other was never a REINDEX's."""
    owner = await database.create_role("mend_reindexer")
    await make_journal(owner, folder, slipway)
    await owner.execute("CREATE TABLE a (n int); CREATE INDEX a_n ON a (n)")
    await database.execute("CREATE TABLE other AS SELECT 1 AS n FROM generate_series(1, 2)")
    await owner.execute("CREATE TABLE mine AS SELECT 1 AS n FROM generate_series(1, 2)")
    for login, index in ((database, "other_ccnew ON other"), (owner, "half_built ON mine")):
        with pytest.raises(asyncpg.UniqueViolationError):
            await login.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {index} (n)")

    finished = await run_with_in_flight("REINDEX TABLE CONCURRENTLY a", owner, folder, slipway, before=[])

    assert finished.code == 0, finished
    assert REPEATED in finished.err
    assert await invalid_indexes(database) == ["half_built", "other_ccnew"]


async def test_reindex_that_ended_unseen_may_be_repeated(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(f"{TABLE}; CREATE INDEX a_n ON a (n)")

    finished = await run_with_in_flight("REINDEX TABLE CONCURRENTLY a", database, folder, slipway, before=[])

    assert finished.code == 0, finished
    assert REPEATED in finished.err


# --- DETACH PARTITION CONCURRENTLY ------------------------------------------------------------------------------

PARTITIONED = """
CREATE SCHEMA app; CREATE TABLE p (n int) PARTITION BY LIST (n);
CREATE TABLE app."Part 1" PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)
"""
DETACH = 'ALTER TABLE p DETACH PARTITION app."Part 1" CONCURRENTLY'
PARTITIONS = "SELECT inhrelid::regclass::text AS name, inhdetachpending AS pending FROM pg_inherits ORDER BY 1"


@pytest.mark.parametrize("fault", FAULTS)
async def test_interrupted_detach_is_finalised(
    fault: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(PARTITIONED)
    files = folder({"001_a.sql": without_transaction(DETACH, "CREATE TABLE b ()")})
    async with transaction_on(database, "SELECT FROM p"):
        process = slipway.start(env=database.environ, migrations=files)
        await eventually(
            lambda: database.fetch("SELECT FROM pg_inherits WHERE inhdetachpending"), "the detaching has begun"
        )
        await stop(fault, process, database, "ALTER TABLE p DETACH%")
        await wait_until_gone(database, "ALTER TABLE p DETACH%")

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert again.code == 0, again
    assert running('ALTER TABLE public.p DETACH PARTITION app."Part 1" FINALIZE') in again.err
    assert TOOK_EFFECT in again.err
    assert [tuple(row) for row in await database.fetch(PARTITIONS)] == [("p2", False)]


async def test_detach_that_was_never_sent_is_done(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(PARTITIONED)
    oid = await oid_of(database, 'app."Part 1"')
    assert oid

    finished = await run_with_in_flight(
        DETACH, database, folder, slipway, object_name='app."Part 1"', before=[oid]
    )  # fmt: skip

    assert finished.code == 0, finished
    assert REPEATED in finished.err
    assert [row["name"] for row in await database.fetch(PARTITIONS)] == ["p2"]


async def test_detach_that_ended_unseen_is_not_done_again(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(PARTITIONED)
    oid = await oid_of(database, 'app."Part 1"')
    assert oid
    await database.execute(DETACH)

    finished = await run_with_in_flight(
        DETACH, database, folder, slipway, object_name='app."Part 1"', before=[oid]
    )  # fmt: skip

    assert finished.code == 0, finished
    assert TOOK_EFFECT in finished.err


# --- what is repeated, and what is known by its name ------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "VACUUM a",
        "VACUUM (FULL, ANALYZE) a",
        "ANALYZE a",
        "CLUSTER",
        "REINDEX SCHEMA public",
        "ALTER SYSTEM RESET deadlock_timeout",
    ],
)
async def test_what_may_be_repeated_is(statement: str, database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)

    finished = await run_with_in_flight(statement, database, folder, slipway)

    assert finished.code == 0, finished
    assert REPEATED in finished.err
    assert await steps_of(database) == []


@pytest.mark.parametrize("name", ["plain", '"Odd ""Na\'me"', "template"])
async def test_database_is_made_and_dropped_once(
    name: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Each command three times: as it is, as if it ended unseen, as if it was never sent."""
    await make_journal(database, folder, slipway)
    actual = f"{secrets.token_hex(4)}{name}".replace('"', "") if name != "template" else name
    quoted = '"' + actual + '"' if name != "template" else name
    create, drop = f"CREATE DATABASE {quoted} TEMPLATE template0", f"DROP DATABASE {quoted}"
    find = "SELECT oid::bigint FROM pg_database WHERE datname = $1"
    try:
        made = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(create)}))
        oids = [row[0] for row in await database.fetch(find, actual)]
        await database.execute("DELETE FROM schema_migrations")
        unseen = await run_with_in_flight(create, database, folder, slipway, object_name=actual, before=[])
        same = [row[0] for row in await database.fetch(find, actual)]
        await database.execute("DELETE FROM schema_migrations")
        dropped = await run_with_in_flight(drop, database, folder, slipway, object_name=actual, before=oids)
        gone = await database.fetch(find, actual)
        await database.execute("DELETE FROM schema_migrations")
        unseen_drop = await run_with_in_flight(drop, database, folder, slipway, object_name=actual, before=oids)
        await database.execute("DELETE FROM schema_migrations")
        repeated = await run_with_in_flight(create, database, folder, slipway, object_name=actual, before=[])
    finally:
        await database.execute(f"DROP DATABASE IF EXISTS {quoted}")

    assert made.code == 0, made
    assert len(oids) == 1
    assert unseen.code == 0, unseen
    assert TOOK_EFFECT in unseen.err
    assert same == oids
    assert dropped.code == 0, dropped
    assert gone == []
    assert unseen_drop.code == 0, unseen_drop
    assert TOOK_EFFECT in unseen_drop.err
    assert repeated.code == 0, repeated
    assert REPEATED in repeated.err


async def test_database_of_a_name_that_is_too_long_is_made(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    name = f"{secrets.token_hex(4)}{'x' * 70}"
    try:
        finished = slipway(
            env=database.environ,
            migrations=folder({"001_a.sql": without_transaction(f'CREATE DATABASE "{name}" TEMPLATE template0')}),
        )
    finally:
        await database.execute(f'DROP DATABASE IF EXISTS "{name}"')

    assert finished.code == 0, finished


async def test_tablespace_is_made_and_dropped_once(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)
    name = f"ts_{secrets.token_hex(4)}"
    create, drop = f"CREATE TABLESPACE {name} LOCATION ''", f"DROP TABLESPACE {name}"
    in_place = "SET allow_in_place_tablespaces = on"

    made = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(in_place, create)}))
    await database.execute("DELETE FROM schema_migrations")
    unseen = await run_with_in_flight(create, database, folder, slipway, object_name=name, before=[])
    await database.execute("DELETE FROM schema_migrations")
    dropped = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(drop)}))
    await database.execute("DELETE FROM schema_migrations")
    unseen_drop = await run_with_in_flight(drop, database, folder, slipway, object_name=name, before=[1])

    assert [one.code for one in (made, unseen, dropped, unseen_drop)] == [0] * 4, made
    assert TOOK_EFFECT in unseen.err
    assert TOOK_EFFECT in unseen_drop.err
    assert await database.fetch("SELECT FROM pg_tablespace WHERE spcname = $1", name) == []


async def test_subscription_that_ended_unseen_is_not_made_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    name = f"s_{secrets.token_hex(4)}"
    await database.execute(
        f"CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)"
    )
    create = f"CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p"
    try:
        finished = await run_with_in_flight(create, database, folder, slipway, object_name=name, before=[])
    finally:
        await database.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
        await database.execute(f"DROP SUBSCRIPTION {name}")

    assert finished.code == 0, finished
    assert TOOK_EFFECT in finished.err


# --- several files ----------------------------------------------------------------------------------------------


async def test_unfinished_files_do_not_touch_each_others_rows(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Of three in flight at the same step the first took effect and the others did not."""
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)
    await database.execute(INDEX)
    builds = {n: f"CREATE INDEX CONCURRENTLY a_{n} ON a (n)" for n in (2, 3)}
    await database.execute(in_flight(INDEX, object_name="public.a_n", before=[]))
    for n, build in builds.items():
        await database.execute(in_flight(build, version=n, object_name=f"public.a_{n}", before=[]))
    files = folder(
        {"001_a.sql": without_transaction(INDEX, "SELECT 1", "SELECT 2")}
        | {f"00{n}_b.sql": without_transaction(build) for n, build in builds.items()}
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert TOOK_EFFECT in finished.err
    assert "starting over" not in finished.err
    for n in builds:
        assert f"00{n}_b.sql:2: what an earlier run had in flight here did not take effect, and is repeated" in (
            finished.err
        )
        assert await is_valid(database, f"a_{n}")
        assert await steps_of(database, n) == []
    assert await steps_of(database) == []


# --- an orphan --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 5000], ids=["short", "cut off by the server"])
async def test_orphan_that_is_still_at_work_is_waited_for_and_not_doubled(
    padding: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """As behind a pooler, where the lock was the killed run's and its session is the pool's."""
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)
    statement = f"CREATE INDEX CONCURRENTLY a_n ON a (n) WHERE n >= 0 AND '{'x' * padding}' <> 'ä'"
    await database.execute(in_flight(statement, object_name="public.a_n", before=[]))
    files = folder({"001_a.sql": without_transaction(statement)})
    async with transaction_on(database, WRITES):
        orphan = asyncio.create_task(database.execute(statement))
        await index_begun(database, "a_n")
        pid = await wait_for_query(database, "CREATE INDEX CONCURRENTLY%")
        process = slipway.start(env=database.environ, migrations=files)
        log = await asyncio.to_thread(process.wait_for_log, "still works on")
        oid = await oid_of(database, "a_n")
    await orphan

    finished = await asyncio.to_thread(process.finish)

    assert f"an earlier run's session, pid {pid}, still works on: CREATE INDEX CONCURRENTLY a_n" in log
    assert finished.code == 0, finished
    assert TOOK_EFFECT in finished.err
    assert await oid_of(database, "a_n") == oid


async def test_orphan_that_does_not_end_is_a_lock_that_is_not_to_be_had(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)
    await database.execute(in_flight(INDEX, object_name="public.a_n", before=[]))
    files = folder({"001_a.sql": without_transaction(INDEX)})
    async with transaction_on(database, WRITES):
        orphan = asyncio.create_task(database.execute(INDEX))
        await index_begun(database, "a_n")
        pid = await wait_for_query(database, "CREATE INDEX CONCURRENTLY%")
        finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files, lock_timeout="1s")
        left = await steps_of(database)
    await orphan

    assert finished.code == 11, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        f"an earlier run's session, pid {pid}, still works on: {INDEX} (MIGRATE_LOCK_TIMEOUT=1s)"
    )
    assert finished.err.count(f"still works on: {INDEX}\n") == 1
    assert left == [(1, 2, False)]


async def test_session_that_works_on_something_else_is_not_waited_for(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Not even where its text is the beginning of the statement's."""
    await make_journal(database, folder, slipway)
    await database.execute("CREATE FUNCTION f(int DEFAULT 0) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(3600)'")
    await database.execute(in_flight("SELECT f() ; ANALYZE", object_name=None))
    other = asyncio.create_task(database.execute("SELECT f()"))
    await wait_for_query(database, "SELECT f()")

    finished = await asyncio.to_thread(
        slipway, env=database.environ, migrations=folder({"001_a.sql": without_transaction("ANALYZE")}),
        lock_timeout="2s",
    )  # fmt: skip

    await database.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT f()'")
    with pytest.raises(asyncpg.PostgresError):
        await other
    assert "still works on" not in finished.err


async def test_session_that_has_worked_on_the_statement_and_is_idle_is_not_waited_for(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """As a pooler's, which another client may keep for long."""
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)
    async with database.connection() as other:
        await other.execute("VACUUM a")
        finished = await run_with_in_flight("VACUUM a", database, folder, slipway)

    assert finished.code == 0, finished
    assert "still works on" not in finished.err


async def test_signal_while_waiting_for_an_orphan_ends_the_wait(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)
    await database.execute(in_flight(INDEX, object_name="public.a_n", before=[]))
    files = folder({"001_a.sql": without_transaction(INDEX)})
    async with transaction_on(database, WRITES):
        orphan = asyncio.create_task(database.execute(INDEX))
        await index_begun(database, "a_n")
        process = slipway.start(env=database.environ, migrations=files)
        await asyncio.to_thread(process.wait_for_log, "still works on")
        process.terminate(SIGTERM)
        finished = await asyncio.to_thread(process.finish)
    await orphan

    assert finished.code == 143, finished


async def test_session_that_works_on_the_same_statement_in_another_database_is_not_waited_for(
    server: Server, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The same image may be at work on many databases of a server."""
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)
    await database.execute(in_flight(INDEX, object_name="public.a_n", before=[]))
    files = folder({"001_a.sql": without_transaction(INDEX)})
    async with server.fresh_database() as other:
        await other.execute(TABLE)
        async with transaction_on(other, WRITES):
            build = asyncio.create_task(other.execute(INDEX))
            await index_begun(other, "a_n")
            finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files, lock_timeout="1s")
        await build

    assert finished.code == 0, finished
    assert REPEATED in finished.err
    assert "still works on" not in finished.err


async def test_orphan_is_waited_for_without_a_limit_where_the_lock_has_none(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(TABLE)
    await database.execute(in_flight(INDEX, object_name="public.a_n", before=[]))
    async with transaction_on(database, WRITES):
        orphan = asyncio.create_task(database.execute(INDEX))
        await index_begun(database, "a_n")
        process = slipway.start(
            env=database.environ, migrations=folder({"001_a.sql": without_transaction(INDEX)}), lock_timeout="0"
        )
        await asyncio.to_thread(process.wait_for_log, "still works on")
    await orphan

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert TOOK_EFFECT in finished.err


async def test_leftover_of_a_reindex_that_somebody_runs_right_now_is_left_alone(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    await database.execute(f"{TABLE}; CREATE INDEX a_n ON a (n); CREATE TABLE b (n int); CREATE INDEX b_n ON b (n)")
    async with transaction_on(database, "INSERT INTO b VALUES (0)"):
        other = asyncio.create_task(database.execute("REINDEX TABLE CONCURRENTLY b"))
        await eventually(lambda: database.fetch("SELECT FROM pg_class WHERE relname = 'b_n_ccnew'"), "it has begun")
        finished = await run_with_in_flight("REINDEX TABLE CONCURRENTLY a", database, folder, slipway, before=[])
    await other

    assert finished.code == 0, finished
    assert REPEATED in finished.err
    assert "half done" not in finished.err
    assert await is_valid(database, "b_n")


async def test_leftover_of_a_reindex_is_dropped_though_somebody_reads_its_table(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Once the reader is done. A lock as a REINDEX has it, but on another table, is none of its business."""
    await make_journal(database, folder, slipway)
    await database.execute(f"{TABLE}; INSERT INTO a VALUES (1); CREATE TABLE b ()")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute("CREATE UNIQUE INDEX CONCURRENTLY a_n_ccnew ON a (n)")
    statement = "REINDEX TABLE CONCURRENTLY a"
    await database.execute(in_flight(statement, before=[]))
    async with transaction_on(database, "SELECT FROM a; LOCK TABLE b IN SHARE UPDATE EXCLUSIVE MODE"):
        process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": without_transaction(statement)}))
        await asyncio.to_thread(process.wait_for_log, running("DROP INDEX CONCURRENTLY IF EXISTS public.a_n_ccnew"))

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert await invalid_indexes(database) == []


async def test_drop_of_a_subscription_that_ended_unseen_is_not_done_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)

    finished = await run_with_in_flight(
        "DROP SUBSCRIPTION s", database, folder, slipway, object_name="s", before=[1]
    )  # fmt: skip

    assert finished.code == 0, finished
    assert TOOK_EFFECT in finished.err


async def test_update_of_an_extension_may_be_repeated(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make_journal(database, folder, slipway)

    finished = await run_with_in_flight("ALTER EXTENSION plpgsql UPDATE", database, folder, slipway)

    assert finished.code == 0, finished
    assert REPEATED in finished.err


async def test_database_may_be_moved_again(
    server: Server, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    async with server.fresh_database() as other:
        finished = await run_with_in_flight(
            f"ALTER DATABASE {other.name} SET TABLESPACE pg_default", database, folder, slipway
        )

    assert finished.code == 0, finished
    assert REPEATED in finished.err


# --- another runner, should there be one in spite of the lock ---------------------------------------------------

MAKES = "CREATE TABLE t ()"
ROW = f"""
INSERT INTO schema_migrations_steps (version, step, checksum, line, done_at)
VALUES (1, 1, '{hashlib.sha256(MAKES.encode()).hexdigest()}', 2, now())
"""


async def test_row_of_another_runner_in_the_journal_is_waited_for(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    files = folder({"001_a.sql": without_transaction(MAKES)})
    async with transaction_on(database, ROW):
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="50ms", ddl_retry="0")
        await asyncio.to_thread(process.wait_for_log, "001_a.sql: another runner is at it; rolled back, trying again")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert await oid_of(database, "t")


async def test_statement_that_another_runner_has_done_meanwhile_is_not_done_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make_journal(database, folder, slipway)
    files = folder({"001_a.sql": without_transaction(MAKES, "CREATE TABLE u ()")})
    waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with database.connection() as other:
        await other.execute(f"BEGIN; {MAKES}; {ROW}")
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="30s")
        await eventually(lambda: database.fetch(waits), "it waits for the row")
        await other.execute("COMMIT")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert "starting over: 001_a.sql is being run by another runner\n" in finished.err
    assert await oid_of(database, "u")
