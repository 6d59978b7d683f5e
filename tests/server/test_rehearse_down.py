"""`rehearse --down`: everything is applied, undone and applied again, and every difference is named with its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgslipway.cli.rehearsal.catalogs import read
from pgslipway.cli.rehearsal.differences import described, differing
from pgslipway.history import History
from real_folders import servers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from conftest import Finished, Folder, Slipway
    from servers import Database

VERSIONS = (14, 15, 16, 17, 18)
HISTORY = History("public", "schema_migrations")
BEFORE = """
CREATE ROLE app;
CREATE SCHEMA shop;
CREATE TYPE state AS ENUM ('new');
CREATE TYPE pair AS (a int);
CREATE DOMAIN amount AS int;
CREATE SEQUENCE numbers;
CREATE TABLE orders (id int PRIMARY KEY, note text, paid int NOT NULL DEFAULT 0, state state, plain int);
CREATE INDEX orders_paid ON orders (paid);
CREATE TABLE parts (n int) PARTITION BY LIST (n);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE TRIGGER kept BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION keep();
CREATE VIEW fixed AS SELECT 1 AS id;
CREATE PUBLICATION all_of_it;
CREATE TABLE news (n int);
CREATE FOREIGN DATA WRAPPER elsewhere;
"""
ALTER = "ALTER TABLE orders ALTER"
TWICE = "ALTER TABLE orders ADD twice int GENERATED ALWAYS AS (plain * {}) STORED"
AGGREGATE = "CREATE AGGREGATE total(int) (sfunc = {}, stype = int)"
KINDS = {
    "schema": ("CREATE SCHEMA s", "", "left over: schema s"),
    "schema's owner": (
        "ALTER SCHEMA shop OWNER TO app",
        "",
        "different: schema shop (was OWNER postgres, is OWNER app)",
    ),
    "extension": ("CREATE EXTENSION fuzzystrmatch", "", "left over: extension fuzzystrmatch"),
    "table, and all that goes with it": (
        (
            "CREATE TABLE t (id serial PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY, n int CHECK (n > 0) UNIQUE);"
            "GRANT SELECT ON t TO app; COMMENT ON COLUMN t.n IS 'a number'"
        ),
        "",
        "left over: table public.t",
    ),
    "table that is missing": ("", "DROP TABLE t", "missing: table public.t"),
    "partition": ("CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2)", "", "left over: table public.parts_2"),
    "detached partition": (
        "ALTER TABLE parts DETACH PARTITION parts_1",
        "",
        "different: table public.parts_1 (no longer PARTITION OF public.parts, FOR VALUES IN (1))",
    ),
    "index of all partitions": ("CREATE INDEX parts_n ON parts (n)", "", "left over: index public.parts_n"),
    "parent": (
        "CREATE TABLE child (); ALTER TABLE child ADD n int; ALTER TABLE child INHERIT parts_1",
        "DROP TABLE parts_1 CASCADE",
        "missing: table public.parts_1",
    ),
    "storage parameter": (
        "ALTER TABLE orders SET (fillfactor = 70)",
        "",
        "different: table public.orders (now WITH (fillfactor=70))",
    ),
    "persistence": ("ALTER TABLE orders SET UNLOGGED", "", "different: table public.orders (now UNLOGGED)"),
    "row-level security": (
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        "",
        "different: table public.orders (now ROW LEVEL SECURITY)",
    ),
    "table's owner": (
        "ALTER TABLE orders OWNER TO app",
        "ALTER TABLE parts OWNER TO app; ALTER TABLE orders OWNER TO postgres",
        "different: table public.parts (was OWNER postgres, is OWNER app)",
    ),
    "replica identity": (
        "ALTER TABLE orders REPLICA IDENTITY FULL",
        "",
        "different: table public.orders (now REPLICA IDENTITY FULL)",
    ),
    "column": ("ALTER TABLE orders ADD email text DEFAULT 'none'", "", "left over: table column public.orders.email"),
    "column that is missing": ("", "ALTER TABLE orders DROP email", "missing: table column public.orders.email"),
    "type": (
        f"{ALTER} plain TYPE bigint",
        f"{ALTER} plain TYPE smallint",
        "different: table column public.orders.plain (was integer, is smallint)",
    ),
    "collation": (
        f'{ALTER} note TYPE text COLLATE "C"',
        "",
        'different: table column public.orders.note (now COLLATE "C")',
    ),
    "default": (
        f"{ALTER} paid SET DEFAULT 1",
        f"{ALTER} paid DROP DEFAULT",
        "different: table column public.orders.paid (no longer DEFAULT 0)",
    ),
    "NOT NULL": (f"{ALTER} paid DROP NOT NULL", "", "different: table column public.orders.paid (no longer NOT NULL)"),
    "identity": (
        f"{ALTER} id ADD GENERATED ALWAYS AS IDENTITY",
        "",
        (
            "left over: sequence public.orders_id_seq\n"
            "different: table column public.orders.id (now GENERATED ALWAYS AS IDENTITY)"
        ),
    ),
    "generated": (TWICE.format(2), "", "left over: table column public.orders.twice"),
    "generated, from what": (
        "",
        f"ALTER TABLE orders DROP twice; {TWICE.format(3)}",
        (
            "different: table column public.orders.twice (was GENERATED ALWAYS AS (plain * 2) STORED, is GENERATED "
            "ALWAYS AS (plain * 3) STORED)"
        ),
    ),
    "column's storage": (
        f"{ALTER} note SET STORAGE EXTERNAL; {ALTER} note SET STATISTICS 5",
        "",
        "different: table column public.orders.note (now STORAGE EXTERNAL, STATISTICS 5)",
    ),
    "constraint": (
        "ALTER TABLE orders ADD CONSTRAINT low CHECK (plain < 9)",
        "",
        "left over: table constraint low on public.orders",
    ),
    "constraint that is not valid": (
        "",
        "ALTER TABLE orders DROP CONSTRAINT low, ADD CONSTRAINT low CHECK (plain < 9) NOT VALID",
        "different: table constraint low on public.orders (was CHECK ((plain < 9)), is CHECK ((plain < 9)) NOT VALID)",
    ),
    "foreign key": (
        "ALTER TABLE orders ADD CONSTRAINT before FOREIGN KEY (plain) REFERENCES orders",
        "",
        "left over: table constraint before on public.orders",
    ),
    "index": ("CREATE INDEX orders_plain ON orders (plain)", "", "left over: index public.orders_plain"),
    "index's definition": (
        "DROP INDEX orders_paid",
        "CREATE INDEX orders_paid ON orders (paid) WHERE paid > 0",
        (
            "different: index public.orders_paid (was CREATE INDEX orders_paid ON public.orders USING btree (paid), is "
            "CREATE INDEX orders_paid ON public.orders USING btree (paid) WHERE (paid > 0))"
        ),
    ),
    "invalid index": (
        "",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_paid'::regclass",
        "different: index public.orders_paid (now INVALID)",
    ),
    "clustered index": (
        "ALTER TABLE orders CLUSTER ON orders_pkey",
        "",
        "different: index public.orders_pkey (now CLUSTER)",
    ),
    "function": (
        "CREATE FUNCTION two() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "",
        "left over: function public.two()",
    ),
    "function's text": (
        "CREATE OR REPLACE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "",
        (
            "different: function public.keep() (was AS $function$BEGIN RETURN NEW; END$function$, is AS "
            "$function$BEGIN RETURN NULL; END$function$)"
        ),
    ),
    "procedure": ("CREATE PROCEDURE go() LANGUAGE sql AS ''", "", "left over: procedure public.go()"),
    "aggregate": (AGGREGATE.format("int4pl"), "", "left over: aggregate public.total(integer)"),
    "aggregate's function": (
        "DROP AGGREGATE total(int)",
        AGGREGATE.format("int4mul"),
        "different: aggregate public.total(integer) (was aggtransfn int4pl, is aggtransfn int4mul)",
    ),
    "trigger": (
        "CREATE TRIGGER again BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION keep()",
        "",
        "left over: trigger again on public.orders",
    ),
    "disabled trigger": (
        "ALTER TABLE orders DISABLE TRIGGER kept",
        "",
        "different: trigger kept on public.orders (now DISABLED)",
    ),
    "rule": (
        "CREATE RULE never AS ON DELETE TO orders DO INSTEAD NOTHING",
        "",
        "left over: rule never on public.orders",
    ),
    "policy": (
        "CREATE POLICY own ON orders FOR SELECT TO app USING (id > 0)",
        "",
        "left over: policy own on public.orders",
    ),
    "policy's expression": (
        "",
        "ALTER POLICY own ON orders TO PUBLIC USING (true)",
        "different: policy own on public.orders (was TO app, USING (id > 0), is TO PUBLIC, USING true)",
    ),
    "privileges of a table": (
        "GRANT SELECT ON orders TO app",
        "GRANT INSERT ON orders TO app WITH GRANT OPTION",
        "left over: privileges of app on table public.orders (INSERT WITH GRANT OPTION, SELECT)",
    ),
    "privileges of a column": (
        "GRANT UPDATE (note) ON orders TO app",
        "",
        "left over: privileges of app on table column public.orders.note (UPDATE)",
    ),
    "privileges of a function": (
        "REVOKE EXECUTE ON FUNCTION one() FROM PUBLIC",
        "",
        "left over: privileges of PUBLIC on function public.one() (none)",
    ),
    "privileges of a schema": (
        "GRANT USAGE ON SCHEMA public TO app",
        "",
        "left over: privileges of app on schema public (USAGE)",
    ),
    "privileges of a type": (
        "GRANT USAGE ON TYPE state TO app",
        "",
        "left over: privileges of app on type public.state (USAGE)",
    ),
    "default privileges": (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO app",
        "",
        "left over: default acl for role postgres in schema public on tables",
    ),
    "comment": ("COMMENT ON TABLE orders IS 'what was ordered'", "", "left over: comment on table public.orders"),
    "comment's text": (
        "COMMENT ON TABLE orders IS 'orders'",
        "",
        "different: comment on table public.orders (was what was ordered, is orders)",
    ),
    "sequence": ("CREATE SEQUENCE more", "", "left over: sequence public.more"),
    "sequence's parameters": (
        "ALTER SEQUENCE numbers AS int INCREMENT 2",
        "ALTER SEQUENCE numbers AS bigint",
        (
            "different: sequence public.numbers (was AS bigint START 1 INCREMENT 1 MINVALUE 1 MAXVALUE "
            "9223372036854775807 CACHE 1, is AS bigint START 1 INCREMENT 2 MINVALUE 1 MAXVALUE 9223372036854775807 "
            "CACHE 1)"
        ),
    ),
    "sequence's column": (
        "ALTER SEQUENCE numbers OWNED BY orders.id",
        "",
        "different: sequence public.numbers (now OWNED BY public.orders.id)",
    ),
    "view": (
        "CREATE OR REPLACE VIEW fixed AS SELECT 2 AS id",
        "",
        "different: view public.fixed (was SELECT 1 AS id;, is SELECT 2 AS id;)",
    ),
    "view's column": (
        "CREATE VIEW named AS SELECT id FROM orders",
        "CREATE OR REPLACE VIEW named AS SELECT id, note FROM orders",
        "left over: view public.named",
    ),
    "materialized view": (
        "CREATE MATERIALIZED VIEW kept AS SELECT 1 AS n",
        "",
        "left over: materialized view public.kept",
    ),
    "enum": ("CREATE TYPE kind AS ENUM ('a')", "", "left over: type public.kind"),
    "enum value": (
        "ALTER TYPE state ADD VALUE 'paid'",
        "",
        "different: type public.state (was ENUM ('new'), is ENUM ('new', 'paid'))",
    ),
    "domain": ("ALTER DOMAIN amount SET DEFAULT 1", "", "different: type public.amount (now DEFAULT 1)"),
    "domain constraint": (
        "ALTER DOMAIN amount ADD CONSTRAINT more CHECK (VALUE > 0)",
        "",
        "left over: domain constraint more on public.amount",
    ),
    "attribute": ("ALTER TYPE pair ADD ATTRIBUTE b text", "", "left over: composite type column public.pair.b"),
    "range": ("CREATE TYPE span AS RANGE (subtype = date)", "", "left over: type public.span"),
    "statistics": ("CREATE STATISTICS pairs ON id, paid FROM orders", "", "left over: statistics object public.pairs"),
    "event trigger": (
        "CREATE EVENT TRIGGER watch ON sql_drop EXECUTE FUNCTION look()",
        "",
        "left over: event trigger watch",
    ),
    "publication": ("CREATE PUBLICATION news", "", "left over: publication news"),
    "published table": (
        "ALTER PUBLICATION all_of_it ADD TABLE news",
        "",
        "left over: publication relation public.news in publication all_of_it",
    ),
    "cast": ("CREATE CAST (text AS pair) WITH INOUT", "", "left over: cast (pg_catalog.text AS public.pair)"),
    "operator": (
        "CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4eq)",
        "",
        "left over: operator public.===(integer,integer)",
    ),
    "text search": (
        "CREATE TEXT SEARCH CONFIGURATION words (COPY = simple)",
        "",
        "left over: text search configuration public.words",
    ),
    "text search mapping": (
        "",
        "ALTER TEXT SEARCH CONFIGURATION words DROP MAPPING FOR url",
        "different: text search configuration public.words (no longer TOKEN 5: simple)",
    ),
    "text search dictionary": (
        "CREATE TEXT SEARCH DICTIONARY plain (template = simple)",
        "",
        "left over: text search dictionary public.plain",
    ),
    "text search parser": (
        (
            "CREATE TEXT SEARCH PARSER own (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, "
            "lextypes = prsd_lextype)"
        ),
        "",
        "left over: text search parser public.own",
    ),
    "text search template": (
        "CREATE TEXT SEARCH TEMPLATE own (lexize = dsimple_lexize)",
        "",
        "left over: text search template public.own",
    ),
    "operator family": (
        "CREATE OPERATOR FAMILY numbers USING hash",
        "",
        "left over: operator family public.numbers USING hash",
    ),
    "operator class": (
        "CREATE OPERATOR CLASS ints FOR TYPE int USING hash FAMILY numbers AS OPERATOR 1 =, FUNCTION 1 hashint4(int)",
        "",
        "left over: operator class public.ints USING hash",
    ),
    "conversion": (
        "CREATE CONVERSION latin FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
        "",
        "left over: conversion public.latin",
    ),
    "language": (
        "CREATE LANGUAGE speech HANDLER plpgsql_call_handler",
        "",
        "left over: language speech",
    ),
    "access method": (
        "CREATE ACCESS METHOD pile TYPE TABLE HANDLER heap_tableam_handler",
        "",
        "left over: access method pile",
    ),
    "table's access method": (
        "CREATE TABLE piled (n int)",
        "DROP TABLE piled; CREATE TABLE piled (n int) USING pile",
        "left over: table public.piled",
    ),
    "user mapping": (
        "CREATE SERVER near FOREIGN DATA WRAPPER elsewhere",
        "CREATE USER MAPPING FOR app SERVER near OPTIONS (password 'swordfish'); ALTER SERVER near OPTIONS (host 'x')",
        "left over: server near\nleft over: user mapping app on server near",
    ),
    "user mapping that is missing": (
        "",
        "DROP USER MAPPING FOR app SERVER near",
        "missing: user mapping app on server near",
    ),
    "foreign-data wrapper": (
        "",
        "ALTER FOREIGN DATA WRAPPER elsewhere OPTIONS (debug 'true')",
        'different: foreign-data wrapper elsewhere (was fdwoptions, is fdwoptions ["debug=true"])',
    ),
    "collation of one's own": ('CREATE COLLATION old FROM "C"', "", "left over: collation public.old"),
    "server": (
        (
            "CREATE SERVER far FOREIGN DATA WRAPPER elsewhere; CREATE USER MAPPING FOR app SERVER far "
            "OPTIONS (password 'swordfish')"
        ),
        "DROP USER MAPPING FOR app SERVER far",
        "left over: server far",
    ),
    "foreign table": ("CREATE FOREIGN TABLE there (n int) SERVER far", "", "left over: foreign table public.there"),
    "database's setting": (
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = %L', current_database(), '1MB'); END $$",
        "",
        "different: database postgres (now SET work_mem=1MB)",
    ),
    "role": ("CREATE ROLE reader", "", "left over: role reader"),
    "membership": ("GRANT reader TO app", "", "different: role app (now IN ROLE reader)"),
    "role's setting": ("ALTER ROLE reader SET work_mem = '1MB'", "", "different: role reader (now SET work_mem=1MB)"),
}
"""Of each kind of object: what a file does, what its down part does, and the line about it, in this order."""

NEWS = {
    15: {
        "published schema": (
            "ALTER PUBLICATION all_of_it ADD TABLES IN SCHEMA shop",
            "",
            "left over: publication namespace shop in publication all_of_it",
        ),
        "published schema that is missing": (
            "",
            "ALTER PUBLICATION all_of_it DROP TABLES IN SCHEMA shop",
            "missing: publication namespace shop in publication all_of_it",
        ),
        "published columns": (
            "",
            "ALTER PUBLICATION all_of_it SET TABLE news (n) WHERE (n > 0)",
            ('different: publication relation public.news in publication all_of_it (now COLUMNS ["n"], WHERE (n > 0))'),
        ),
    },
    18: {
        "virtual": (
            "ALTER TABLE orders ADD thrice int GENERATED ALWAYS AS (plain * 3)",
            "",
            "left over: table column public.orders.thrice",
        ),
        "NOT NULL that is not valid": (
            f"{ALTER} plain SET NOT NULL",
            f"{ALTER} plain DROP NOT NULL; ALTER TABLE orders ADD CONSTRAINT there NOT NULL plain NOT VALID",
            "different: table column public.orders.plain (now NOT NULL, NOT VALID)",
        ),
    },
}
"""The same for what the versions of PostgreSQL brought."""


@pytest.fixture(scope="module", params=VERSIONS)
def database_of_each_version(request: pytest.FixtureRequest) -> Iterator[Database]:
    """The database of a small server of this version."""
    for binaries in servers(request.param):
        yield binaries.cluster().start().database


@pytest.mark.needs_server
async def test_every_kind_of_object_is_compared(database_of_each_version: Database) -> None:
    found, expected = {}, {}
    async with database_of_each_version.connection() as connection:
        await connection.execute(BEFORE)
        version = connection.get_server_version().major
        kinds = KINDS | {kind: case for first, news in NEWS.items() if first <= version for kind, case in news.items()}
        for kind, (up, down, line) in kinds.items():
            before = await read(connection, HISTORY, whole_server=True)
            for sql in filter(None, (up, down)):
                await connection.execute(sql)
            after = await read(connection, HISTORY, whole_server=True)
            found[kind] = "\n".join(described(before, after, differing(before, after)))
            expected[kind] = line

    assert found == expected


PLAIN = {
    "001_a.sql": "CREATE TABLE a (id serial PRIMARY KEY, n int);",
    "001_a.down.sql": "DROP TABLE a;",
    "002_b.sql": "ALTER TABLE a ADD b text NOT NULL DEFAULT 'x'; CREATE INDEX a_b ON a (b);",
    "002_b.down.sql": "ALTER TABLE a DROP b;",
    "003_c.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY a_n ON a (n);",
    "003_c.down.sql": "DROP INDEX a_n;",
}
GOOSE = "-- +goose Up\n{}\n-- +goose Down\n{}\n"
DBMATE = "-- migrate:up\n{}\n-- migrate:down\n{}\n"
AGAIN = "it was applied the first time, but not again after the down parts"


def rehearsed(
    slipway: Slipway, migrations: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> tuple[int, str, Finished]:
    """Rehearse a folder; the exit code, the message without what stands for the time, and all."""
    finished = slipway("rehearse", "--down", *arguments, env=env or {}, migrations=migrations)
    assert finished.outcome, finished
    return finished.code, str(finished.outcome["message"]), finished


@pytest.mark.needs_server
def test_nothing_is_left_behind(folder: Folder, slipway: Slipway) -> None:
    code, message, finished = rehearsed(slipway, folder(PLAIN))

    assert (code, message) == (
        0,
        "rehearsed 3 migrations, undone and applied again, on an embedded Postgres: nothing left behind",
    ), finished
    assert [line.split()[1] for line in finished.out.splitlines()] == ["STATE", *["applied"] * 3]
    lines = [line[9:].partition(" in ")[0] for line in finished.err.splitlines()]
    up = [f"applied {name}" for name in ("001_a.sql", "002_b.sql", "003_c.sql")]
    undone = [f"undone {name}" for name in ("003_c.down.sql", "002_b.down.sql", "001_a.down.sql")]
    assert lines == [
        "connected to an embedded Postgres",
        *up, "undoing 3 migrations", *undone, "applying 3 migrations again", *up,
        message,
    ]  # fmt: skip
    assert finished.outcome
    assert finished.outcome["applied"] == ["001_a.sql", "002_b.sql", "003_c.sql"]


@pytest.mark.needs_server
def test_each_difference_is_blamed_on_the_file_that_left_it(folder: Folder, slipway: Slipway) -> None:
    files = PLAIN | {
        "002_b.down.sql": "ALTER TABLE a ALTER b DROP NOT NULL; DROP INDEX a_b;",
        "003_c.down.sql": "CREATE TYPE more AS ENUM ();",
        "004_d.sql": "CREATE TABLE d ();",
        "004_d.down.sql": "DROP TABLE d; CREATE INDEX a_2n ON a ((2 * n));",
    }

    code, message, finished = rehearsed(slipway, folder(files))

    assert (code, message) == (
        21,
        """\
