"""The glance is never wrong: where it says that there is nothing to do, the program says so too, in the same words.

Settings, folders and histories are put together at random, malformed ones too. Both run inside of this process: the
glance as a start calls it, and the program as a start calls it where the glance says nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections import Counter
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pgslipway import glance, program
from pgslipway.quote import quote_literal
from pgslipway.signals import Stop
from sampling import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from servers import Database, Embedded

TABLE = '"other ""schema".history'
WHERE = {"MIGRATE_SCHEMA": 'other "schema', "MIGRATE_TABLE": "history"}
COLUMNS = "filename text, applied_at timestamptz DEFAULT now(), checksum text, minimum_version bigint"
PATIENT = 10.0
"""Seconds for a glance on a busy machine."""
MINIMUM = b"-- minimum-version: 1\nSELECT 1;"


# --- what is put together ---------------------------------------------------------------------------------------


def normal(content: bytes) -> bytes:
    """A file's text as its checksum sees it."""
    return content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")


@dataclass(frozen=True)
class Row:
    """A row of the history; the version as SQL."""

    version: str
    filename: str
    checksum: str | None


@dataclass(frozen=True)
class Case:
    """A folder, a history and settings."""

    files: dict[str, bytes]
    rows: list[Row]
    shape: str
    environ: dict[str, str]
    command: list[str]
    is_usual: bool
    """Nothing is odd about it: the glance has to see that there is nothing to do."""
    texts: str = ""
    """What makes the table of the repeatable files."""


CONTENTS = [b"", b"SELECT 1;\n", "SELECT 'é';".encode(), b"\xef\xbb\xbfSELECT 1;", b"SELECT\r\n1\r;", MINIMUM]
LARGE = b"-- large\r\n" * 110_000
ODD_FILES = {
    "name.sql": b"", "002_a.SQL": b"", "2_same.sql": b"SELECT 2;", "99999999999999999999_a.sql": b"", "3_\x07.sql": b"",
    "4_not_utf8.sql": b"\xff", "5_.sql": b"", "-1_a.sql": b"", "6_late.sql": b"SELECT 6;", "٣_arabic.sql": b"",
}  # fmt: skip
HARMLESS_FILES = {"1_a.down.sql": b"DROP", ".hidden.sql": b"?", "README.md": b"# no", "7.txt": b""}


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    versions = draw(st.lists(st.integers(1, 40) | st.integers(2**31, 2**63 - 1), min_size=1, max_size=5, unique=True))
    contents = st.sampled_from([*CONTENTS, *CONTENTS, LARGE])
    return {f"{version:0{draw(st.integers(1, 4))}}_a.sql": draw(contents) for version in versions}


LAYOUTS = ["goose", "dbmate", "tern", "flyway", "prisma", "diesel", "drizzle"]
DIVIDED = {
    "goose": (b"-- +goose Up\n", b"\n-- +goose Down\nDROP"),
    "dbmate": (b"-- migrate:up\n", b"\n-- migrate:down\nDROP"),
    "tern": (b"", b"\n---- create above / drop below ----\nDROP"),
}
NAMED = {
    "flyway": ("V{}__a.sql", 10**12), "prisma": ("{}_a/migration.sql", 10), "diesel": ("{:018}_a/up.sql", 1),
    "drizzle": ("{}_a.sql", 1),
}  # fmt: skip
"""The filename for a number, and how many times that the version is."""


def laid_out(layout: str, files: Mapping[str, bytes]) -> tuple[dict[str, bytes], list[Row]]:
    """The same files as another tool has them, and the history of that folder."""
    found: dict[str, bytes] = {}
    rows: list[Row] = []
    names = sorted(files, key=lambda name: int(name.partition("_")[0]))
    for number, name in enumerate(names, 1):
        text = normal(files[name])
        if layout in DIVIDED:
            up, down = DIVIDED[layout]
            found[name] = up + text + down
            rows.append(Row(str(int(name.partition("_")[0])), name, sha256(text + b"\n").hexdigest()))
            continue
        pattern, times = NAMED[layout]
        found[pattern.format(number)] = files[name]
        rows.append(Row(str(number * times), pattern.format(number), sha256(text).hexdigest()))
    if layout == "drizzle":
        entries = [{"tag": f"{number}_a", "when": number} for number in range(1, len(names) + 1)]
        found["meta/_journal.json"] = json.dumps({"entries": entries}).encode()
    return found, rows


