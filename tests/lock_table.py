"""The table of docs/writing-migrations.md: what each kind of statement locks, told by PostgreSQL 14 to 18.

`PYTHONPATH=entrypoint:tests .venv/bin/python tests/lock_table.py` writes it anew; tests/setup/postgres-versions.sh gets
the servers.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from containers import ROOT
from pgslipway.cli.rehearsal.locks import observe
from pgslipway.config import Config, Location
from pgslipway.run import begin
from servers import Embedded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgslipway.cli.rehearsal.effects import Effect, Observed
    from servers import Database

VERSIONS = (14, 15, 16, 17, 18)
PAGE = ROOT / "docs" / "writing-migrations.md"
MARKS = {"short": "<!-- the statements with an alternative -->\n", "whole": "<!-- what each statement locks -->\n"}
END = "<!-- end -->\n"
TABLES = """
CREATE TABLE b (id bigint PRIMARY KEY, t text);
CREATE TABLE a (id bigint PRIMARY KEY, b_id bigint, n int, v varchar(20), p numeric(8, 2), at timestamp);
CREATE INDEX a_n ON a (n);
INSERT INTO b VALUES (1);
INSERT INTO a VALUES (1, 1, 1, 'v', 1, now());
"""
PARTITIONED = """
CREATE TABLE p (id bigint NOT NULL, n int NOT NULL) PARTITION BY RANGE (n);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (LIKE p);
"""
PARENT = "CREATE TABLE child () INHERITS (a);"
VIEW, MATERIALIZED = "CREATE VIEW w AS SELECT id, n FROM a;", "CREATE MATERIALIZED VIEW m AS SELECT id, n FROM a;"
CHECK = "ALTER TABLE a ADD CONSTRAINT k CHECK (n IS NOT NULL)"
KEY = "ALTER TABLE a ADD CONSTRAINT k FOREIGN KEY (b_id) REFERENCES b"
INDEX = "CREATE UNIQUE INDEX i ON a (id, n);"
TRIGGER = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
TRIGGER_ON = "CREATE TRIGGER r BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of statement, with what has to be there before it."""

    statement: str
    before: str = ""
    since: int = VERSIONS[0]
    """The first version that has it."""
    shown: str = ""
    """As the table shows it, where that is not the statement itself."""
    instead: str = ""
    """The section of the page that says what to write instead."""


