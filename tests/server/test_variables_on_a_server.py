"""Variables on a real server: what goes in comes out, nothing is shown, and what is missing is said before anything."""

from __future__ import annotations

import asyncio
import json
import random
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Folder, Slipway
    from servers import Database

CANARY = "Kanarienvogel'7\"q\\zÄ-wide-enough-to-be-cut-by-postgres-where-a-row-is-shown"
WORD = "kanarienvogel_in_a_plain_word"
SHORT = "kv7"


def variables(**values: str) -> dict[str, str]:
    return {f"MIGRATE_VAR_{name.upper()}": value for name, value in values.items()}


async def texts(database: Database, query: str) -> list[str]:
    return [row[0] for row in await database.fetch(query)]


# --- what goes in comes out -------------------------------------------------------------------------------------

ALPHABET = "abz019 '\"\\$;{}()-/*,.:&!U+xE\n\r\t\x01\x1f\x7fäß€😀\u2028ёλ"
ODD = ["'", "''", "\\", "\\'", "'\\", '"', "${x0}", "$$", "--", "/*", "*/", "\\.", "\\x41", "\\0041", "E'", "a\nb\\\n'",
       "'; DROP TABLE kept; --", "\u00a0", "\ufeff", "%s", "$1", "\\u0041", "U&'\\0041'", " ", "\r\n"]  # fmt: skip
QUOTED = ("'${x%d}'", "E'${x%d}'", "U&'${x%d}'", "('${x%d}')", "e'' --\n'${x%d}'", "U&''\n'${x%d}'")


def odd_values(number: int) -> list[str]:
    """Random ones, always the same."""
    rng = random.Random(17)
    return ODD + ["".join(rng.choices(ALPHABET, k=rng.randint(1, 40))) for _ in range(number - len(ODD))]


@pytest.mark.parametrize("strings", ["on", "off"])
async def test_quoted_value_comes_out_of_the_database_as_it_went_in(
    strings: str, database: Database, slipway: Slipway, folder: Folder
) -> None:
    role = await database.create_role(f"reads_{strings}", "LOGIN SUPERUSER")
    await database.execute(f"ALTER ROLE reads_{strings} SET standard_conforming_strings = {strings}")
    values = odd_values(200)
    names = [value for value in values if len(value.encode()) < 60]
    rows = [f"({place}, {quoted % place})" for place in range(len(values)) for quoted in QUOTED]
    columns = [f'SELECT 1 AS "${{x{values.index(name)}}}", 2 AS U&"${{x{values.index(name)}}}_"' for name in names]
    declared = [f"-- variables: x{place}\n" for place in range(len(values))]
    first = f"{''.join(declared)}CREATE TABLE kept (place int, value text); INSERT INTO kept VALUES {', '.join(rows)};"
    views = [f"CREATE VIEW v{place} AS {column};\n" for place, column in enumerate(columns)]
    used = [f"-- variables: x{values.index(name)}\n" for name in names]
    files = folder({"1_a.sql": first, "2_b.sql": f"{''.join(used)}{''.join(views)}", "3_c.sql": "SELECT 1;"})

    env = role.environ | {f"MIGRATE_VAR_X{place}": value for place, value in enumerate(values)}
    finished = await asyncio.to_thread(slipway, env=env, migrations=files)

    assert finished.code == 0, finished
    kept = await database.fetch("SELECT place, value FROM kept")
    assert len(kept) == len(rows)
    assert [(row["place"], row["value"]) for row in kept if row["value"] != values[row["place"]]] == []
    named = await database.fetch(
        "SELECT attrelid::regclass::text AS view, attname AS name FROM pg_attribute"
        " WHERE attrelid IN (SELECT oid FROM pg_class WHERE relkind = 'v' AND relname ~ '^v[0-9]+$') ORDER BY attnum"
    )
    found: dict[str, list[str]] = {}
    for row in named:
        found.setdefault(row["view"], []).append(row["name"])
    assert [found[f"v{place}"] for place in range(len(names))] == [[name, f"{name}_"] for name in names]