004_d.down.sql: left over: index public.a_2n
003_c.down.sql: left over: index public.a_n
003_c.down.sql: left over: type public.more
002_b.down.sql: left over: table column public.a.b""",
    ), finished


@pytest.mark.needs_server
def test_what_a_file_does_not_take_back_is_its_own_fault_though_a_newer_one_left_it_otherwise(
    folder: Folder, slipway: Slipway
) -> None:
    default = "ALTER TABLE a ALTER n SET DEFAULT {};"
    files = {
        **{name: text for name, text in PLAIN.items() if name.startswith("001")},
        "002_b.sql": default.format(2), "002_b.down.sql": "SELECT 'nothing is taken back'",
        "003_c.sql": default.format(3), "003_c.down.sql": default.format(4),
        "004_d.sql": default.format(5), "004_d.down.sql": default.format(3),
    }  # fmt: skip

    code, message, finished = rehearsed(slipway, folder(files))

    assert (code, message) == (
        21,
        """\
003_c.down.sql: different: table column public.a.n (was DEFAULT 2, is DEFAULT 4)
002_b.down.sql: different: table column public.a.n (now DEFAULT 4)""",
    ), finished


@pytest.mark.needs_server
@pytest.mark.parametrize(("layout", "line"), [(GOOSE, 4), (DBMATE, 4)], ids=["goose", "dbmate"])
def test_section_is_named_with_its_line(layout: str, line: int, folder: Folder, slipway: Slipway) -> None:
    files = {
        "1_a.sql": layout.format("CREATE SCHEMA s;", "DROP SCHEMA s;"),
        "2_b.sql": layout.format("CREATE TABLE s.t ();", "SELECT 1;"),
    }

    code, message, finished = rehearsed(slipway, folder(files))

    assert code == 24, finished
    assert message.splitlines()[0] == f"2_b.sql:{line}: left over: table s.t"
    assert "1_a.sql:4: cannot drop schema s because other objects depend on it" in message


@pytest.mark.needs_server
def test_down_part_that_fails_is_placed_and_what_was_found_before_it_is_kept(folder: Folder, slipway: Slipway) -> None:
    files = PLAIN | {"003_c.down.sql": "SELECT 1;", "002_b.down.sql": "\nDROP TABLE nowhere;"}

    code, message, finished = rehearsed(slipway, folder(files))

    assert (code, message) == (
        24,
        """\