KINDS = (
    Kind("ALTER TABLE a ADD COLUMN c int"),
    Kind("ALTER TABLE a ADD COLUMN c int NOT NULL DEFAULT 1"),
    Kind("ALTER TABLE a ADD COLUMN c timestamptz DEFAULT now()"),
    Kind("ALTER TABLE a ADD COLUMN c uuid DEFAULT gen_random_uuid()", instead="filling-a-column-in-batches"),
    Kind("ALTER TABLE a ADD COLUMN c bigserial", instead="filling-a-column-in-batches"),
    Kind("ALTER TABLE a ADD COLUMN c bigint GENERATED ALWAYS AS IDENTITY", instead="filling-a-column-in-batches"),
    Kind("ALTER TABLE a ADD COLUMN c int GENERATED ALWAYS AS (n + 1) STORED"),
    Kind("ALTER TABLE a ADD COLUMN c int GENERATED ALWAYS AS (n + 1) VIRTUAL", since=18),
    Kind("ALTER TABLE a ADD COLUMN c int CHECK (c > 0)", instead="constraints"),
    Kind("ALTER TABLE a ADD COLUMN c bigint REFERENCES b"),
    Kind("ALTER TABLE a DROP COLUMN n", instead="expand-and-contract"),
    Kind("ALTER TABLE a RENAME COLUMN n TO c", instead="expand-and-contract"),
    Kind("ALTER TABLE a ALTER COLUMN n SET DEFAULT 1"),
    Kind("ALTER TABLE a ALTER COLUMN n SET NOT NULL", instead="not-null"),
    Kind(
        "ALTER TABLE a ALTER COLUMN n SET NOT NULL",
        before=CHECK,
        shown="the same, with a valid `CHECK (n IS NOT NULL)`",
    ),
    Kind("ALTER TABLE a ADD CONSTRAINT k NOT NULL n NOT VALID", since=18),
    Kind(
        "ALTER TABLE a VALIDATE CONSTRAINT k",
        before="ALTER TABLE a ADD CONSTRAINT k NOT NULL n NOT VALID",
        since=18,
        shown="ALTER TABLE a VALIDATE CONSTRAINT k -- NOT NULL",
    ),
    Kind(
        "ALTER TABLE a ALTER COLUMN id DROP NOT NULL",
        before="ALTER TABLE a DROP CONSTRAINT a_pkey",
        shown="ALTER TABLE a ALTER COLUMN n DROP NOT NULL",
    ),
    Kind("ALTER TABLE a ALTER COLUMN v TYPE text"),
    Kind("ALTER TABLE a ALTER COLUMN v TYPE varchar(40)"),
    Kind("ALTER TABLE a ALTER COLUMN v TYPE varchar(10)", instead="another-type"),
    Kind("ALTER TABLE a ALTER COLUMN p TYPE numeric(10, 2)"),
    Kind("ALTER TABLE a ALTER COLUMN n TYPE bigint", instead="another-type"),
    Kind(
        "ALTER TABLE a ALTER COLUMN at TYPE timestamptz",
        instead="another-type",
        before="SET timezone = 'Europe/Berlin'",
    ),
    Kind("ALTER TABLE a ALTER COLUMN at TYPE timestamptz", shown="the same, where `timezone` is UTC"),
    Kind("ALTER TABLE a ALTER COLUMN v SET STATISTICS 500"),
    Kind("ALTER TABLE a ALTER COLUMN v SET STORAGE EXTERNAL"),
    Kind("ALTER TABLE a ADD CONSTRAINT k CHECK (n > 0)", instead="constraints"),
    Kind("ALTER TABLE a ADD CONSTRAINT k CHECK (n > 0) NOT VALID"),
    Kind(
        "ALTER TABLE a VALIDATE CONSTRAINT k",
        before=f"{CHECK} NOT VALID",
        shown="ALTER TABLE a VALIDATE CONSTRAINT k -- CHECK",
    ),
    Kind("ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b", instead="constraints"),
    Kind("ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b NOT VALID"),
    Kind(
        "ALTER TABLE a VALIDATE CONSTRAINT k",
        before=f"{KEY} NOT VALID",
        shown="ALTER TABLE a VALIDATE CONSTRAINT k -- FOREIGN KEY",
    ),
    Kind("ALTER TABLE a ADD PRIMARY KEY (id)", before="ALTER TABLE a DROP CONSTRAINT a_pkey", instead="indexes"),
    Kind("ALTER TABLE a ADD UNIQUE (n)", instead="indexes"),
    Kind("ALTER TABLE a ADD UNIQUE USING INDEX i", before=INDEX),
    Kind("ALTER TABLE a ADD EXCLUDE (n WITH =)"),
    Kind("ALTER TABLE a DROP CONSTRAINT k", before=CHECK, shown="ALTER TABLE a DROP CONSTRAINT k -- CHECK"),
    Kind("ALTER TABLE a DROP CONSTRAINT k", before=KEY, shown="ALTER TABLE a DROP CONSTRAINT k -- FOREIGN KEY"),
    Kind("ALTER TABLE a RENAME TO c", instead="renames"),
    Kind("ALTER TABLE a SET (fillfactor = 70)"),
    Kind("ALTER TABLE a SET UNLOGGED"),
    Kind("ALTER TABLE a SET ACCESS METHOD heap", since=15),
    Kind("ALTER TABLE a REPLICA IDENTITY FULL"),
    Kind("ALTER TABLE a ENABLE ROW LEVEL SECURITY"),
    Kind("ALTER TABLE a OWNER TO CURRENT_USER"),
    Kind("ALTER TABLE a DISABLE TRIGGER r", before=f"{TRIGGER} {TRIGGER_ON}"),
    Kind(
        "ALTER TABLE a ADD COLUMN c int",
        before=PARENT,
        shown="ALTER TABLE a ADD COLUMN c int -- with inheriting tables",
    ),
    Kind("ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)", before=PARTITIONED),
    Kind(
        "ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)",
        before=f"{PARTITIONED} ALTER TABLE p2 ADD CHECK (n >= 10 AND n < 20)",
        shown="the same, with a valid `CHECK` of those values",
    ),
    Kind("ALTER TABLE p DETACH PARTITION p1", before=PARTITIONED),
    Kind("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY", before=PARTITIONED),
    Kind("CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (10) TO (20)", before=PARTITIONED),
    Kind(
        "CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (10) TO (20)",
        before=f"{PARTITIONED} ALTER TABLE p ATTACH PARTITION p2 DEFAULT",
        shown="the same, with a default partition",
    ),
    Kind("CREATE INDEX i ON a (v)", instead="indexes"),
    Kind("CREATE INDEX i ON p (n)", before=PARTITIONED, instead="indexes"),
    Kind("CREATE INDEX CONCURRENTLY i ON a (v)"),
    Kind("DROP INDEX a_n", instead="indexes"),
    Kind("DROP INDEX CONCURRENTLY a_n"),
    Kind("ALTER INDEX a_n RENAME TO c"),
    Kind("REINDEX INDEX a_n", instead="indexes"),
    Kind("REINDEX TABLE a", instead="indexes"),
    Kind("REINDEX TABLE CONCURRENTLY a"),
    Kind("CREATE TABLE c (id bigint REFERENCES b)"),
    Kind("CREATE TABLE c AS SELECT * FROM a"),
    Kind("DROP TABLE a"),
    Kind("DROP TABLE a", before=KEY, shown="DROP TABLE a -- with a foreign key to b"),
    Kind("TRUNCATE a"),
    Kind("LOCK TABLE a"),
    Kind(TRIGGER_ON, before=TRIGGER, shown="CREATE TRIGGER r BEFORE INSERT ON a …"),
    Kind("DROP TRIGGER r ON a", before=f"{TRIGGER} {TRIGGER_ON}"),
    Kind("CREATE POLICY k ON a USING (true)"),
    Kind("CREATE RULE k AS ON DELETE TO a DO INSTEAD NOTHING"),
    Kind("CREATE STATISTICS k ON n, v FROM a"),
    Kind("CREATE VIEW w AS SELECT id FROM a"),
    Kind("CREATE OR REPLACE VIEW w AS SELECT id, n FROM a", before=VIEW),
    Kind("DROP VIEW w", before=VIEW),
    Kind("CREATE MATERIALIZED VIEW m AS SELECT n FROM a"),
    Kind("REFRESH MATERIALIZED VIEW m", before=MATERIALIZED),
    Kind("REFRESH MATERIALIZED VIEW CONCURRENTLY m", before=f"{MATERIALIZED} CREATE UNIQUE INDEX ON m (id);"),
    Kind("COMMENT ON TABLE a IS 'a'"),
    Kind("GRANT SELECT ON a TO PUBLIC"),
    Kind("ALTER SEQUENCE s RESTART", before="CREATE SEQUENCE s;"),
    Kind("ALTER DOMAIN d ADD CHECK (VALUE > 0)", before="CREATE DOMAIN d AS int; ALTER TABLE a ADD COLUMN c d;"),
    Kind(
        "ALTER DOMAIN d ADD CHECK (VALUE > 0) NOT VALID", before="CREATE DOMAIN d AS int; ALTER TABLE a ADD COLUMN c d;"
    ),
    Kind("INSERT INTO a (id) VALUES (2)"),
    Kind("UPDATE a SET n = 1 WHERE id = 1"),
    Kind("UPDATE a SET n = 1", instead="filling-a-column-in-batches"),
    Kind("DELETE FROM a WHERE v = 'x'", instead="filling-a-column-in-batches"),
    Kind("SELECT * FROM a FOR UPDATE"),
    Kind("ANALYZE a"),
    Kind("VACUUM a"),
    Kind("VACUUM FULL a"),
    Kind("CLUSTER a USING a_n"),
)
OUTSIDE = re.compile(r".*\bCONCURRENTLY|VACUUM")


