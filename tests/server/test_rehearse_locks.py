"""`rehearse --locks`: what each statement locks, reads and rewrites, and what is called blocking."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from conftest import Slipway
from pages import blocks

if TYPE_CHECKING:
    from conftest import Finished, Folder

pytestmark = pytest.mark.needs_server

TABLES = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text, note text);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, state text, amount int);
CREATE INDEX orders_by_state ON orders (state);
INSERT INTO customers SELECT n, n FROM generate_series(1, 100) AS n;
INSERT INTO orders SELECT n, n, 'new', n FROM generate_series(1, 100) AS n;
"""
READERS, WRITERS = "readers and writers", "writers"


def rehearse(slipway: Slipway, folder: Folder, second: str, *options: str, **others: str) -> Finished:
    """Rehearse two files, the first of which makes the tables; others follow by their numbers."""
    files = {"001_tables.sql": TABLES, "002_change.sql": second}
    files |= {f"{number.removeprefix('f')}_more.sql": text for number, text in others.items()}
    return slipway("rehearse", "--locks", *options, env={}, migrations=folder(files))


def found(slipway: Slipway, folder: Folder, second: str, *options: str, **others: str) -> list[dict[str, Any]]:
    """The statements of the files after the first one."""
    finished = rehearse(slipway, folder, second, "--json", *options, **others)
    assert finished.code == 0, finished
    objects: list[dict[str, Any]] = json.loads(finished.out)
    return [one for one in objects if one["file"] != "001_tables.sql"]