003_c.down.sql: left over: index public.a_n
002_b.down.sql:2: table "nowhere" does not exist
  2 | DROP TABLE nowhere;
    | ^
SQLSTATE 42P01
002_b.down.sql was rolled back""",
    ), finished


@pytest.mark.needs_server
def test_second_time_fails_on_what_no_catalog_shows(folder: Folder, slipway: Slipway) -> None:
    files = {
        "001_a.sql": "CREATE TABLE a (n int PRIMARY KEY);", "001_a.down.sql": "DROP TABLE a;",
        "002_b.sql": "INSERT INTO a VALUES (1);", "002_b.down.sql": "SELECT 'the row stays'",
    }  # fmt: skip

    code, message, finished = rehearsed(slipway, folder(files), "--since", "1")

    assert code == 24, finished
    assert message.startswith('002_b.sql:1: duplicate key value violates unique constraint "a_pkey"')
    assert message.endswith(f"002_b.sql was rolled back\n{AGAIN}")


@pytest.mark.needs_server
def test_second_time_with_another_outcome_is_told(folder: Folder, slipway: Slipway) -> None:
    adds = "DO $$ BEGIN IF EXISTS (SELECT FROM a) THEN ALTER TABLE a ADD late int; END IF; END $$;"
    files = {
        "001_a.sql": "CREATE TABLE a (n int);", "001_a.down.sql": "DROP TABLE a;",
        "002_b.sql": f"{adds} INSERT INTO a VALUES (1);", "002_b.down.sql": "SELECT 'the row stays'",
    }  # fmt: skip

    code, message, finished = rehearsed(slipway, folder(files), "--since", "1")

    assert (code, message) == (21, "002_b.sql: the second time, left over: table column public.a.late"), finished


@pytest.mark.needs_server
def test_files_up_to_the_version_need_no_down_part(folder: Folder, slipway: Slipway) -> None:
    files = {name: text for name, text in PLAIN.items() if name != "001_a.down.sql"}

    code, message, finished = rehearsed(slipway, folder(files), "--since", "1")

    assert (code, message) == (
        0,
        "rehearsed 3 migrations, 2 of them undone and applied again, on an embedded Postgres: nothing left behind",
    ), finished
    assert "undone 001" not in finished.err
    assert finished.err.count("applied 001_a.sql") == 1


@pytest.mark.needs_server
def test_since_the_newest_undoes_nothing(folder: Folder, slipway: Slipway) -> None:
    code, message, finished = rehearsed(slipway, folder(PLAIN), "--since", "003")

    assert (code, message) == (
        0,
        "rehearsed 3 migrations, 0 of them undone and applied again, on an embedded Postgres: nothing left behind",
    ), finished
    assert "undone 0" not in finished.err


@pytest.mark.needs_server
def test_missing_down_parts_are_named_before_anything_is_applied(folder: Folder, slipway: Slipway) -> None:
    files = {name: text for name, text in PLAIN.items() if name not in {"001_a.down.sql", "003_c.down.sql"}}

    code, message, finished = rehearsed(slipway, folder(files))

    assert (code, message) == (
        21,
        """\
