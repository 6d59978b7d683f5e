"""A schema as pg_dump writes it is a migration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database, Embedded, Server

SCHEMA = """
CREATE SCHEMA "Shop";
CREATE TYPE "Shop".state AS ENUM ('new', 'paid');
CREATE TABLE "Shop".orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state "Shop".state NOT NULL, note text);
CREATE INDEX orders_state ON "Shop".orders (state) WHERE note IS NOT NULL;
CREATE VIEW open AS SELECT id FROM "Shop".orders WHERE state = 'new';
CREATE FUNCTION pay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.note := E'\\\\restrict is no command here; it''s text';
    RETURN NEW;
END $$;
CREATE TRIGGER pay BEFORE INSERT ON "Shop".orders FOR EACH ROW EXECUTE FUNCTION pay();
COMMENT ON TABLE "Shop".orders IS 'as
\\restrict would stand in a line';
"""
NEWER = {
    "SET lock_timeout = 0;": "SET lock_timeout = 0;\nSET transaction_timeout = 0;",
    "SET statement_timeout = 0;": "\\restrict Ab3dEf\n\nSET statement_timeout = 0;",
}
OF_NEWER = re.compile(r"\\(un)?restrict \w+\n|SET transaction_timeout = 0;\n|.*pg_attver.*\n")
"""What newer versions of pg_dump write, and the one at hand perhaps does not; and what only the one of the server's own
minor release leaves out."""


def dump(embedded: Embedded, database: Database) -> str:
    path = embedded.folder / f"{database.name}.sql"
    embedded.run(
        "pg_dump", "--schema-only", "--exclude-table=schema_migrations*", "--file", path,
        "--host", database.host, "--port", database.port, "--username", database.user, database.name,
        PGPASSWORD=database.password,
    )  # fmt: skip
    return path.read_text()


def essence(dumped: str) -> list[str]:
    """The dump without the words that differ each time."""
    return [
        line
        for line in dumped.splitlines()
        if line and not line.startswith("--") and not OF_NEWER.fullmatch(f"{line}\n")
    ]


@pytest.fixture
async def dumped(server: Server, embedded: Embedded) -> str:
    """The dump of a database, as a newer pg_dump writes it."""
    async with server.fresh_database() as original:
        await original.execute(SCHEMA)
        text = dump(embedded, original)
    text = "".join(line for line in text.splitlines(True) if not OF_NEWER.fullmatch(line))
    for older, newer in NEWER.items():
        assert older in text
        text = text.replace(older, newer)
    return text + "\n\\unrestrict Ab3dEf\n"


@pytest.mark.parametrize("directive", ["", "-- squash\n"], ids=["file", "squash"])
async def test_dump_makes_the_same_schema(
    directive: str, dumped: str, database: Database, embedded: Embedded, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(env=database.environ, migrations=folder({"1_all.sql": directive + dumped, "2_b.sql": ""}))

    assert finished.code == 0, finished
    assert await database.applied() == ["1_all.sql", "2_b.sql"]
    assert "transaction_timeout" in dumped
    assert dumped.count("restrict Ab3dEf") == 2
    assert essence(dump(embedded, database)) == essence(dumped)


async def test_large_dump_is_sent_in_pieces(dumped: str, database: Database, folder: Folder, slipway: Slipway) -> None:
    padding = "".join(f"COMMENT ON SCHEMA public IS '{number:0100}';\n" for number in range(10_000))
    migrations = folder({"1_all.sql": padding + dumped})

    finished = slipway(env=database.environ, migrations=migrations)

    assert (migrations / "1_all.sql").stat().st_size > 1 << 20
    assert finished.code == 0, finished


async def test_place_of_a_failure_is_the_line_of_the_dump(
    dumped: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    text = dumped.replace("CREATE INDEX", "CREATE INDEXX")
    line = 1 + text[: text.index("INDEXX")].count("\n")

    finished = slipway(env=database.environ, migrations=folder({"1_all.sql": text}))

    assert finished.outcome, finished
    assert (finished.code, finished.outcome["problems"][0]["line"]) == (24, line)


@pytest.mark.parametrize(
    "text",
    ["\\connect shop", "SELECT 1 \\restrict a", " \\restrict a", "\\restrict", "\\restricted a", "\\unrestrictx a"],
)
def test_other_backslash_commands_stay_refused(text: str, folder: Folder, slipway: Slipway) -> None:
    finished = slipway("check", env={}, migrations=folder({"1_a.sql": f"{text}\nSELECT 1"}))

    assert finished.code == 21, finished
    assert "psql's backslash commands are not SQL" in finished.err


def test_time_out_that_is_one_is_sent(folder: Folder, slipway: Slipway, database: Database) -> None:
    finished = slipway(env=database.environ, migrations=folder({"1_a.sql": "SET transaction_timeout = 'soon'"}))

    assert finished.code == 24, finished