def effects(statement: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(table, lock, who waits, what is done) of a statement."""
    deeds = ["rewrites" if table["rewrites"] else "reads" if table["reads"] else "" for table in statement["tables"]]
    return [(t["table"], t["lock"], t["blocks"], deed) for t, deed in zip(statement["tables"], deeds, strict=True)]


OWN_STEPS = """-- no-transaction
CREATE TABLE x (n int);
CREATE INDEX CONCURRENTLY x_n ON x (n);
VACUUM (FULL) x;
DROP INDEX CONCURRENTLY x_n;
DROP INDEX CONCURRENTLY IF EXISTS nowhere;
VACUUM FULL pg_class;
CREATE DATABASE beside;
DROP DATABASE beside;
create /* a comment */ index concurrently again ON orders (id);
REINDEX INDEX CONCURRENTLY again;
VACUUM (FULL 0) orders;
"""


def test_file_without_a_transaction_touches_what_it_names(slipway: Slipway, folder: Folder) -> None:
    statements = found(slipway, folder, OWN_STEPS)

    assert [(one["line"], effects(one)) for one in statements if one["tables"]] == [
        (10, [("orders", "SHARE UPDATE EXCLUSIVE", "", "reads")]),
        (11, [("orders", "SHARE UPDATE EXCLUSIVE", "", "reads")]),
        (12, [("orders", "SHARE UPDATE EXCLUSIVE", "", "reads")]),
    ]
    assert all(one["seen"] and not one["verdict"] for one in statements)


@pytest.mark.parametrize(
    ("text", "verdicts", "last"),
    [
        (
            "ALTER TABLE orders ADD COLUMN c int; UPDATE customers SET name = 'x'",
            ["", "", "", "blocking", ""],
            [("customers", "ROW EXCLUSIVE", "", "reads")],
        ),
        ("UPDATE customers SET name = 'x'", [""] * 4, [("customers", "ROW EXCLUSIVE", "", "reads")]),
        ("UPDATE orders SET amount = 1 WHERE id = 1", [""] * 4, [("orders", "ROW EXCLUSIVE", "", "")]),
    ],
    ids=["taken again", "given back", "written back"],
)
def test_lock_ends_where_its_savepoint_is_rolled_back(
    text: str, verdicts: list[str], last: list[tuple[str, ...]], slipway: Slipway, folder: Folder
) -> None:
    tried = "SAVEPOINT s; ALTER TABLE orders ADD COLUMN c int; ROLLBACK TO SAVEPOINT s; "

    statements = found(slipway, folder, tried + text)

    assert ([one["verdict"] for one in statements], effects(statements[-1])) == (verdicts, last)


def test_block_that_undoes_itself_has_read_the_table(slipway: Slipway, folder: Folder) -> None:
    block = "DO $$ BEGIN UPDATE orders SET amount = 9; RAISE 'x'; EXCEPTION WHEN others THEN NULL; END $$"
    _, second, third = found(
        slipway,
        folder,
        f"ALTER TABLE customers ADD COLUMN c int; {block}; UPDATE orders SET amount = 1 WHERE id = 7",
    )

    assert effects(second) == [("orders", "", "", "reads")]
    assert effects(third) == [("orders", "ROW EXCLUSIVE", "", "")]


def test_file_that_is_tried_again_is_observed_again(slipway: Slipway, folder: Folder) -> None:
    once = "DO $$ BEGIN IF nextval('tries') = 1 THEN RAISE 'x' USING ERRCODE = '40001'; END IF; END $$"
    statements = found(
        slipway,
        folder,
        "CREATE SEQUENCE tries",
        f003=f"ALTER TABLE orders ADD COLUMN c int; {once}; UPDATE customers SET name = 'x'",
    )

    assert [one["verdict"] for one in statements] == ["", "blocking", "", ""]


PARTITIONS = """
CREATE TABLE p (id bigint, n int) PARTITION BY RANGE (n);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (id bigint, n int);
CREATE TABLE parent (id bigint, n int);
CREATE TABLE child () INHERITS (parent);
CREATE MATERIALIZED VIEW m AS SELECT id FROM orders;
CREATE UNIQUE INDEX ON m (id);
CREATE VIEW w AS SELECT id FROM orders;
"""
ALONE = {
    "index": ("CREATE INDEX ON orders (amount)", [("orders", "SHARE", WRITERS, "reads")], "blocking"),
    "column": ("ALTER TABLE orders ADD COLUMN c int", [("orders", "ACCESS EXCLUSIVE", READERS, "")], ""),
    "rewrite": (
        "ALTER TABLE customers ALTER COLUMN note TYPE varchar(9)",
        [("customers", "ACCESS EXCLUSIVE", READERS, "rewrites")],
        "blocking",
    ),
    "foreign key": (
        "ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers",
        [
            ("customers", "SHARE ROW EXCLUSIVE", WRITERS, "reads"),
            ("orders", "SHARE ROW EXCLUSIVE", WRITERS, "reads"),
        ],
        "blocking",
    ),
    "by a key": ("UPDATE orders SET amount = 1 WHERE id = 7", [("orders", "ROW EXCLUSIVE", "", "")], ""),
    "by an index": ("DELETE FROM orders WHERE state = 'lost'", [("orders", "ROW EXCLUSIVE", "", "")], ""),
    "every row": ("UPDATE orders SET amount = 1", [("orders", "ROW EXCLUSIVE", "", "reads")], ""),
    "a new table with its key": (
        "CREATE TABLE lines (order_id bigint REFERENCES orders)",
        [("orders", "SHARE ROW EXCLUSIVE", WRITERS, "")],
        "",
    ),
    "of this file": ("CREATE TABLE x (n int); CREATE INDEX ON x (n); ALTER TABLE x ALTER n TYPE bigint", [], ""),
    "truncate": ("TRUNCATE orders", [("orders", "ACCESS EXCLUSIVE", READERS, "rewrites")], ""),
    "dropped": ("DROP TABLE customers", [("customers", "ACCESS EXCLUSIVE", READERS, "")], ""),
    "nothing": ("SELECT 1", [], ""),
    "DDL in a block": (
        "DO $$ BEGIN EXECUTE 'CREATE INDEX ON orders (amount)'; END $$",
        [("orders", "SHARE", WRITERS, "reads")],
        "blocking",
    ),
    "index built anew": (
        "REINDEX INDEX orders_by_state",
        [("orders", "ACCESS EXCLUSIVE", READERS, "reads")],
        "blocking",
    ),
    "dropped index": ("DROP INDEX orders_by_state", [("orders", "ACCESS EXCLUSIVE", READERS, "")], ""),
    "a quoted name": (
        'ALTER TABLE orders RENAME TO "Orders"',
        [("orders", "ACCESS EXCLUSIVE", READERS, "")],
        "",
    ),
    "partitions": (
        "CREATE INDEX ON p (n)",
        [("p", "SHARE", WRITERS, ""), ("p1", "SHARE", WRITERS, "reads")],
        "blocking",
    ),
    "inheritance": (
        "ALTER TABLE parent ALTER n SET NOT NULL",
        [("child", "ACCESS EXCLUSIVE", READERS, "reads"), ("parent", "ACCESS EXCLUSIVE", READERS, "reads")],
        "blocking",
    ),
    "attach": (
        "ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)",
        [("p", "SHARE UPDATE EXCLUSIVE", "", ""), ("p2", "ACCESS EXCLUSIVE", READERS, "reads")],
        "blocking",
    ),
    "refresh": (
        "REFRESH MATERIALIZED VIEW m",
        [("m", "ACCESS EXCLUSIVE", READERS, "rewrites"), ("orders", "ACCESS SHARE", "", "reads")],
        "blocking",
    ),
    "empty refresh": (
        "REFRESH MATERIALIZED VIEW m WITH NO DATA",
        [("m", "ACCESS EXCLUSIVE", READERS, "rewrites")],
        "",
    ),
    "refresh beside readers": (
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
        [("m", "EXCLUSIVE", "", ""), ("orders", "ACCESS SHARE", "", "reads")],
        "",
    ),
    "view": ("CREATE OR REPLACE VIEW w AS SELECT id FROM orders", [("w", "ACCESS EXCLUSIVE", READERS, "")], ""),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The last statement of each of these, rehearsed in a schema of its own."""
    folder = tmp_path_factory.mktemp("alone")
    for number, (statement, *_) in enumerate(ALONE.values()):
        schema = f"CREATE SCHEMA k{number}; SET search_path = k{number};"
        (folder / f"1{number:02}_tables.sql").write_text(f"{schema} {TABLES} {PARTITIONS}")
        (folder / f"2{number:02}_case.sql").write_text(f"SET search_path = k{number};\n{statement}")
    running = Slipway(folder / "runs")
    finished = running("rehearse", "--locks", "--json", env={}, migrations=folder)
    running.close()
    assert finished.code == 0, finished
    last = {one["file"]: one for one in json.loads(finished.out)}
    return {case: last[f"2{number:02}_case.sql"] for number, case in enumerate(ALONE)}


@pytest.mark.parametrize("case", ALONE)
def test_effects_and_verdict_of_a_statement(case: str, alone: dict[str, dict[str, Any]]) -> None:
    _, expected, verdict = ALONE[case]

    found_here = [(table.partition(".")[2], *rest) for table, *rest in effects(alone[case])]
    assert (found_here, alone[case]["verdict"]) == (expected, verdict)


def test_lock_is_held_while_a_later_statement_reads_another_table(slipway: Slipway, folder: Folder) -> None:
    first, second, third = found(
        slipway,
        folder,
        "ALTER TABLE customers ADD COLUMN c int;\nSELECT 1;\nUPDATE orders SET amount = 2;",
    )

    assert (first["verdict"], first["while_lines"], first["section"]) == (
        "blocking",
        [3],
        "locks-and-the-queue-behind-them",
    )
    assert effects(second) == []
    assert (third["verdict"], effects(third)) == ("", [("orders", "ROW EXCLUSIVE", "", "reads")])


def test_lock_after_the_work_is_short(slipway: Slipway, folder: Folder) -> None:
    statements = found(slipway, folder, "UPDATE orders SET amount = 2; ALTER TABLE customers ADD COLUMN c int;")

    assert [one["verdict"] for one in statements] == ["", ""]


JOINED = """
ALTER TABLE customers ADD COLUMN c int;
UPDATE orders SET amount = 1 FROM customers WHERE customers.name = orders.state;
"""
DISTINCT = "LOCK TABLE customers; CREATE TABLE states AS SELECT DISTINCT state FROM orders"
REFRESHED = """
ALTER TABLE customers ADD COLUMN c int;
REFRESH MATERIALIZED VIEW "all states";
"""
"""Each of them goes by an index, and reads all of it."""


@pytest.mark.parametrize(
    ("text", "read"),
    [(JOINED, "customers"), (DISTINCT, "orders"), (REFRESHED, "orders")],
    ids=["join", "distinct", "refresh"],
)
def test_table_that_is_read_by_way_of_an_index_is_read_as_a_whole(
    text: str, read: str, slipway: Slipway, folder: Folder
) -> None:
    view = 'CREATE MATERIALIZED VIEW "all states" AS SELECT DISTINCT state FROM orders WITH NO DATA'
    _, first, second = found(slipway, folder, view, f003=text)

    assert first["verdict"] == "blocking"
    assert read in [table["table"] for table in second["tables"] if table["reads"]]


def test_table_that_was_emptied_is_no_work(slipway: Slipway, folder: Folder) -> None:
    empty, index = found(slipway, folder, "TRUNCATE orders; CREATE INDEX ON orders (amount)")
    again = found(
        slipway, folder, "TRUNCATE orders; INSERT INTO orders (id) VALUES (1); CREATE INDEX ON orders (amount)"
    )

    assert [empty["verdict"], index["verdict"]] == ["", ""]
    assert [one["verdict"] for one in again] == ["blocking", "", "blocking"]


def test_plan_of_a_statement_that_fails_is_no_failure_of_its_own(slipway: Slipway, folder: Folder) -> None:
    finished = rehearse(slipway, folder, "SELECT 1;\nSELECT oops FROM orders;")

    assert finished.code == 24, finished
    assert '002_change.sql:2: column "oops" does not exist\n  2 | SELECT oops FROM orders;\n' in finished.err


def test_file_with_a_transaction_of_its_own(slipway: Slipway, folder: Folder) -> None:
    statements = found(slipway, folder, "BEGIN;\nLOCK TABLE orders;\nCOMMIT;\n-- the end\n")

    assert [(one["line"], one["seen"]) for one in statements] == [(2, True)]


def test_statements_of_two_files_do_not_meet(slipway: Slipway, folder: Folder) -> None:
    statements = found(slipway, folder, "ALTER TABLE customers ADD COLUMN c int", f003="UPDATE orders SET amount = 2")

    assert [one["verdict"] for one in statements] == ["", ""]


def test_lock_of_an_earlier_statement_is_shown_as_held(slipway: Slipway, folder: Folder) -> None:
    finished = rehearse(
        slipway,
        folder,
        "ALTER TABLE orders ADD COLUMN c int;\nUPDATE orders SET c = 2;\nALTER TABLE orders ALTER c TYPE bigint;",
    )

    assert finished.code == 0, finished
    lines = [line.split("  ") for line in finished.out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells == [
        ["PLACE", "STATEMENT", "TABLES", "LOCK", "BLOCKS", "DOES", "VERDICT"],
        [
            "002_change.sql:1",
            "ALTER TABLE orders ADD COLUMN c int",
            "orders",
            "ACCESS EXCLUSIVE",
            READERS,
            "catalog",
            "blocking",
        ],
        ["002_change.sql:2", "UPDATE orders SET c = 2", "orders", "(ACCESS EXCLUSIVE)", READERS, "reads all"],
        [
            "002_change.sql:3",
            "ALTER TABLE orders ALTER c TYPE bigint",
            "orders",
            "(ACCESS EXCLUSIVE)",
            READERS,
            "rewrites",
            "blocking",
        ],
    ]
    assert "is gone again: 2 statements blocking\n" in finished.err


def test_page_shows_a_real_table(slipway: Slipway, folder: Folder) -> None:
    shown = next(block for block in blocks("docs/writing-migrations.md") if block.note == "rehearsed")
    cat, _, rest = shown.text.partition("$ pgslipway rehearse --locks migrations\n")
    _, _, text = cat.partition("\n")
    migrations = folder({"001_orders.sql": "CREATE TABLE orders (id bigint, state text)", "002_index.sql": text})

    finished = slipway("rehearse", "--locks", env={}, migrations=migrations)

    assert finished.out == rest


STEPS = """-- no-transaction
SET statement_timeout = 0;
ALTER TABLE customers ADD COLUMN c int;
UPDATE orders SET amount = 2;
CREATE INDEX CONCURRENTLY orders_by_amount ON orders (amount);
VACUUM (FULL, ANALYZE) orders;
DO $$ BEGIN UPDATE orders SET amount = 3; COMMIT; END $$;
DROP INDEX CONCURRENTLY orders_by_state;
"""


def test_file_without_a_transaction_gives_each_lock_back(slipway: Slipway, folder: Folder) -> None:
    statements = found(slipway, folder, STEPS)

    assert [(one["line"], one["verdict"], one["seen"], effects(one)) for one in statements] == [
        (2, "", True, []),
        (3, "", True, [("customers", "ACCESS EXCLUSIVE", READERS, "")]),
        (4, "", True, [("orders", "ROW EXCLUSIVE", "", "reads")]),
        (5, "", True, [("orders", "SHARE UPDATE EXCLUSIVE", "", "reads")]),
        (6, "blocking", True, [("orders", "ACCESS EXCLUSIVE", READERS, "rewrites")]),
        (7, "", False, []),
        (8, "", True, [("orders", "SHARE UPDATE EXCLUSIVE", "", "")]),
    ]


def test_tables_of_an_extension_and_ours_are_left_out(slipway: Slipway, folder: Folder) -> None:
    statements = found(slipway, folder, "LOCK TABLE schema_migrations IN ACCESS SHARE MODE; SELECT 1")

    assert [effects(one) for one in statements] == [[], []]


def test_blocking_is_refused_where_that_is_asked_for(slipway: Slipway, folder: Folder) -> None:
    finished = rehearse(
        slipway,
        folder,
        "-- blocking: accepted\nCREATE INDEX ON orders (amount);",
        "--refuse-blocking",
        f003="\nALTER TABLE orders ALTER COLUMN amount SET NOT NULL;",
    )

    assert finished.code == 21, finished
    assert finished.outcome
    assert finished.outcome["message"].splitlines()[:2] == [
        (
            "003_more.sql:2: nobody can read or write orders (ACCESS EXCLUSIVE) while it reads all of orders; see "
            "docs/writing-migrations.md#not-null"
        ),
        "  ALTER TABLE orders ALTER COLUMN amount SET NOT NULL",
    ]
    assert "002_change.sql:2" not in finished.outcome["message"]
    assert "accepted" in finished.out


def test_accepted_files_pass(slipway: Slipway, folder: Folder) -> None:
    finished = rehearse(slipway, folder, "-- Blocking: Accepted\nCREATE INDEX ON orders (amount);", "--refuse-blocking")

    assert finished.code == 0, finished
    assert "0 statements blocking, 1 accepted\n" in finished.err


def test_other_word_than_accepted_is_refused(slipway: Slipway, folder: Folder) -> None:
    finished = rehearse(slipway, folder, "-- blocking: yes\nCREATE INDEX ON orders (amount);")

    assert finished.code == 21, finished
    assert "002_change.sql: blocking: expected accepted, not 'yes'" in finished.err


def test_only_files_above_a_version(slipway: Slipway, folder: Folder) -> None:
    statements = found(
        slipway, folder, "CREATE INDEX ON orders (amount)", "--since", "2", f003="CREATE INDEX ON orders (id, state)"
    )

    assert [one["file"] for one in statements] == ["003_more.sql"]


def test_repeatable_files_rows_and_variables_are_looked_at(slipway: Slipway, folder: Folder) -> None:
    finished = slipway(
        "rehearse",
        "--locks",
        "--json",
        env={"MIGRATE_VAR_STATE": "secret-state"},
        migrations=folder({
            "001_tables.sql": TABLES,
            "002_rows.sql": "ALTER TABLE customers ADD COLUMN c int;\nCOPY orders (id) FROM stdin;\n1001\n\\.\n",
            "003_value.sql": "-- variables: state\nUPDATE orders SET state = '${state}';",
            "R__view.sql": "DROP VIEW IF EXISTS v; CREATE VIEW v AS SELECT * FROM orders;",
        }),
    )  # fmt: skip

    assert finished.code == 0, finished
    statements = [one for one in json.loads(finished.out) if one["file"] != "001_tables.sql"]
    assert [(one["file"], one["statement"]) for one in statements] == [
        ("002_rows.sql", "ALTER TABLE customers ADD COLUMN c int"),
        ("002_rows.sql", "COPY orders (id) FROM stdin"),
        ("003_value.sql", "UPDATE orders SET state = '${state}'"),
        ("R__view.sql", "DROP VIEW IF EXISTS v"),
        ("R__view.sql", "CREATE VIEW v AS SELECT * FROM orders"),
    ]
    assert "secret-state" not in finished.out + finished.err


def test_failure_is_that_of_up(slipway: Slipway, folder: Folder) -> None:
    finished = rehearse(slipway, folder, "SELECT 1;\nALTER TABLE orders DROP COLUMN oops;")

    assert finished.code == 24, finished
    assert '002_change.sql:2: column "oops" of relation "orders" does not exist' in finished.err


def test_warning_on_the_line_on_github(slipway: Slipway, folder: Folder) -> None:
    finished = slipway(
        "rehearse",
        "--locks",
        env={"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(folder.path)},
        migrations=folder({"001_tables.sql": TABLES, "002_change.sql": "\nCREATE INDEX ON orders (amount);"}),
    )

    assert finished.code == 0, finished
    warnings = [line for line in finished.err.splitlines() if line.startswith("::")]
    assert warnings == [
        (
            "::warning file=./002_change.sql,line=2,title=pgslipway%3A blocking::nobody can write to orders (SHARE) "
            "while it reads all of orders; see docs/writing-migrations.md#indexes%0A  CREATE INDEX ON orders (amount)"
        )
    ]