003_c.sql: nothing here undoes it; add its down file
001_a.sql: nothing here undoes it; add its down file""",
    ), finished
    assert "applied 00" not in finished.err


@pytest.mark.needs_server
def test_objects_of_repeatable_files_stay_and_are_nobodys_fault(folder: Folder, slipway: Slipway) -> None:
    files = PLAIN | {
        "R__a.sql": "CREATE OR REPLACE PROCEDURE one() LANGUAGE sql AS ''; GRANT SELECT ON a TO PUBLIC;",
        "002_b.down.sql": "ALTER TABLE a DROP b; CREATE TYPE e AS ENUM ();",
        "002_b.sql": f"{PLAIN['002_b.sql']} DROP TYPE IF EXISTS e;",
    }

    code, message, finished = rehearsed(slipway, folder(files))

    assert (code, message) == (21, "002_b.down.sql: left over: type public.e"), finished
    assert finished.err.count("applied R__a.sql") == 2


@pytest.mark.needs_server
def test_another_order_of_columns_is_no_failure(folder: Folder, slipway: Slipway) -> None:
    files = PLAIN | {
        "002_b.sql": "ALTER TABLE a DROP id;",
        "002_b.down.sql": "ALTER TABLE a ADD id serial PRIMARY KEY;",
    }

    code, _, finished = rehearsed(slipway, folder(files))

    assert code == 0, finished
    assert (
        "warning: no down part can put a column back in its place, so that is no failure: columns in another order in "
        "table public.a\n"
    ) in finished.err


@pytest.mark.needs_server
def test_file_that_is_edited_meanwhile_ends_the_rehearsal(folder: Folder, slipway: Slipway) -> None:
    migrations = folder(PLAIN | {"002_b.sql": "SELECT pg_sleep(3);", "002_b.down.sql": "SELECT 1;"})
    running = slipway.start("rehearse", "--down", env={}, migrations=migrations)
    running.wait_for_log("applied 001_a.sql")

    folder({"003_c.sql": "SELECT 'edited'"})
    finished = running.finish()

    assert finished.outcome, finished
    assert (finished.code, finished.outcome["message"]) == (
        21,
        "the folder was changed while its files were rehearsed; rehearse them again",
    ), finished


@pytest.mark.needs_server
def test_version_is_written_as_the_layout_does(folder: Folder, slipway: Slipway) -> None:
    files = {"V1.1__a.sql": "CREATE TABLE a ();", "V1.2__b.sql": "CREATE TABLE b ();", "U1.2__b.sql": "SELECT 1;"}

    code, message, finished = rehearsed(slipway, folder(files), "--since", "1.1")

    assert code == 24, finished
    assert message.startswith("U1.2__b.sql: left over: table public.b\nV1.2__b.sql:1: relation")


@pytest.mark.needs_server
def test_values_of_variables_are_not_shown(folder: Folder, slipway: Slipway) -> None:
    files = {
        "001_a.sql": "CREATE TABLE a (n text); COMMENT ON TABLE a IS 'none';",
        "001_a.down.sql": "DROP TABLE a;",
        "002_b.sql": "-- variables: word, name\nCOMMENT ON TABLE a IS '${word}'; CREATE TABLE \"${name}\" ();",
        "002_b.down.sql": "SELECT 1;",
    }
    secrets = {"MIGRATE_VAR_WORD": "open  sesame", "MIGRATE_VAR_NAME": "alibaba"}

    code, message, finished = rehearsed(slipway, folder(files), env=secrets)

    assert code == 24, finished
    assert message.startswith(
        "002_b.down.sql: different: comment on table public.a (was none, is ${word})\n"
        "002_b.down.sql: left over: table public.${name}\n"
    ), finished
    assert "sesame" not in f"{finished}"
    assert "alibaba" not in f"{finished}"