def rows_of(files: Mapping[str, bytes]) -> list[Row]:
    """The history of a folder that was applied."""
    found = sorted((int(name.partition("_")[0]), name) for name in files)
    return [Row(str(version), name, sha256(normal(files[name])).hexdigest()) for version, name in found]


TEXTS = '"other ""schema".history_repeatable'
MAKE_TEXTS = f"""CREATE TABLE {TEXTS} (filename text, checksum text, newest bigint NOT NULL,
    applied_at timestamptz NOT NULL, PRIMARY KEY (filename, checksum)); GRANT SELECT ON {TEXTS} TO migrator;"""
REPEATABLE_NAMES = ["R__a.sql", "R__a b.sql", "R__ä_ß.sql", "R__b'.sql", "R__B\\.sql", "R__𝄞.sql", "R__z.sql"]
Text: TypeAlias = tuple[str, str, str, int]
"""Filename, checksum, newest version and hour."""
ODD_TEXTS: dict[str, Callable[[list[Text]], str]] = {
    "no table": lambda _: "",
    "one missing": lambda texts: MAKE_TEXTS + insert(texts[1:]),
    "another one later": lambda texts: MAKE_TEXTS + insert([*texts, (texts[0][0], "0", texts[0][2], 2)]),
    "another one newer": lambda texts: MAKE_TEXTS + insert([*texts, (texts[0][0], "0", f"{texts[0][2]} + 1", 0)]),
    "of an older version": lambda texts: MAKE_TEXTS + insert([(*texts[0][:2], f"{texts[0][2]} - 1", 1), *texts[1:]]),
    "all in one": lambda texts: MAKE_TEXTS + insert(
        [(texts[0][0], "\n".join(f"{name} {checksum}" for name, checksum, *_ in texts), texts[0][2], 1)]
    ),
    "other columns": lambda _: f"CREATE TABLE {TEXTS} (a int)",
}  # fmt: skip


def insert(texts: list[Text]) -> str:
    """Rows of the table of the repeatable files."""
    return "".join(
        f"INSERT INTO {TEXTS} VALUES ({quote_literal(name)}, {quote_literal(checksum)}, {newest}, "
        f"'2026-01-01 0{hour}:00');"
        for name, checksum, newest, hour in texts
    )