def files(version: int) -> dict[str, str]:
    """A folder for a version: a file for each kind of statement, and before them one with a schema for each."""
    before, found = [], {}
    for number, kind in enumerate(KINDS, 1):
        if kind.since > version:
            continue
        schema = f"k{number}"
        before.append(f"CREATE SCHEMA {schema}; SET search_path = {schema}; {TABLES} {kind.before};")
        head = "-- no-transaction\n" if OUTSIDE.match(kind.statement) and "MATERIALIZED" not in kind.statement else ""
        zone = kind.before if kind.before.startswith("SET timezone") else ""
        found[name(number)] = f"{head}SET search_path = {schema}; {zone};\n{kind.statement}"
    return {name(0): "\n".join(before), **found}


def name(number: int) -> str:
    """The file of a kind."""
    return f"{1 + number:03}_kind.sql"


async def cells(database: Database, version: int) -> dict[int, tuple[str, str, str]]:
    """The cells of each kind of statement on a server of this version."""
    with tempfile.TemporaryDirectory() as folder:
        for filename, text in files(version).items():
            (Path(folder) / filename).write_text(text)
        config = Config(dir=folder, location=Location(database.environ))
        observed = await observe(await begin(config), since="1")
    last = {one.file: one for one in observed}  # of each file the last statement
    return {number: cells_of(last[name(number)]) for number in range(1, len(KINDS) + 1) if name(number) in last}


