"""`rehearse --on URL`: a scratch database of a server that is given for it, gone again however the run ends."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import TYPE_CHECKING

import asyncpg
import pytest

from containers import ROOT
from pgslipway.cli.rehearsal.scratch import CLASS
from pgslipway.cli.rehearsal.shared import shared_writes
from servers import LOCALHOST, PASSWORD, eventually, pgbouncer, refusing

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Folder, Process, Slipway
    from servers import Cluster, Database, Embedded, Server

WEBSHOP = ROOT / "examples" / "webshop"
ONE = {"001_a.sql": "CREATE TABLE a ();"}
SCRATCH = "SELECT datname FROM pg_database WHERE datname LIKE 'pgslipway\\_rehearsal\\_%'"
DROPPING = "SELECT FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%' AND wait_event_type = 'Lock'"
HELD = f"SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = {CLASS}::oid"
UNTIL_TOLD = """
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'go') LOOP PERFORM pg_sleep(0.02); END LOOP;
END $$;
"""
"""Runs until there is a database `go`."""
WAITS = {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": UNTIL_TOLD}
REFUSED = (
    "this acts on the whole server, and so beyond the scratch database; rehearse it without --on, on the embedded "
    "Postgres, which is thrown away as a whole"
)
WHOLE_SERVER = [
    "CREATE ROLE app", "CREATE USER app", "create group app", "ALTER ROLE app SET search_path = app", "ALTER USER app",
    "DROP ROLE IF EXISTS app", "DROP USER app", "ALTER GROUP app ADD USER b", "GRANT app TO b", 'GRANT "app", c TO b',
    "REVOKE ADMIN OPTION FOR app FROM b", "REASSIGN OWNED BY app TO b", "DROP OWNED BY app",
    "COMMENT ON ROLE app IS 'x'", "SECURITY LABEL FOR 'dummy' ON ROLE app IS 'x'",
    "ALTER DATABASE shop SET timezone = 'UTC'", "COMMENT ON DATABASE shop IS 'x'",
    "GRANT CONNECT, TEMPORARY ON DATABASE shop TO app", "REVOKE ALL ON DATABASE shop FROM PUBLIC",
    "GRANT CREATE ON TABLESPACE fast TO app", "GRANT SET ON PARAMETER work_mem TO app",
    "ALTER TABLESPACE fast RENAME TO slow", "COMMENT ON TABLESPACE fast IS 'x'",
    "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)", "ALTER SUBSCRIPTION s DISABLE",
    "DROP SUBSCRIPTION s", "COMMENT ON SUBSCRIPTION s IS 'x'",
    "UPDATE pg_database SET datallowconn = false", "DELETE FROM ONLY pg_catalog.pg_authid",
    "SELECT pg_create_physical_replication_slot('s')", "SELECT * FROM pg_catalog.pg_drop_replication_slot('s')",
    "SELECT pg_reload_conf()", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
    "WITH x AS (SELECT 1) SELECT pg_replication_origin_create('o') FROM x",
]  # fmt: skip
OUTSIDE = [
    "ALTER SYSTEM SET work_mem = '1MB'", "CREATE DATABASE shop", "DROP DATABASE shop",
    "CREATE TABLESPACE fast LOCATION '/tmp/fast'", "DROP TABLESPACE fast",
    "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION p",
]  # fmt: skip
"""Those that Postgres runs outside a transaction only."""
WITHIN = """
CREATE TABLE database (role int, subscription int, tablespace int);
CREATE TABLE "GRANT x TO y" ();
GRANT SELECT ON database TO PUBLIC;
REVOKE ALL ON TABLE database FROM PUBLIC;
COMMENT ON TABLE database IS 'CREATE ROLE app;';
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER there FOREIGN DATA WRAPPER other;
CREATE USER MAPPING FOR CURRENT_USER SERVER there;
ALTER USER MAPPING FOR CURRENT_USER SERVER there OPTIONS (ADD x 'y');
DROP USER MAPPING FOR CURRENT_USER SERVER there;
CREATE FUNCTION later() RETURNS bool LANGUAGE sql AS $$ SELECT pg_reload_conf() $$;
SELECT pg_backend_pid(), role FROM database;
UPDATE database SET role = 1;
CREATE PUBLICATION p FOR TABLE database;
"""
SHARED = {
    "CREATE TABLE n (id serial); DROP TABLE t; COMMENT ON TABLE n IS 'n'; GRANT SELECT ON n TO a": [],
    "ALTER TABLE t OWNER TO a; CREATE SCHEMA AUTHORIZATION a; CREATE POLICY p ON t TO a": [],
    "ALTER DEFAULT PRIVILEGES FOR ROLE a GRANT SELECT ON TABLES TO b; SET ROLE a; TABLE pg_roles": [],
    "ALTER DATABASE postgres SET work_mem = '1MB'; GRANT CONNECT ON DATABASE postgres TO a": [],
    "COMMENT ON DATABASE postgres IS 'x'; ALTER DATABASE postgres OWNER TO a": [],
    "DO $$ BEGIN CREATE ROLE n; END $$": ["pg_auth_members", "pg_authid"],
    "ALTER ROLE a NOLOGIN": ["pg_authid"],
    "GRANT a TO b": ["pg_auth_members"],
    "ALTER ROLE a SET work_mem = '1MB'; ALTER DATABASE postgres SET work_mem = '1MB'": ["pg_db_role_setting"],
    "ALTER DATABASE template1 SET work_mem = '1MB'": ["pg_db_role_setting"],
    "ALTER DATABASE template1 CONNECTION LIMIT 5": ["pg_database"],
    "GRANT CONNECT ON DATABASE template1 TO a": ["pg_database"],
    "COMMENT ON ROLE a IS 'x'": ["pg_shdescription"],
    "GRANT CREATE ON TABLESPACE pg_default TO a": ["pg_tablespace"],
    "GRANT SET ON PARAMETER work_mem TO a": ["pg_parameter_acl"],
    "SELECT pg_replication_origin_create('o')": ["pg_replication_origin"],
    "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)": ["pg_replication_origin"],
}
"""Statements, and the shared catalogs that they write to, in the database postgres."""
BLOCK = "DO $$ BEGIN EXECUTE 'CREATE ROLE hidden'; END $$;"
HIDDEN = {
    "alone": {"001_a.sql": BLOCK},
    "after others": {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();", "003_c.sql": BLOCK},
    "without a transaction": {"001_a.sql": f"-- no-transaction\nCREATE TABLE a ();\n{BLOCK}"},
    "repeatable": {"001_a.sql": "CREATE TABLE a ();", "R__b.sql": BLOCK},
    "as a replica": {"001_a.sql": f"-- no-transaction\nSET session_replication_role = replica;\n{BLOCK}"},
    "large": {"001_a.sql": f"SELECT 1;\n--{'x' * 2_000_000}\n{BLOCK}"},
}
"""Files the last of which makes a role, in a block."""
OWN = """
DO $$ BEGIN
    EXECUTE pg_catalog.format('ALTER DATABASE %I SET work_mem = ''1MB''', current_database());
    EXECUTE pg_catalog.format('COMMENT ON DATABASE %I IS ''shop''', current_database());