ODD_ROWS: dict[str, Callable[[list[Row]], list[Row]]] = {
    "none": lambda _: [],
    "one missing": lambda rows: rows[1:],
    "one ahead": lambda rows: [*rows, Row("9223372036854775807", "ahead.sql", "00")],
    "taken over": lambda rows: [Row(row.version, row.filename, None) for row in rows],
    "one taken over": lambda rows: [Row(rows[0].version, rows[0].filename, None), *rows[1:]],
    "taken over by another name": lambda rows: [Row(rows[0].version, "other.sql", None), *rows[1:]],
    "edited": lambda rows: [*rows[:-1], Row(rows[-1].version, rows[-1].filename, "0" * 64)],
    "upper case": lambda rows: [Row(row.version, row.filename, (row.checksum or "").upper()) for row in rows],
    "blank at the end": lambda rows: [Row(row.version, row.filename, f"{row.checksum} ") for row in rows],
    "all in one": lambda rows: [
        Row(rows[0].version, "a", "\n".join(f"{row.version} {row.checksum}" for row in rows).partition(" ")[2])
    ],
    "twice": lambda rows: [*rows, rows[-1]],
    "another version": lambda rows: [*rows[:-1], Row(f"{rows[-1].version}-1", rows[-1].filename, rows[-1].checksum)],
}
HARMLESS_ROWS: dict[str, Callable[[list[Row]], list[Row]]] = {
    "renamed": lambda rows: [Row(row.version, f"was_{row.filename}", row.checksum) for row in rows],
    "in another order": lambda rows: rows[::-1],
}
HARMLESS_SHAPES = {
    "bigint": f"CREATE TABLE {{}} (version bigint PRIMARY KEY, {COLUMNS})",
    "without a key": f"CREATE TABLE {{}} (version bigint, {COLUMNS})",
    "varchar": "CREATE TABLE {} (version int8, filename varchar, applied_at timestamptz, checksum varchar)",
    "more columns": f"CREATE TABLE {{}} (a int, version bigint PRIMARY KEY, {COLUMNS}, b text[])",
}
ODD_SHAPES = {
    "none": "",
    "text": f"CREATE TABLE {{}} (version text PRIMARY KEY, {COLUMNS})",
    "numeric": f"CREATE TABLE {{}} (version numeric PRIMARY KEY, {COLUMNS})",
    "without a checksum": "CREATE TABLE {} (version bigint PRIMARY KEY, filename text, applied_at timestamptz)",
    "bytea": "CREATE TABLE {} (version bigint PRIMARY KEY, filename text, applied_at timestamptz, checksum bytea)",
    "golang-migrate": f"CREATE TABLE {{}} (version bigint PRIMARY KEY, dirty bool, {COLUMNS})",
    "hidden rows": f"CREATE TABLE {{0}} (version bigint PRIMARY KEY, {COLUMNS}); ALTER TABLE {{0}} ENABLE ROW LEVEL "
    "SECURITY; ALTER TABLE {0} FORCE ROW LEVEL SECURITY",
}
USUAL_SETTINGS: list[dict[str, str]] = [
    {}, {"PGSSLMODE": "prefer"}, {"PGSSLMODE": "disable"}, {"PGSSLMODE": "allow"}, {"PGHOST": "localhost"},
    {"PGHOSTADDR": "127.0.0.1", "PGHOST": "name.invalid"}, {"PGOPTIONS": "-c search_path=no -c timezone=Asia/Tokyo"},
    {"PGTZ": "UTC", "PGDATESTYLE": "German"}, {"PGAPPNAME": "app", "PGCONNECT_TIMEOUT": "3"}, {"MIGRATE_TABEL": "x"},
    {"MIGRATE_VAR_A": "x"}, {"MIGRATE_VAR_A_FILE": "/nowhere", "MIGRATE_VAR_B": "x", "MIGRATE_VAR_B_FILE": "/nowhere"},
    {"MIGRATE_LOG_FORMAT": "json"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"MIGRATE_ROLE": "migrator"},
    {"MIGRATE_AHEAD": "refuse", "MIGRATE_EDITED": "warn", "MIGRATE_OUT_OF_ORDER": "refuse", "MIGRATE_LOCK": "session"},
    {"MIGRATE_WAIT_TIMEOUT": "0"}, {"MIGRATE_WAIT_TIMEOUT": "30s", "MIGRATE_STATEMENT_TIMEOUT": "1ms"},
    {"DATABASE_URL": "{url}"}, {"DATABASE_URL": "{url}?sslmode=prefer&connect_timeout=5"}, {"GITHUB_ACTIONS": "true"},
    {"DATABASE_URL": "{url}?options=-c%20default_transaction_read_only%3Don"}, {"PGUSER": "ünicode", "PGPASSWORD": "x"},
]  # fmt: skip
ODD_SETTINGS: list[dict[str, str]] = [
    {"PGPASSWORD": "wrong"}, {"PGPASSWORD": ""}, {"PGDATABASE": "no"}, {"PGDATABASE": "other"}, {"PGUSER": "nobody"},
    {"PGSSLMODE": "require"}, {"PGSSLMODE": "verify-full"}, {"PGSSLMODE": "on"}, {"PGHOST": "127.0.0.1,127.0.0.1"},
    {"PGPORT": "1"}, {"PGPORT": "x"}, {"PGHOST": "no.such.host.invalid"}, {"PGTARGETSESSIONATTRS": "standby"},
    {"PGUSER": "md5er", "PGPASSWORD": "x"}, {"PGUSER": "reader", "PGPASSWORD": "x"}, {"PGCHANNELBINDING": "require"},
    {"MIGRATE_ROLE": "nobody"}, {"MIGRATE_TABLE": "nowhere"}, {"MIGRATE_SCHEMA": "nowhere"}, {"MIGRATE_SCHEMA": "$(X)"},
    {"MIGRATE_LOCK": "x"}, {"MIGRATE_DIR": "/nowhere"}, {"PGOPTIONS": "-c nonsense=1"}, {"PGTZ": "Nowhere"},
    {"PGOPTIONS": "-c role=reader"}, {"PGOPTIONS": "-c statement_timeout=1", "MIGRATE_WAIT_TIMEOUT": "1ms"},
    {"DATABASE_URL": "{url}?application_nam=x"}, {"DATABASE_URL": "x://x"}, {"PGUSER": "ünicode", "PGPASSWORD": "é"},
    {"PGPASSWORD_FILE": "/nowhere"}, {"PGSSLCERT": "/nowhere"}, {"PGHOST": "/nowhere"}, {"PGSERVICE": "x"},
]  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Mostly one thing is odd, often none: a case with five odd things says nothing about any."""
    odd = draw(st.sampled_from(["", "", "files", "rows", "shape", "settings", "all"]))
    rare = st.integers(0, 3).map(lambda number: number == 0)
    files = draw(folders())
    rows = rows_of(files)
    layout = draw(st.sampled_from(["plain"] * len(LAYOUTS) + LAYOUTS))
    if layout != "plain":
        files, rows = laid_out(layout, files)
    rows_of_all = [row.version for row in rows]
    if draw(rare):
        rows = HARMLESS_ROWS[draw(st.sampled_from(list(HARMLESS_ROWS)))](rows)
    if odd in {"rows", "all"}:
        rows = ODD_ROWS[draw(st.sampled_from(list(ODD_ROWS)))](rows)
    if draw(rare):
        files |= {name: text for name, text in HARMLESS_FILES.items() if layout not in DIVIDED or "down" not in name}
    if odd in {"files", "all"}:
        name = draw(st.sampled_from(list(ODD_FILES)))
        files[name] = ODD_FILES[name]
    shapes = ODD_SHAPES if odd in {"shape", "all"} else HARMLESS_SHAPES
    environ = draw(st.sampled_from(ODD_SETTINGS if odd in {"settings", "all"} else USUAL_SETTINGS))
    if draw(rare):
        environ = environ | {"MIGRATE_LAYOUT": layout}
    command = draw(st.sampled_from([[], [], ["up"], ["wait"]]))
    texts = ""
    if draw(rare):
        texts, is_odd = draw(repeatable(files, max(rows_of_all, key=int), layout))
        odd = odd or is_odd
    return Case(files, rows, shapes[draw(st.sampled_from(list(shapes)))], environ, command, not odd, texts)


@st.composite
def repeatable(draw: st.DrawFn, files: dict[str, bytes], newest: str, layout: str) -> tuple[str, str]:
    """Add repeatable files; return what makes their table, and whether something about it is odd."""
    names = draw(st.lists(st.sampled_from(REPEATABLE_NAMES), min_size=1, max_size=3, unique=True))
    folder = draw(st.sampled_from(["", "views/"])) if layout == "flyway" else ""
    contents = {f"{folder}{name}": draw(st.sampled_from([*CONTENTS[:-1], b"-- variables: x"])) for name in names}
    files |= contents
    texts = [(name, sha256(normal(text)).hexdigest(), newest, 1) for name, text in contents.items()]
    texts += [(name, "1", newest, 0) for name in names]
    if draw(st.booleans()):
        what = draw(st.sampled_from(list(ODD_TEXTS)))
        return ODD_TEXTS[what](texts), what
    return MAKE_TEXTS + insert(texts), "variables" if b"-- variables: x" in contents.values() else ""


# --- how they are run -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What a run said: its exit code, its lines without their times, the outcome without its seconds."""

    code: int | None
    lines: list[str]
    outcome: dict[str, Any] | None