def cells_of(one: Observed) -> tuple[str, str, str]:
    """What a statement does, in three cells."""
    assert one.is_seen
    named = {effect: effect.relation.name.partition(".")[2] for effect in one.effects}
    locks = by_value((effect.lock_name, named[effect]) for effect in one.effects)
    blocks = by_value((effect.blocks, named[effect]) for effect in one.effects if effect.blocks)
    deeds = [(deed(one, effect), named[effect]) for effect in one.effects if effect.reads or effect.rewrites]
    if tuple(named.values()) == ("a",):
        return "; ".join(locks), "; ".join(blocks), "; ".join(word for word, _ in deeds)
    parts = (f"{value}: {', '.join(names)}" for value, names in locks.items())
    return (
        "; ".join(parts),
        "; ".join(f"{value}: {', '.join(names)}" for value, names in blocks.items()),
        "; ".join(f"{value}: {', '.join(names)}" for value, names in by_value(deeds).items()),
    )


def by_value(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names for each value."""
    found: dict[str, list[str]] = {}
    for value, name in pairs:
        found.setdefault(value, []).append(name)
    return found


def deed(one: Observed, effect: Effect) -> str:
    """What it does to the whole table."""
    return "truncates" if one.truncates else "rewrites" if effect.rewrites else "reads"


def by_version(values: Mapping[int, str]) -> str:
    """One cell for all versions, with the versions where they differ."""
    spans: list[tuple[int, int, str]] = []
    for version, value in sorted(values.items()):
        if spans and spans[-1][2] == value:
            spans[-1] = (spans[-1][0], version, value)
        else:
            spans.append((version, version, value))
    if len(spans) == 1:
        return spans[0][2]
    return "; ".join(
        f"{first if first == last else f'{first} to {last}'}: {value or 'nothing'}" for first, last, value in spans
    )


def tables(found: Mapping[int, Mapping[int, tuple[str, str, str]]]) -> dict[str, str]:
    """The two tables, of the cells on each version: the one of statements with an alternative, and the whole one."""
    short = ["| statement | nobody can | meanwhile it | instead |", "|---|---|---|---|"]
    whole = ["| statement | lock | who has to wait | whole tables |", "|---|---|---|---|"]
    for number, kind in enumerate(KINDS, 1):
        versions = {version: rows[number] for version, rows in found.items() if number in rows}
        lock, blocks, deeds = (
            by_version({version: row[place] for version, row in versions.items()}) for place in range(3)
        )
        shown = kind.shown if kind.shown.startswith("the same") else f"`{kind.shown or kind.statement}`"
        since = f" ({kind.since})" if kind.since > VERSIONS[0] else ""
        whole.append(f"| {shown}{since} | {lock} | {blocks} | {deeds} |")
        if kind.instead:
            can = CAN[blocks.partition(":")[0]]
            title = kind.instead.replace("-", " ")
            short.append(f"| {shown} | {can} | {deeds or 'changes the catalog'} | [{title}](#{kind.instead}) |")
    return {"short": "\n".join(short) + "\n", "whole": "\n".join(whole) + "\n"}


CAN = {"readers and writers": "read or write", "writers": "write", "": "change the same rows"}


def written(which: str) -> str:
    """A table as the page has it."""
    return PAGE.read_text().partition(MARKS[which])[2].partition(END)[0].strip("\n") + "\n"


async def measure(homes: Mapping[int, Path]) -> dict[int, dict[int, tuple[str, str, str]]]:
    """The cells on a server of each version, by the folder of its programs."""
    found = {}
    for version, home in homes.items():
        binaries = Embedded(home)
        try:
            async with binaries.cluster().start().server.fresh_database() as database:
                found[version] = await cells(database, version)
        finally:
            binaries.close()
    return found


HOMES = {version: ROOT / ".venv" / "postgres" / str(version) for version in VERSIONS}

if __name__ == "__main__":
    page = PAGE.read_text()
    for which, new in tables(asyncio.run(measure(HOMES))).items():
        head, mark, rest = page.partition(MARKS[which])
        page = f"{head}{mark}\n{new}\n{END}{rest.partition(END)[2]}"
    PAGE.write_text(page)