END $$;
"""
EXPECTED = (
    "expected postgresql://user@host:port/database (the value is not shown: it may hold a password); write special "
    "characters in a password as %40 and so on, or give its file: ?passfile=/path"
)
BAD = {
    "": EXPECTED,
    f"postgresql://postgres:{PASSWORD}@localhost/postgres": EXPECTED,
    "postgresql://localhost:1/?sslmode=on": (
        "sslmode: expected disable or allow or prefer or require or verify-ca or verify-full, not 'on'"
    ),
    "postgresql://localhost:1/?passfile=/nowhere/x": (
        "passfile: /nowhere/x: no such file, or none that may be looked at; give the path of one"
    ),
    "postgresql://postgres:secret_word@localhost:1/?secret=1": (
        "holds an unknown parameter, which is named once the password is in a file instead: ?passfile=/path"
    ),
    "postgresql://$(HOST)/x": (
        "$(HOST) was not replaced; in Kubernetes, env has to define it further up; a $ is %24 here"
    ),
}


async def scratch_databases(database: Database) -> list[str]:
    """The scratch databases of a server."""
    return [row["datname"] for row in await database.fetch(SCRATCH)]


async def rehearse(slipway: Slipway, database: Database, files: Path, **env: str) -> Finished:
    """Rehearse a folder on the server of a database."""
    return await asyncio.to_thread(slipway, "rehearse", str(files), "--on", database.url, env=env)


async def started(slipway: Slipway, database: Database, files: Path) -> tuple[Process, str]:
    """Start a rehearsal of WAITS; and the name of its scratch database, once it waits there."""
    run = slipway.start("rehearse", str(files), "--on", database.url, env={})
    log = await asyncio.to_thread(run.wait_for_log, "applied 001_a.sql")
    found = re.search(r"connected to the scratch database (\S+) of ", log)
    assert found, log
    return run, found[1]


def message(finished: Finished) -> str:
    """The message of the outcome."""
    assert finished.outcome, finished
    return str(finished.outcome["message"])


# --- a rehearsal that nobody disturbs ----------------------------------------------------------------------------


async def test_everything_is_applied_and_nothing_is_left(cluster: Cluster, slipway: Slipway) -> None:
    finished = await rehearse(slipway, cluster.database, WEBSHOP)

    assert finished.code == 0, finished
    assert [line.split()[1] for line in finished.out.splitlines()] == ["STATE", *["applied"] * 4]
    assert re.fullmatch(
        rf"rehearsed 4 migrations in the scratch database pgslipway_rehearsal_[0-9]+ of {LOCALHOST}:"
        rf"{cluster.server.port}, which is gone again",
        message(finished),
    )
    assert await scratch_databases(cluster.database) == []


async def test_environment_says_nothing_about_the_server(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    elsewhere = {
        "PGHOST": "nowhere",
        "PGPORT": "1",
        "PGUSER": "nobody",
        "PGPASSWORD": "of the target",
        "PGSSLMODE": "no",
    }

    finished = await rehearse(slipway, cluster.database, folder(ONE), **elsewhere)

    assert finished.code == 0, finished


async def test_password_of_the_target_is_not_sent(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    url = f"postgresql://postgres@{LOCALHOST}:{cluster.server.port}/"

    finished = slipway("rehearse", "--on", url, env={"PGPASSWORD": PASSWORD}, migrations=folder(ONE))

    assert finished.code == 22, finished


async def test_password_may_be_in_a_file(cluster: Cluster, slipway: Slipway, folder: Folder, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("*:*:*:postgres:" + PASSWORD.replace("\\", "\\\\").replace(":", "\\:"))
    url = f"host={LOCALHOST} port={cluster.server.port} user=postgres passfile={passwords}"

    finished = slipway("rehearse", "--on", url, env={}, migrations=folder(ONE))

    assert finished.code == 0, finished


async def test_role_and_the_target_to_create_do_not_count(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    settings = {"MIGRATE_ROLE": "nobody_here", "MIGRATE_CREATE_DATABASE": "yes", "PGDATABASE": "nowhere_yet"}

    finished = await rehearse(slipway, cluster.database, folder(ONE), **settings)

    assert finished.code == 0, finished
    assert not await cluster.database.fetch("SELECT FROM pg_database WHERE datname = 'nowhere_yet'")


async def test_database_of_the_url_need_not_be_there(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    await cluster.server.database("template1").execute("DROP DATABASE postgres")

    finished = await rehearse(slipway, cluster.server.database("nowhere"), folder(ONE))

    assert finished.code == 0, finished


async def test_template_is_the_usual_one(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    await cluster.server.database("template1").execute("CREATE TABLE of_the_template ()")

    finished = await rehearse(slipway, cluster.database, folder({"001_a.sql": "TABLE of_the_template;"}))

    assert finished.code == 0, finished


async def test_template_in_use_is_waited_for(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    async with cluster.server.database("template1").connection():
        run = slipway.start("rehearse", "--on", cluster.database.url, env={}, migrations=folder(ONE))
        log = await asyncio.to_thread(run.wait_for_log, "waiting for")

    finished = await asyncio.to_thread(run.finish)

    assert 'source database "template1" is being accessed by other users' in log
    assert finished.code == 0, finished


# --- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "problem"), BAD.items(), ids=["none", "malformed", "value", "file", "unknown", "variable"]
)
@pytest.mark.needs_server
def test_bad_url_is_bad_configuration(url: str, problem: str, slipway: Slipway, folder: Folder) -> None:
    finished = slipway("rehearse", "--on", url, env={}, migrations=folder(ONE))

    assert finished.code == 20, finished
    assert message(finished) == f"--on: {problem}"


@pytest.mark.parametrize("naming", ["PGDATABASE", "DATABASE_URL"])
async def test_server_of_the_target_is_refused(naming: str, cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    await cluster.database.execute("CREATE DATABASE shop")
    value = {"PGDATABASE": "shop", "DATABASE_URL": "postgresql://app@db.example/shop"}[naming]

    finished = await rehearse(slipway, cluster.database, folder(ONE), **{naming: value})

    assert finished.code == 20, finished
    assert message(finished) == (
        f"--on: this server has shop, which is the database of the environment ({naming}), and no rehearsal goes "
        "there; give another server, or unset what names the database"
    )


def test_url_of_the_target_is_refused_unseen(slipway: Slipway, folder: Folder) -> None:
    with refusing() as port:
        url = f"postgresql://app@{LOCALHOST}:{port}/shop"

        finished = slipway("rehearse", "--on", url, env={"DATABASE_URL": url}, migrations=folder(ONE))

    assert finished.code == 20, finished
    assert "--on: names shop, which is the database of the environment (DATABASE_URL)" in message(finished)


def test_target_that_nobody_can_tell_is_refused(slipway: Slipway, folder: Folder) -> None:
    env = {"DATABASE_URL": "db.example/shop"}

    finished = slipway("rehearse", "--on", f"postgresql://app@{LOCALHOST}/x", env=env, migrations=folder(ONE))

    assert finished.code == 20, finished
    assert message(finished).startswith("DATABASE_URL: expected postgresql://")


async def test_wrong_password_is_access_refused(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    finished = await rehearse(slipway, cluster.database.login("postgres", "wrong password"), folder(ONE))

    assert finished.code == 22, finished
    assert message(finished) == (
        f'{LOCALHOST}:{cluster.server.port}/postgres: password authentication failed for user "postgres"; check the '
        "user and its privileges, the password, the database and the TLS settings"
    )


def test_server_that_does_not_come_is_unavailable(slipway: Slipway, folder: Folder) -> None:
    with refusing() as port:
        url = f"postgresql://postgres@{LOCALHOST}:{port}/postgres"

        finished = slipway("rehearse", "--on", url, env={}, migrations=folder(ONE), wait_timeout="1s")

    assert finished.code == 10, finished
    assert message(finished) == (
        f"{LOCALHOST}:{port}/postgres: Connection refused (gave up after MIGRATE_WAIT_TIMEOUT=1s)"
    )


async def test_user_who_may_not_create_databases_is_told(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    user = await cluster.database.create_role("reader")

    finished = await rehearse(slipway, user, folder(ONE))

    assert finished.code == 22, finished
    assert re.fullmatch(
        rf"{LOCALHOST}:{cluster.server.port}: the scratch database pgslipway_rehearsal_[0-9]+ could not be created: "
        "permission denied to create database; the user of --on needs CREATEDB",
        message(finished),
    )


async def test_user_with_createdb_is_enough(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    user = await cluster.database.create_role("maker", "LOGIN CREATEDB")

    finished = await rehearse(slipway, user, folder(ONE))

    assert finished.code == 0, finished
    assert await scratch_databases(cluster.database) == []


@pytest.mark.docker_only
@pytest.mark.usefixtures("tools")
async def test_pooler_is_refused(server: Server, slipway: Slipway, folder: Folder) -> None:
    with pgbouncer(server, pool_mode="transaction") as pooler:
        finished = await rehearse(slipway, server.database().at(pooler.port), folder(ONE))

    assert finished.code == 20, finished
    assert message(finished) == (
        "--on: a scratch database needs a session of its own, which a pooler does not give; give the address of "
        "Postgres"
    )


# --- statements that act on the whole server ---------------------------------------------------------------------


@pytest.mark.parametrize("statement", WHOLE_SERVER)
def test_statement_for_the_whole_server_is_refused(statement: str, slipway: Slipway, folder: Folder) -> None:
    files = folder({"001_a.sql": f"CREATE TABLE a ();\n{statement};\n"})

    finished = slipway("rehearse", "--on", "postgresql://nobody@127.0.0.1:1/x", env={}, migrations=files)

    assert finished.code == 21, finished
    assert message(finished) == f"001_a.sql:2: {REFUSED}\n  2 | {statement};\n    | ^"


@pytest.mark.parametrize("statement", OUTSIDE)
def test_statement_for_the_whole_server_outside_of_a_transaction_is_refused(
    statement: str, slipway: Slipway, folder: Folder
) -> None:
    files = folder({"001_a.sql": f"-- no-transaction\n{statement};\n"})

    finished = slipway("rehearse", "--on", "postgresql://nobody@127.0.0.1:1/x", env={}, migrations=files)

    assert finished.code == 21, finished
    assert message(finished) == f"001_a.sql:2: {REFUSED}\n  2 | {statement};\n    | ^"


def test_all_of_them_are_told_at_once(slipway: Slipway, folder: Folder) -> None:
    files = folder({
        "001_a.sql": "CREATE ROLE a;\nCREATE TABLE a ();\nALTER SYSTEM RESET ALL;",
        "002_b.sql": "-- variables: who\nALTER ROLE ${who} NOLOGIN;",
        "R__c.sql": "GRANT a TO b;",
    })  # fmt: skip

    finished = slipway("rehearse", "--on", "postgresql://nobody@127.0.0.1:1/x", env={}, migrations=files)

    places = [line.partition(": this acts")[0] for line in message(finished).splitlines() if ": this acts" in line]
    assert places == ["001_a.sql:1", "001_a.sql:3", "002_b.sql:2", "R__c.sql:1"]


def test_down_parts_are_looked_at_where_they_run(slipway: Slipway, folder: Folder) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a ();", "001_a.down.sql": "DROP TABLE a; DROP ROLE a;"})

    finished = slipway("rehearse", "--down", "--on", "postgresql://nobody@127.0.0.1:1/x", env={}, migrations=files)

    assert finished.code == 21, finished
    assert message(finished).startswith("001_a.down.sql:1: this acts on the whole server")


async def test_what_a_transaction_did_to_the_whole_server_is_seen(cluster: Cluster) -> None:
    await cluster.database.execute("CREATE ROLE a; CREATE ROLE b; CREATE TABLE t ()")
    seen = {}

    async with cluster.database.connection() as connection:
        for statement in SHARED:
            await connection.execute(f"BEGIN; {statement}")
            seen[statement] = await shared_writes(connection)
            await connection.execute("ROLLBACK")

    assert seen == SHARED


@pytest.mark.parametrize("files", HIDDEN.values(), ids=HIDDEN)
async def test_what_a_block_does_to_the_whole_server_is_rolled_back(
    files: dict[str, str], cluster: Cluster, slipway: Slipway, folder: Folder
) -> None:
    finished = await rehearse(slipway, cluster.database, folder(files))

    assert finished.code == 21, finished
    *_, last = files
    assert message(finished) == (
        f"{last}: a function or a block in it acts on the whole server (pg_auth_members, pg_authid), and so beyond the "
        "scratch database, and was rolled back; rehearse it without --on, on the embedded Postgres, which is thrown "
        "away as a whole"
    )
    assert not await cluster.database.fetch("SELECT FROM pg_roles WHERE rolname = 'hidden'")
    assert await scratch_databases(cluster.database) == []


async def test_block_about_its_own_database_is_rehearsed(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    finished = await rehearse(slipway, cluster.database, folder({"001_a.sql": OWN}))

    assert finished.code == 0, finished


async def test_what_only_looks_like_them_is_rehearsed(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    finished = await rehearse(slipway, cluster.database, folder({"001_a.sql": WITHIN, "001_a.down.sql": "DROP ROLE a"}))

    assert finished.code == 0, finished


# --- however it ends, the scratch database is gone ---------------------------------------------------------------


async def test_failed_migration_leaves_nothing(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    finished = await rehearse(slipway, cluster.database, folder({"001_a.sql": "SELECT oops"}))

    assert finished.code == 24, finished
    assert '001_a.sql:1: column "oops" does not exist' in finished.err
    assert await scratch_databases(cluster.database) == []


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
async def test_signal_leaves_nothing(
    sig: signal.Signals, code: int, cluster: Cluster, slipway: Slipway, folder: Folder
) -> None:
    run, name = await started(slipway, cluster.database, folder(WAITS))
    assert await scratch_databases(cluster.database) == [name]

    run.terminate(sig)

    finished = await asyncio.to_thread(run.finish)
    assert finished.code == code, finished
    assert "002_b.sql: cancelled and rolled back" in finished.err
    assert await scratch_databases(cluster.database) == []


async def test_next_rehearsal_drops_what_a_killed_one_left(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    files = folder(WAITS)
    run, name = await started(slipway, cluster.database, files)
    run.kill()
    (files / "002_b.sql").unlink()

    async def is_noticed() -> bool:
        return not await cluster.database.fetch(HELD)

    await eventually(is_noticed, "the server to notice the end of the client")
    assert await scratch_databases(cluster.database) == [name]

    finished = await rehearse(slipway, cluster.database, files)

    assert finished.code == 0, finished
    assert f"dropped {name}, which a killed rehearsal left\n" in finished.err
    assert await scratch_databases(cluster.database) == []


async def test_two_at_once_do_not_disturb_each_other(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    run, name = await started(slipway, cluster.database, folder(WAITS))

    other = await rehearse(slipway, cluster.server.database("template1"), WEBSHOP)

    assert other.code == 0, other
    assert await scratch_databases(cluster.database) == [name]
    await cluster.database.execute("CREATE DATABASE go")
    finished = await asyncio.to_thread(run.finish)
    assert finished.code == 0, finished
    assert await scratch_databases(cluster.database) == []


async def test_two_at_once_clear_up_together(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    files = folder(ONE)
    await cluster.database.execute("CREATE DATABASE pgslipway_rehearsal_1")

    async def both_wait() -> bool:
        return len(await cluster.database.fetch(DROPPING)) == 2

    async with cluster.database.connection() as connection:
        await connection.execute("BEGIN; COMMENT ON DATABASE pgslipway_rehearsal_1 IS 'locked'")
        runs = [slipway.start("rehearse", str(files), "--on", cluster.database.url, env={}) for _ in range(2)]
        await eventually(both_wait, "both of them to drop it")
        await connection.execute("COMMIT")
    ended = [await asyncio.to_thread(run.finish) for run in runs]

    assert [one.code for one in ended] == [0, 0], ended
    assert not any("could not be dropped" in one.err for one in ended)
    assert await scratch_databases(cluster.database) == []


async def test_databases_of_another_name_stay(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    others = ["pgslipway_rehearsal_", "pgslipway_rehearsal_7b", "pgslipway_rehearsals"]
    for name in others:
        await cluster.database.execute(f"CREATE DATABASE {name}")

    finished = await rehearse(slipway, cluster.database, folder(ONE))

    assert finished.code == 0, finished
    found = await cluster.database.fetch("SELECT datname FROM pg_database WHERE datname ^@ 'pgslipway'")
    assert sorted(row["datname"] for row in found) == others


async def test_what_another_user_has_left_stays(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    user = await cluster.database.create_role("maker", "LOGIN CREATEDB")
    await cluster.database.execute("CREATE DATABASE pgslipway_rehearsal_7")

    finished = await rehearse(slipway, user, folder(ONE))

    assert finished.code == 0, finished
    assert (
        "warning: pgslipway_rehearsal_7, which a killed rehearsal left, could not be dropped: must be owner of "
        "database pgslipway_rehearsal_7\n"
    ) in finished.err
    assert await scratch_databases(cluster.database) == ["pgslipway_rehearsal_7"]


async def test_database_that_cannot_be_dropped_is_no_success(
    embedded: Embedded, slipway: Slipway, folder: Folder
) -> None:
    cluster = embedded.cluster(max_prepared_transactions=1).start()
    run, name = await started(slipway, cluster.database, folder(WAITS))
    async with cluster.server.database(name).connection() as connection:
        await connection.execute("BEGIN; CREATE TABLE b ();")
        await connection.execute("PREPARE TRANSACTION 'somebody'")

    await cluster.database.execute("CREATE DATABASE go")

    finished = await asyncio.to_thread(run.finish)
    assert finished.code == 10, finished
    assert message(finished) == (
        f'database "{name}" is being used by prepared transactions DETAIL: There is 1 prepared transaction using the '
        f"database.; {name} is still there, and the next rehearsal drops it"
    )
    assert await scratch_databases(cluster.database) == [name]


async def test_server_that_goes_away_is_a_lost_connection(cluster: Cluster, slipway: Slipway, folder: Folder) -> None:
    run, name = await started(slipway, cluster.database, folder(WAITS))

    cluster.stop("immediate")

    finished = await asyncio.to_thread(run.finish)
    assert finished.code == 13, finished
    assert f"{name} is still there, and the next rehearsal drops it" in finished.err
    cluster.start()
    with pytest.raises(asyncpg.UndefinedTableError):
        await cluster.database.fetch("TABLE a")
    assert (await rehearse(slipway, cluster.database, folder({"002_b.sql": ""}))).code == 0
    assert await scratch_databases(cluster.database) == []