# --- what is missing --------------------------------------------------------------------------------------------

FILES = {
    "1_a.sql": '-- variables: one, two\nCREATE TABLE "${one}" (); COMMENT ON TABLE "${one}" IS \'${two}\';',
    "2_b.sql": "-- variables: two, three\nSELECT '${two}', '${three}';",
}
MISSING = """\
1_a.sql needs MIGRATE_VAR_ONE, the value of its variable ${one}
2_b.sql: MIGRATE_VAR_THREE and MIGRATE_VAR_THREE_FILE are both set; keep one of them
"""


async def test_all_missing_values_are_said_before_anything_is_applied(
    database: Database, slipway: Slipway, folder: Folder, tmp_path: Path
) -> None:
    files = folder(FILES)
    (tmp_path / "two").write_text("2\n")
    two = {"MIGRATE_VAR_TWO_FILE": str(tmp_path / "two")}
    bad = {"MIGRATE_VAR_ONE": "", "MIGRATE_VAR_THREE": "3", "MIGRATE_VAR_THREE_FILE": "/x"}

    for command in ((), ("plan",)):
        finished = await asyncio.to_thread(slipway, *command, env=database.environ | two | bad, migrations=files)
        assert finished.code == 20, finished
        assert finished.outcome
        assert finished.outcome["message"] == MISSING.strip()
    assert await database.fetch("SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []
    assert slipway("check", env={}, migrations=files).code == 0

    good = variables(one="t", three="3", unknown="4")
    finished = await asyncio.to_thread(slipway, env=database.environ | two | good, migrations=files)
    assert finished.code == 0, finished
    assert await texts(database, "SELECT obj_description('t'::regclass)") == ["2"]

    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)
    assert finished.code == 0, finished


# --- nothing is shown -------------------------------------------------------------------------------------------

LARGE = f"SELECT '{'x' * (1 << 20)}';\n"
FAILING = {
    "input": "SELECT '${long}'::int;",
    "input-of-a-word": 'SELECT 1::"${word}";',
    "no-place": "SELECT 1; SELECT ('${long}' || 'x')::int FROM generate_series(1, 2);",
    "word": "SELECT ${word};",
    "short": "SELECT 1 FROM ${short};",
    "upper": "SELECT upper('${long}')::int;",
    "failing-row": "CREATE TABLE t (a int, b text CHECK (b = '')); INSERT INTO t VALUES (1, '${long}');",
    "failing-row-cut-early": (
        "CREATE TABLE t (b text CHECK (b = '')); INSERT INTO t VALUES (repeat('-', 57) || '${long}');"
    ),
    "key": "CREATE TABLE t (b text UNIQUE); INSERT INTO t VALUES ('${long}'), ('${long}');",
    "exclusion": "CREATE TABLE t (b text, EXCLUDE (b WITH =)); INSERT INTO t VALUES ('${long}'), ('${long}');",
    "long-name": 'SELECT "${long}${long}";',
    "table": 'DROP TABLE "${long}";',
    "schema-and-constraint": (
        'CREATE SCHEMA ${word}; CREATE TABLE ${word}.${word} ("${short}" int CONSTRAINT "${long}" CHECK (false));'
        "INSERT INTO ${word}.${word} VALUES (1);"
    ),
    "raised": "DO 'BEGIN RAISE EXCEPTION ''%'', ''${word}'' USING DETAIL = ''${word}'', HINT = ''${word}''; END';",
    "executed": "DO $$ BEGIN EXECUTE 'SELECT ${word}, oops'; END $$;",
    "executed-quoted": (
        "SELECT set_config('a.b', '${long}', true);"
        "DO $$ BEGIN EXECUTE format('SELECT %L, oops', current_setting('a.b')); END $$;"
    ),
    "json": """SELECT ('{"a": "${word}", ' || '"b": ${word}}')::json;""",
    "array": "SELECT ('{' || '${word}')::int[];",
    "notice": "DO $$ BEGIN RAISE WARNING 'it is %', '${word}'; END $$; SELECT quote_literal('${long}')::int;",
    "array-of-texts": "SELECT ARRAY['${long}']::text::int;",
    "as-json": "SELECT to_jsonb('${long}'::text)::text::int;",
    "deferred": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE '%', NEW; END $$;"
        "CREATE TABLE t (b text); CREATE CONSTRAINT TRIGGER c AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION f(); INSERT INTO t VALUES ('${long}');"
    ),
    "history": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE '${word}'; END $$;"
    "CREATE TRIGGER t BEFORE UPDATE ON schema_migrations FOR EACH ROW EXECUTE FUNCTION f();"
    "UPDATE schema_migrations SET filename = 'x';",
    "extension": 'CREATE EXTENSION "${word}";',
    "set": "SET statement_timeout = '${long}';",
    "control": "SELECT 1; BEGIN ${word};",
    "large": f"{LARGE}SELECT '${{long}}'::int;",
    "without-a-transaction": "-- no-transaction\nCREATE TABLE t ();\nSELECT '${long}'::int;",
    "busy": "DO $$ BEGIN RAISE lock_not_available USING MESSAGE = '${word}'; END $$;",
    "lost": "DO $$ BEGIN RAISE '${word}' USING ERRCODE = '57P01'; END $$;",
}  # fmt: skip
CODES = {"extension": 21, "control": 21, "busy": 12, "lost": 13}


