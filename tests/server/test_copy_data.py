"""COPY data in a file, as pg_dump writes them."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from pgslipway.engine.copying import line_in
from servers import eventually

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database

TABLE = "CREATE TABLE public.t (a int PRIMARY KEY, b text);\n"
ROWS = "SELECT pg_catalog.concat_ws('|', a, coalesce(b, '(null)')) FROM public.t{} ORDER BY a"
KEEP = "CREATE TABLE t{} AS TABLE t; TRUNCATE t"
DATA = {
    "text": ("COPY public.t (a, b) FROM stdin;\n1\tone\n2\t\\N\n\\.\n", ["1|one", "2|(null)"]),
    "no-rows": ("COPY public.t FROM stdin;\n\\.\n", []),
    "escapes": (
        "COPY t FROM STDIN;\n1\ta\\tb\\\\c\\nd\n2\t\\\\.\n\\.\n",
        ["1|a\tb\\c\nd", "2|\\."],
    ),
    "csv": ('copy t from stdin with (format csv, header);\na,b\n1,"x;\ny"\n2,\n\\.\n', ["1|x;\ny", "2|(null)"]),
    "csv-as-it-was-written-once": ("COPY t FROM STDIN DELIMITER ';' CSV;\n1;'\n\\.\n", ["1|'"]),
    "sql-in-data": ("COPY t FROM stdin;\n1\tCOMMIT; -- '\n2\t/* \"$$\n\\.\n", ["1|COMMIT; -- '", '2|/* "$$']),
    "windows": ("COPY t FROM stdin;\r\n1\tone\r\n\\.\r\nDELETE FROM t WHERE a = 0;\r\n", ["1|one"]),
    "comments": ("/* a; /* b */ */ COPY -- c;\n t FROM /* d */ stdin; -- e\n1\tone\n\\.", ["1|one"]),
    "two": ("COPY t FROM stdin;\n1\ta\n\\.\nCOPY t FROM stdin WHERE a > 2;\n2\tb\n3\tc\n\\.\n", ["1|a", "3|c"]),
    "statements-around": (
        "BEGIN;\nINSERT INTO t VALUES (1); COPY t FROM stdout;\n2\tb\n\\.\nUPDATE t SET b = 'x'; COMMIT;\n",
        ["1|x", "2|x"],
    ),
    "not-ascii": ("COPY t FROM stdin;\n1\tÄ€😀\n\\.\n", ["1|Ä€😀"]),
    "without-a-path": ("SET search_path = ''; COPY public.t FROM stdin;\n1\ta\n\\.\n", ["1|a"]),
}  # fmt: skip


async def test_data_come_into_the_table_as_they_stand_in_the_file(
    folder: Folder, database: Database, slipway: Slipway
) -> None:
    files = {f"{n}_data.sql": text for n, (text, _) in enumerate(DATA.values(), 1)}
    kept = {f"{n}_data_kept.sql": KEEP.format(n) for n in range(1, len(DATA) + 1)}
    migrations = folder({"0_t.sql": TABLE} | {name.replace("_", "0_", 1): text for name, text in files.items()})
    folder({name.replace("_", "1_", 1): text for name, text in kept.items()})

    finished = slipway(env=database.environ, migrations=migrations)

    assert finished.code == 0, finished
    for n, (name, (_, rows)) in enumerate(DATA.items(), 1):
        found = await database.fetch(ROWS.format(n))
        assert [row[0] for row in found] == rows, name


HEAD = "-- a\n\nINSERT INTO t VALUES (7);\n"
FAILURES = {
    "text": (
        "COPY t FROM stdin;\n1\ta\nx\tb\n3\tc\n\\.\n",
        6,
        'invalid input syntax for type integer: "x"\n  6 | x\tb\n    | ^\ncontext: COPY t, line 2, column a: "x"\n',
    ),
    "first-line": (
        "COPY t FROM stdin;\nx\n\\.\n",
        5,
        'invalid input syntax for type integer: "x"\n  5 | x\n    | ^\ncontext: COPY t, line 1, column a: "x"\n',
    ),
    "csv": (
        'COPY t FROM stdin (FORMAT csv, HEADER);\na,b\n1,"a\nb"\n1,c\n\\.\n',
        8,
        'duplicate key value violates unique constraint "t_pkey"\n  8 | 1,c\n    | ^\ndetail: Key (a)=(1) already',
    ),
    "second-copy": (
        'COPY t FROM stdin;\n1\ta\n\\.\nSELECT 1;\nCOPY public."odd name 1" FROM stdin;\n1\n2 2\n\\.\n',
        10,
        'invalid input syntax for type integer: "2 2"\n  10 | 2 2\n     | ^\ncontext: COPY odd name 1, line 2',
    ),
    "the-statement": (
        "COPY nowhere FROM stdin;\n1\n\\.\n",
        4,
        'relation "nowhere" does not exist\n  4 | COPY nowhere FROM stdin;\n    | ^\n',
    ),
    "after-the-data": (
        "COPY t FROM stdin;\n1\ta\n\\.\n\nSELECT nothing;\n",
        8,
        'column "nothing" does not exist\n  8 | SELECT nothing;\n    |        ^\n',
    ),
    "trigger": (
        "COPY watched FROM stdin;\n1\n2\n\\.\n",
        6,
        "not two\n  6 | 2\n    | ^\ncontext: PL/pgSQL function refuse_two() line 2 at RAISE\nCOPY watched, line 2",
    ),
    "binary": ("COPY t FROM stdin BINARY;\n1\ta\n\\.\n", 4, "COPY file signature not recognized\n"),
}  # fmt: skip
MORE = """CREATE TABLE "odd name 1" (a int); CREATE TABLE watched (a int);
CREATE FUNCTION refuse_two() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
 IF NEW.a = 2 THEN RAISE 'not two'; END IF; RETURN NEW; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION refuse_two();