def said_by(run: Callable[[], int | None], termination: Path) -> Said:
    """Run it, and note what it says."""
    termination.unlink(missing_ok=True)
    with redirect_stderr(StringIO()) as printed:
        code = run()
    text = re.sub(r'^\d\d:\d\d:\d\d |"time": "[^"]*"|"seconds": [0-9.]+', "", printed.getvalue(), flags=re.MULTILINE)
    outcome = json.loads(termination.read_bytes()) | {"seconds": 0} if termination.exists() else None
    return Said(code, text.splitlines(), outcome)


ROLES = """
CREATE ROLE migrator; CREATE ROLE reader LOGIN PASSWORD 'x'; CREATE ROLE "ünicode" LOGIN SUPERUSER PASSWORD 'x';
SET password_encryption = md5; CREATE ROLE md5er LOGIN SUPERUSER PASSWORD 'x'; CREATE DATABASE other
"""


@pytest.fixture
async def shop(embedded: Embedded) -> Database:
    """A database of a server of the test's own that asks for passwords, and roles that may do this and that."""
    cluster = embedded.cluster().start()
    await cluster.server.database().execute("CREATE DATABASE shop")
    for statement in ROLES.split(";"):
        with suppress(Exception):
            await cluster.server.database().execute(statement)
    return cluster.server.database("shop")