def leaks(said: str) -> list[str]:
    """The pieces of the values that somebody has shown."""
    low = said.lower()
    long = [CANARY[start : start + 16] for start in range(len(CANARY) - 15)]
    known = [*long, "kanarie...", "kanarienvogel'", "vogel''7", WORD, WORD[:12], re.escape(CANARY[:12])]
    return [one for one in known if one.lower() in low] + re.findall(rf"\b{SHORT}\b", low)


@pytest.mark.parametrize("case", FAILING)
async def test_no_value_is_shown_whatever_fails(
    case: str, database: Database, slipway: Slipway, folder: Folder
) -> None:
    names = [name for name in ("long", "word", "short") if f"${{{name}}}" in FAILING[case]]
    declared = f"-- variables: {', '.join(names)}\n" if names else ""
    text = f"{declared}{FAILING[case]}"
    env = database.environ | variables(long=CANARY, word=WORD, short=SHORT)
    finished = await asyncio.to_thread(slipway, env=env, migrations=folder({"1_a.sql": text}), ddl_retry="0")

    assert finished.code == CODES.get(case, 24), finished
    said = f"{finished.out}{finished.err}{json.dumps(finished.outcome, ensure_ascii=False)}"
    assert leaks(said) == [], finished
    if case == "without-a-transaction":
        rows = await database.fetch("SELECT string_agg(s::text, ' ') FROM schema_migrations_steps s")
        assert leaks(rows[0][0]) == []


async def test_table_that_is_locked_is_shown_by_the_name_of_its_variable(
    database: Database, slipway: Slipway, folder: Folder
) -> None:
    files = folder({"1_a.sql": "-- variables: word\nALTER TABLE ${word} ADD b int;"})
    await database.execute(f"CREATE TABLE {WORD} ()")
    async with database.connection() as other, other.transaction():
        await other.execute(f"LOCK TABLE {WORD}")

        finished = await asyncio.to_thread(
            slipway, env=database.environ | variables(word=WORD), migrations=files, ddl_retry="0"
        )

    assert finished.code == 12, finished
    assert "waiting for AccessExclusiveLock on ${word}, held by" in finished.err
    assert "its last query: LOCK TABLE ${word})" in finished.err
    assert WORD not in f"{finished.err}{finished.outcome}"


PLACE = """\
1_a.sql:4: column "oops" does not exist
  4 |   '${x}' || oops;
    |             ^
SQLSTATE 42703
1_a.sql was rolled back"""