"""


@pytest.mark.parametrize(("text", "line", "message"), FAILURES.values(), ids=FAILURES)
async def test_failure_is_told_with_its_line_in_the_file(
    text: str, line: int, message: str, folder: Folder, database: Database, slipway: Slipway
) -> None:
    migrations = folder({"1_t.sql": TABLE + MORE, "2_data.sql": HEAD + text})

    finished = slipway(env=database.environ, migrations=migrations, log_format="text")

    assert finished.outcome, finished
    assert (finished.code, finished.outcome["problems"][0]["line"]) == (24, line), finished
    assert f"2_data.sql:{line}: {message}" in finished.err
    assert "2_data.sql was rolled back" in finished.err
    assert await database.applied() == ["1_t.sql"]
    assert not await database.fetch("SELECT FROM t")


def test_line_is_not_taken_from_the_data() -> None:
    context = 'COPY orders, line 2, column note: "foo\norders 4711"'

    assert line_in(b"COPY orders FROM stdin", {"context": f"SQL statement\n{context}"}) == 2


def test_line_is_found_in_another_language_of_the_server() -> None:
    """In words of our own, because the server at hand may have no translations."""
    for context in ('COPY t, Zeile 12, Spalte a: "x"', "tのCOPY、行 12", "t 복사, 12번째 줄, a 열", "COPY t, 第 12 行"):
        assert line_in(b'COPY public.t ("a1") FROM stdin', {"context": f"zuerst 3\n{context}"}) == 12


REFUSALS = {
    "no-end": (
        "COPY t FROM stdin;\n1\ta\n",
        "1: the data of this COPY begin in the next line and never end; put a line with a backslash and a dot",
    ),
    "no-semicolon": ("COPY t FROM stdin", "1: the data of this COPY begin in the next line and never end"),
    "same-line": (
        "COPY t FROM stdin; SELECT 1;\n1\ta\n\\.\n",
        "1: the data of COPY begin in the next line; move this behind them\n",
    ),
    "end-with-blanks": ("COPY t FROM stdin;\n1\ta\n\\. \n", "1: the data of this COPY begin"),
    "no-transaction": (
        "-- no-transaction\nCOPY t FROM stdin;\n1\ta\n\\.\n",
        "2: the data of a COPY go into the transaction of a file; put it in a file without the line",
    ),
    "to-the-client": ("COPY t TO stdin;", "1: COPY to the client has no reader here"),
    "commands-behind-the-data": ("COPY t FROM stdin;\n\\.\n\\connect x\n", "3: psql's backslash commands"),
    "nul": ("COPY t FROM stdin;\n1\t\0\n\\.\n", "2: a NUL byte, which Postgres cannot store; remove it\n"),
}


def test_data_that_cannot_be_sent_are_refused_before_anything_is(folder: Folder, slipway: Slipway) -> None:
    files = {f"{n}_a.sql": text for n, (text, _) in enumerate(REFUSALS.values(), 1)}

    finished = slipway("check", env={}, migrations=folder(files), log_format="text")

    assert finished.code == 21, finished
    for n, (place, message) in enumerate(((one[1].split(": ", 1)) for one in REFUSALS.values()), 1):
        assert f"{n}_a.sql:{place}: {message}" in finished.err


def test_data_that_are_not_utf_8_are_refused_with_their_line(folder: Folder, slipway: Slipway) -> None:
    finished = slipway("check", env={}, migrations=folder({"1_a.sql": b"COPY t FROM stdin;\n1\t\xe4\n\\.\n"}))

    assert finished.code == 21, finished
    assert "1_a.sql:2: not UTF-8; save the file as UTF-8" in finished.err


def many_rows(number: int) -> str:
    rows = "".join(f"{row}\t{'x' * 100}\n" for row in range(number))
    return f"COPY t FROM stdin;\n{rows}\\.\n"


SLOW = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
 IF NEW.a = 5 THEN PERFORM pg_sleep(600); END IF; RETURN NEW; END $$;
CREATE TRIGGER wait BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION wait();
"""
SLEEPING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"