async def make(case: Case, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Make the history of the case, and nothing else."""
    await connection.execute('DROP SCHEMA IF EXISTS "other ""schema" CASCADE')
    if not case.shape:
        return
    await connection.execute(f'CREATE SCHEMA "other ""schema"; {case.shape.format(TABLE)}')
    for row in case.rows:
        checksum = "NULL" if row.checksum is None else f"'{row.checksum}'"
        has_checksum = "checksum" in case.shape
        columns, values = (", checksum", f", {checksum}") if has_checksum else ("", "")
        version = f"({row.version})::text" if "version text" in case.shape else row.version
        await connection.execute(
            f"INSERT INTO {TABLE} (version, filename{columns}) VALUES ({version}, '{row.filename}'{values})"
        )
    await connection.execute(
        f'GRANT USAGE ON SCHEMA "other ""schema" TO migrator, reader; GRANT SELECT ON {TABLE} TO migrator; {case.texts}'
    )


@dataclass
class Ground:
    """Where cases are run."""

    database: Database
    folder: Path
    counted: Counter[str]

    def environ(self, case: Case) -> dict[str, str]:
        """The environment of a case; a URL takes the place of the variables that say the same."""
        url = self.database.url.partition("?")[0]
        own = {name: value.replace("{url}", url) for name, value in case.environ.items()}
        usual = {} if "DATABASE_URL" in own else self.database.environ
        usual |= {"MIGRATE_DIR": str(self.folder), "MIGRATE_TERMINATION_LOG": str(self.folder.with_name("termination"))}
        return {name: value for name, value in {**usual, **WHERE, **own}.items() if f"{name}_FILE" not in own}

    async def compare(self, case: Case) -> None:
        """Fail where the glance says something that the program does not say."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name, content in case.files.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_bytes(content)
        async with self.database.connection() as connection:
            try:
                await make(case, connection)
            except asyncpg.PostgresError:
                assume(False)  # such rows do not go into such a table
        environ, termination = self.environ(case), self.folder.with_name("termination")
        glanced = await asyncio.to_thread(
            said_by, lambda: glance.glance(case.command, environ, Stop(), time.monotonic())[0], termination
        )
        self.counted["nothing to do" if glanced.code == 0 else "left to the program"] += 1
        if glanced.code is None:
            assert (glanced.lines, glanced.outcome) == ([], None)
            assert not case.is_usual
            return
        program_said = await asyncio.to_thread(
            said_by, lambda: program.run_command(case.command, environ, Stop()), termination
        )
        assert glanced == program_said


async def test_glance_is_never_wrong(
    shop: Database,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ground = Ground(shop, tmp_path / "migrations", Counter())
    monkeypatch.setattr(glance, "LONGEST", PATIENT)

    @settings(
        max_examples=examples(300),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(cases())
    def compare(case: Case) -> None:
        asyncio.run(ground.compare(case))

    await asyncio.to_thread(compare)

    record_property("faults", ", ".join(f"{number} x {what}" for what, number in sorted(ground.counted.items())))
    assert min(ground.counted.values()) > examples(300) // 10
    assert len(ground.counted) == 2


@pytest.mark.parametrize("rows", ODD_ROWS)
async def test_odd_history_is_left_to_the_program(rows: str, shop: Database, tmp_path: Path) -> None:
    ground = Ground(shop, tmp_path / "migrations", Counter())
    files = {"1_a.sql": b"", "02_b.sql": b"SELECT 1;", "3000000000_c.sql": b"SELECT\r\n2;"}

    await ground.compare(
        Case(files, ODD_ROWS[rows](rows_of(files)), HARMLESS_SHAPES["without a key"], {}, [], is_usual=False)
    )

    assert ground.counted == {"left to the program": 1}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_nothing_to_do_is_seen_in_every_layout(layout: str, shop: Database, tmp_path: Path) -> None:
    ground = Ground(shop, tmp_path / "migrations", Counter())
    files, rows = laid_out(layout, {"1_a.sql": b"", "02_b.sql": b"SELECT 1;", "30_c.sql": b"SELECT 2;"})
    shape = HARMLESS_SHAPES["bigint"]

    await ground.compare(Case(files, rows, shape, {}, [], is_usual=True))
    await ground.compare(Case(files, rows, shape, {"MIGRATE_LAYOUT": layout}, ["wait"], is_usual=True))
    await ground.compare(Case(files, rows[1:], shape, {}, [], is_usual=False))
    more, texts = with_repeatable(files, rows)
    await ground.compare(Case(more, rows, shape, {}, [], is_usual=True, texts=MAKE_TEXTS + insert(texts)))

    assert ground.counted == {"nothing to do": 3, "left to the program": 1}


@pytest.mark.parametrize("texts", ODD_TEXTS)
async def test_odd_texts_of_repeatable_files_are_left_to_the_program(
    texts: str, shop: Database, tmp_path: Path
) -> None:
    ground = Ground(shop, tmp_path / "migrations", Counter())
    files = {"1_a.sql": b"", "02_b.sql": b"SELECT 1;"}
    more, found = with_repeatable(files, rows_of(files))
    shape = HARMLESS_SHAPES["bigint"]

    await ground.compare(Case(more, rows_of(files), shape, {}, [], is_usual=False, texts=ODD_TEXTS[texts](found)))

    assert ground.counted == {"left to the program": 1}


async def test_repeatable_file_with_variables_is_left_to_the_program(shop: Database, tmp_path: Path) -> None:
    """Their values are to count as well."""
    ground = Ground(shop, tmp_path / "migrations", Counter())
    files = {"1_a.sql": b""}
    more, texts = with_repeatable(files, rows_of(files), "-- variables: a\n")
    shape = HARMLESS_SHAPES["bigint"]

    await ground.compare(Case(more, rows_of(files), shape, {}, [], is_usual=False, texts=MAKE_TEXTS + insert(texts)))

    assert ground.counted == {"left to the program": 1}


def with_repeatable(files: dict[str, bytes], rows: list[Row], comment: str = "") -> tuple[dict[str, bytes], list[Text]]:
    """The files and three repeatable ones, and the rows of these."""
    more = {name: f"{comment}SELECT '{name}';".encode() for name in REPEATABLE_NAMES[:3]}
    newest = max((row.version for row in rows), key=int)
    return files | more, [(name, sha256(text).hexdigest(), newest, 1) for name, text in more.items()]