async def test_place_of_a_failure_is_that_of_the_file_as_it_was_written(
    database: Database, slipway: Slipway, folder: Folder
) -> None:
    files = folder({"1_a.sql": "-- variables: x\nSELECT '${x}',\n  'é${x}',\n  '${x}' || oops;\n"})

    finished = await asyncio.to_thread(slipway, env=database.environ | variables(x="a\n'b\nü"), migrations=files)

    assert finished.outcome
    assert finished.outcome["message"] == PLACE


# --- without a transaction, undone, from Flyway -----------------------------------------------------------------

STEPS = (
    "-- no-transaction\n-- variables: x\nCREATE TABLE t AS SELECT '${x}' AS a;\nSELECT 1 / (SELECT count(*) FROM u);\n"
)


async def test_another_value_is_no_edit_of_a_file_that_is_half_done(
    database: Database, slipway: Slipway, folder: Folder
) -> None:
    files = folder({"1_a.sql": STEPS})
    first, last = (database.environ | variables(x=value) for value in ("a\n'b", "other"))

    assert (await asyncio.to_thread(slipway, env=first, migrations=files)).code == 24
    await database.execute("CREATE TABLE u AS SELECT 1")
    finished = await asyncio.to_thread(slipway, env=last, migrations=files)

    assert finished.code == 0, finished
    assert await texts(database, "SELECT a FROM t") == ["a\n'b"]


COMMITS = (
    "-- no-transaction\n-- variables: x\nCREATE PROCEDURE p(text) LANGUAGE plpgsql AS 'BEGIN COMMIT; END';\n"
    "CALL p('${x}');\n"
)


async def test_statement_that_turns_out_to_run_outside_a_transaction_is_refused(
    database: Database, slipway: Slipway, folder: Folder
) -> None:
    finished = await asyncio.to_thread(
        slipway, env=database.environ | variables(x=CANARY), migrations=folder({"1_a.sql": COMMITS})
    )

    assert finished.code == 21, finished
    assert "1_a.sql:4: a statement that runs outside a transaction can have no variable" in finished.err
    rows = await database.fetch("SELECT step, statement FROM schema_migrations_steps")
    assert [(row["step"], row["statement"]) for row in rows] == [(1, None)]


async def test_down_part_has_variables_of_its_own(database: Database, slipway: Slipway, folder: Folder) -> None:
    files = folder({"1_a.up.sql": 'CREATE TABLE "it\'s" ();', "1_a.down.sql": '-- variables: t\nDROP TABLE "${t}";'})

    def run(*command: str, **values: str) -> Finished:
        return slipway(*command, env=database.environ | variables(**values), migrations=files)

    assert (await asyncio.to_thread(run)).code == 0
    missing, undone = [await asyncio.to_thread(run, "down", "0", **values) for values in ({}, {"t": "it's"})]

    assert (missing.code, undone.code) == (20, 0), missing
    assert missing.outcome
    assert missing.outcome["message"] == "1_a.down.sql needs MIGRATE_VAR_T, the value of its variable ${t}"
    assert await database.fetch("SELECT FROM pg_class WHERE relname = 'it''s'") == []


async def test_every_placeholder_of_flyways_is_a_variable(database: Database, slipway: Slipway, folder: Folder) -> None:
    files = folder({"V1__a.sql": "CREATE TABLE ${Name} AS SELECT '${text}' AS a; -- ${flyway:timestamp}"})

    missing, done = [
        await asyncio.to_thread(slipway, env=database.environ | variables(**values), migrations=files)
        for values in ({"name": "t"}, {"name": "t", "text": "it's"})
    ]

    assert (missing.code, done.code) == (20, 0), done
    assert missing.outcome
    assert missing.outcome["message"] == "V1__a.sql needs MIGRATE_VAR_TEXT, the value of its variable ${text}"
    assert await texts(database, "SELECT a FROM t") == ["it's"]