@pytest.mark.parametrize("end", ["sigterm", "kill", "terminate-backend"])
async def test_run_that_ends_amid_the_data_leaves_nothing(
    end: str, folder: Folder, database: Database, slipway: Slipway
) -> None:
    """More data than fit on the way to the server, which has stopped reading them."""
    migrations = folder({"1_t.sql": TABLE + SLOW, "2_data.sql": many_rows(100_000)})
    process = slipway.start(env=database.environ, migrations=migrations)
    (pid,) = (await eventually(lambda: database.fetch(SLEEPING), "COPY at its fifth row"))[0]

    if end == "sigterm":
        await asyncio.to_thread(process.wait_for_log, "2_data.sql: COPY: 5 rows, ")
        process.terminate(signal.SIGTERM)
    elif end == "kill":
        process.kill()
    else:
        await database.fetch(f"SELECT pg_terminate_backend({pid})")

    if end != "kill":
        finished = await asyncio.to_thread(process.finish)
        assert finished.code == {"sigterm": 143, "terminate-backend": 13}[end], finished
    await database.fetch(f"SELECT pg_terminate_backend({pid})")
    assert await database.applied() == ["1_t.sql"]
    await database.execute("DROP TRIGGER wait ON t")
    again = slipway(env=database.environ, migrations=migrations)
    assert again.code == 0, again
    assert (await database.fetch("SELECT count(*) FROM t"))[0][0] == 100_000


async def test_failure_early_in_much_data_ends_the_run(folder: Folder, database: Database, slipway: Slipway) -> None:
    text = many_rows(100_000).replace("3\t", "x\t", 1)

    finished = slipway(env=database.environ, migrations=folder({"1_t.sql": TABLE, "2_data.sql": text}))

    assert finished.outcome, finished
    assert (finished.code, finished.outcome["problems"][0]["line"]) == (24, 5), finished
