"""Folders that no tool would make: a documented code and a sentence for each problem, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgslipway import files, program
from pgslipway.engine.check import check
from pgslipway.errors import BadMigrations, Undivided
from pgslipway.layouts import files_of, parts
from pgslipway.migrations import Migration
from pgslipway.signals import Stop
from sampling import examples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conftest import Folder

LAYOUTS = ["auto", "plain", "goose", "dbmate", "tern", "flyway", "prisma", "diesel", "drizzle"]
NO_ENTRIES = "expected a list of entries, each with tag and when, as Drizzle writes it"
JOURNALS = {
    "empty": (b"", ":1: not JSON: Expecting value"),
    "cut-off": (b'{\n"entries": [', ":2: not JSON: Expecting value"),
    "sql": (b"SELECT 1;", ":1: not JSON: Expecting value"),
    "latin-1": (b'{"entries": "\xe9"}', ": not UTF-8; save the file as UTF-8"),
    "null": (b"null", f": {NO_ENTRIES}"),
    "list": (b"[]", f": {NO_ENTRIES}"),
    "no-entries": (b"{}", f": {NO_ENTRIES}"),
    "entries-null": (b'{"entries": null}', f": {NO_ENTRIES}"),
    "entries-a-text": (b'{"entries": "ab"}', f": {NO_ENTRIES}"),
    "entries-of-lists": (b'{"entries": [["a", 1]]}', f": {NO_ENTRIES}"),
    "entries-of-null": (b'{"entries": [null]}', f": {NO_ENTRIES}"),
    "deep": (b"[" * 100_000, f": {NO_ENTRIES}"),
    "5000-digits": (b'{"entries": [{"tag": "a", "when": %b}]}' % (b"9" * 5000), f": {NO_ENTRIES}"),
    "no-when": (b'{"entries": [{"tag": "a"}]}', f": {NO_ENTRIES}"),
    "no-tag": (b'{"entries": [{"when": 1}]}', f": {NO_ENTRIES}"),
}
TAGS = {
    "above": "../a",
    "absolute": "/etc/passwd",
    "below": "meta/a",
    "empty": "",
    "dot": ".",
    "dots": "..",
    "nul": "a\0",
    "line-end": "a\nb",
    "surrogate": "\ud800",
    "escape": "\x1b[31m",
    "number": 1,
    "null": None,
    "list": ["a"],
    "object": {"a": 1},
    "true": True,
}
MOMENTS = {
    "negative": "-1",
    "float": "1.5",
    "whole-float": "1700000000000.0",
    "infinity": "Infinity",
    "nan": "NaN",
    "text": '"1"',
    "null": "null",
    "true": "true",
    "list": "[1]",
    "1e400": "1e400",
}


def refused(path: Path, layout: str = "auto") -> str:
    with pytest.raises(BadMigrations) as caught:
        files.discover(str(path), layout)
    return str(caught.value)


@pytest.mark.parametrize(("content", "message"), JOURNALS.values(), ids=JOURNALS)
def test_journal_that_is_none_is_refused(folder: Folder, content: bytes, message: str) -> None:
    path = folder({"meta/_journal.json": content, "a.sql": ""})

    assert refused(path) == f"meta/_journal.json{message}"


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS)
def test_journal_that_names_no_file_of_the_folder_is_refused(folder: Folder, tag: object) -> None:
    entries = [{"tag": "a", "when": 1}, {"tag": tag, "when": 2}]
    path = folder({"meta/_journal.json": json.dumps({"entries": entries}), "a.sql": "", "meta/a.sql": ""})
    (path.parent / "a.sql").touch()

    assert refused(path) == f"meta/_journal.json: entry 1: {tag!r} is no name of a file in this folder"


@pytest.mark.parametrize("when", MOMENTS.values(), ids=MOMENTS)
def test_journal_with_a_moment_that_is_none_is_refused(folder: Folder, when: str) -> None:
    path = folder({"meta/_journal.json": f'{{"entries": [{{"tag": "a", "when": {when}}}]}}', "a.sql": ""})

    shown = repr(json.loads(when))
    assert (
        refused(path) == f"meta/_journal.json: entry 0: when is {shown}; it must be the whole milliseconds from 1970 on"
    )


def test_every_wrong_entry_of_a_journal_is_named(folder: Folder) -> None:
    entries = [{"tag": tag, "when": when} for tag, when in [("a", 1), ("../b", 2), ("a", 3), ("c", -4)]]
    path = folder({"meta/_journal.json": json.dumps({"entries": entries}), "a.sql": ""})

    assert refused(path).splitlines() == [
        "meta/_journal.json: entry 1: '../b' is no name of a file in this folder",
        "meta/_journal.json: entry 2: a is there twice",
        "meta/_journal.json: entry 3: when is -4; it must be the whole milliseconds from 1970 on",
    ]


def test_moment_above_bigint_is_refused(folder: Folder) -> None:
    path = folder({"meta/_journal.json": f'{{"entries": [{{"tag": "a", "when": {2**63}}}]}}', "a.sql": ""})

    assert refused(path) == f"a.sql: the version is too large; the largest is {2**63 - 1}"


def test_value_of_a_journal_is_shown_in_part_only(folder: Folder) -> None:
    path = folder({"meta/_journal.json": json.dumps({"entries": [{"tag": ["x" * 10_000], "when": 1}]}), "a.sql": ""})

    assert len(refused(path)) < 200


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "missing"])
def test_journal_that_is_no_file_is_refused(folder: Folder, kind: str) -> None:
    path = folder({"meta/0000_snapshot.json": "", "a.sql": ""})
    journal = path / "meta" / "_journal.json"
    if kind == "folder":
        journal.mkdir()
    elif kind == "pipe":
        os.mkfifo(journal)
    elif kind == "loop":
        journal.symlink_to("_journal.json")

    assert refused(path, "drizzle") == {
        "loop": "meta/_journal.json: cannot be read: Too many levels of symbolic links",
        "missing": "meta/_journal.json: cannot be read: No such file or directory",
    }.get(kind, "meta/_journal.json: not a file; it must be a regular file or a link to one")


@pytest.mark.parametrize("name", ["1_a/migration.sql", "1_a/up.sql", "V1__a.sql", "1_a.sql"])
def test_pipe_is_refused_and_not_waited_for(folder: Folder, name: str) -> None:
    path = folder({f"{name.partition('/')[0]}/README.md" if "/" in name else "README.md": ""})
    os.mkfifo(path / name)
    layout = {"migration.sql": "prisma", "up.sql": "diesel", "V1__a.sql": "flyway"}.get(Path(name).name, "plain")

    assert refused(path, layout) == f"{name}: not a file; {path}/{name} must be a regular file or a link to one"


CASE_TWINS = {
    "plain": ({"1_a.sql": "", "1_A.sql": ""}, "version 1 is taken by 1_A.sql and 1_a.sql"),
    "flyway": (
        {"V1__a.sql": "", "V1__A.sql": "", "V1__a.SQL": ""},
        f"version {10**12} is taken by V1__A.sql and V1__a.SQL and V1__a.sql",
    ),
    "diesel": ({"1_a/up.sql": "", "1_A/up.sql": ""}, f"version {10**17} is taken by 1_A/up.sql and 1_a/up.sql"),
}


@pytest.mark.parametrize(("contents", "message"), CASE_TWINS.values(), ids=CASE_TWINS)
def test_case_twins_are_two_files(folder: Folder, contents: dict[str, str], message: str) -> None:
    assert refused(folder(contents)) == f"{message}; give each file a version of its own"


@pytest.mark.parametrize("layout", ["flyway", "prisma", "diesel"])
def test_name_that_cannot_be_printed_is_refused_in_ascii(tmp_path: Path, layout: str) -> None:
    name = {"flyway": b"V1__\xff.sql", "prisma": b"1_\xff/migration.sql", "diesel": b"1_\xff/up.sql"}[layout]
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    path.touch()

    assert refused(tmp_path) == (
        f"{os.fsdecode(name)!a}: not a migration's name: it has characters that cannot be printed"
    )


@pytest.mark.parametrize("layout", ["prisma", "diesel"])
def test_ten_thousand_folders_are_read_and_the_one_without_its_file_is_named(folder: Folder, layout: str) -> None:
    file = {"prisma": "migration.sql", "diesel": "up.sql"}[layout]
    path = folder({f"{number:05}_a/{file}": "" for number in range(examples(10_000))})

    assert len(files.discover(str(path)).found) == examples(10_000)

    (path / f"00500_a/{file}").rename(path / "00500_a/other.sql")
    assert refused(path) == f"00500_a: this folder has no {file}; remove it, or add the file"


# --- at random --------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("a"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tag", "when", "entries", "a"]), inner)
    ),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {"tag": JSON | st.sampled_from(["a", "b", "../a", "c"]), "when": JSON | st.integers(0, 9)}
)
JOURNAL = (
    JSON.map(json.dumps).map(str.encode)
    | st.fixed_dictionaries({"entries": st.lists(ENTRY, max_size=3) | JSON}).map(json.dumps).map(str.encode)
    | st.binary(max_size=20)
)


def test_journal_at_random_is_taken_at_its_word_or_refused(folder: Folder) -> None:
    path = folder({"meta/_journal.json": "", "a.sql": "", "b.sql": ""})

    @settings(max_examples=examples(500), deadline=None)
    @given(JOURNAL)
    def read(content: bytes) -> None:
        (path / "meta/_journal.json").write_bytes(content)
        try:
            found = files.discover(str(path)).found
        except BadMigrations:
            return
        entries = json.loads(content)["entries"]
        assert sorted((entry["when"], f"{entry['tag']}.sql") for entry in entries) == [one[:2] for one in found]

    read()


PIECE = st.sampled_from(
    [
        "-- +goose Up",
        "-- +goose Down",
        "--+GOOSE down",
        " -- +goose Down",
        "-- +goose",
        "-- +goose StatementBegin",
        "-- +goose NO TRANSACTION",
        "-- goose down",
        "-- +goose ENVSUB ON",
        "-- migrate:up",
        "-- migrate:down",
        "-- migrate:up transaction:false",
        "\t-- migrate:down",
        "-- migrate:",
        "--migrate:down x",
        "-- MIGRATE:UP",
        "---- create above / drop below ----",
        "---- create above / drop bellow ----",
        "---- tern: disable-tx ----",
        "SELECT 1;",
        "SELECT '",
        "';",
        "$$",
        "$a$",
        "/*",
        "*/",
        '"',
        "COMMIT;",
        "{{.a}}",
        "${b}",
        "\\d",
        "VACUUM;",
        "é",
        "",
        "\0",
        "\ufeff",
        "--",
        "-- x",
        "no-transaction",
        "-- no-transaction",
        "-- minimum-version: 9",
        "COPY a FROM STDIN;",
    ]
)
TEXT = st.tuples(
    st.sampled_from(["", "\ufeff"]),
    st.lists(st.tuples(PIECE, st.sampled_from(["\n", "\n", "\r\n", "\r", " ", ""])), max_size=8),
).map(lambda drawn: drawn[0] + "".join(piece + end for piece, end in drawn[1]))


def goose_part(text: bytes) -> tuple[int, int] | None:
    """The bytes of the up part by goose's rules, line for line; None where it refuses."""
    place, start, end = 0, -1, -1
    for number, line in enumerate(text.split(b"\n")):
        bare = line.removeprefix(b"\xef\xbb\xbf") if not number else line
        after = min(place + len(line) + 1, len(text))
        if bare.strip().startswith(b"--") and b"+goose" in bare.lower():
            word = b" ".join(bare.strip()[2:].split()).lower().removeprefix(b"+goose").strip()
            known = {b"up", b"down", b"statementbegin", b"statementend", b"no transaction", b"envsub on", b"envsub off"}
            if (
                not bare.startswith(b"--")
                or word not in known
                or ((word == b"up") == (start >= 0) and word in {b"up", b"down"})
            ):
                return None
            if word == b"up":
                start = after
            elif word == b"down":
                if end >= 0:
                    return None
                end = place
        elif start < 0 and bare.strip() and not bare.strip().startswith(b"--"):
            return None
        place = after
    return None if start < 0 else (start, end if end >= 0 else len(text))


@settings(max_examples=examples(1500), deadline=None)
@given(TEXT)
def test_part_of_a_text_at_random_is_the_one_that_goose_runs(text: str) -> None:
    source = text.encode()
    try:
        found = parts.goose(source)
    except Undivided:
        assert goose_part(source) is None
        return
    assert found == goose_part(source)


@settings(max_examples=examples(1500), deadline=None)
@given(TEXT, st.sampled_from(["plain", "goose", "dbmate", "tern", "flyway", "prisma", "diesel", "drizzle"]))
def test_text_at_random_is_checked_without_an_accident(text: str, layout: str) -> None:
    source = text.encode()
    divide = files.part_of(layout)
    with suppress(Undivided):
        source = source[: divide(source)[1]] if divide else source
        name = {"flyway": "V9__a.sql", "prisma": "9_a/migration.sql", "diesel": "9_a/up.sql"}.get(layout, "9_a.sql")
        migration = Migration(version=9, filename=name, checksum="", path=os.devnull, layout=layout)
        for problem in check(migration, source).problems:
            assert str(problem).startswith(name)


NAME = st.sampled_from(
    [
        "1_a.sql",
        "01_b.sql",
        "2_b.up.sql",
        "2_b.down.sql",
        "3_c.go",
        "x.sql",
        "README.md",
        "tern.conf",
        "4.sql",
        "5_.sql",
        "V1__a.sql",
        "V1.1__b.SQL",
        "V__x.sql",
        "V1__.sql",
        "V1.2.3.4.5__x.sql",
        "V2.sql",
        "U1__a.sql",
        "U9__z.sql",
        "R__v.sql",
        "B1__b.sql",
        "beforeMigrate.sql",
        "V1__a.sql.conf",
        "v1__a.sql",
        "V3__c.rs",
        "migration.sql",
        "up.sql",
        "down.sql",
        "metadata.toml",
        "snapshot.json",
        "migration_lock.toml",
        "_journal.json",
        ".hidden.sql",
        "٣_a.sql",
        "-1_a.sql",
        "1_\udcff.sql",
        "V1__\n.sql",
        "99999999999999999999_a.sql",
        "1_a.SQL",
    ]
)
FOLDER = st.sampled_from(
    [
        "",
        "",
        "1_a",
        "20260131120000_b",
        "2026-01-31-120000_c",
        "meta",
        "sub",
        "sub/deep",
        "..data",
        "0_\udcff",
        "x.sql",
        "b",
    ]
)
CONTENT = st.sampled_from(
    [
        b"",
        b"SELECT 1;",
        b"-- +goose Up\nSELECT 1;\n-- +goose Down\n",
        b"-- migrate:up\n-- migrate:down\n",
        b"\xff",
        b"\0",
        b"SELECT 1;\n---- create above / drop below ----\n",
        b'{"entries": [{"tag": "1_a", "when": 5}]}',
        b"COMMIT;",
        b"{{",
        b'{"entries": []}',
        b"run_in_transaction = false",
        b"executeInTransaction=false",
        b"[[[[",
        b"${a}",
        b"'",
    ]
)
LINK = st.tuples(
    FOLDER,
    st.sampled_from(["link", "9_l", "V9__l.sql", "9_l.sql", "meta"]),
    st.sampled_from([".", "..", "nowhere", "link", "9_l", "1_a", "sub", "/dev/null", "1_a.sql", "/"]),
)
TREE = st.tuples(
    st.dictionaries(st.tuples(FOLDER, NAME), CONTENT, max_size=6),
    st.lists(LINK.filter(lambda link: link[2] != "/"), max_size=2),
    st.lists(FOLDER, max_size=2),
)


def build(root: Path, tree: tuple[Mapping[tuple[str, str], bytes], list[tuple[str, str, str]], list[str]]) -> None:
    """Make a tree; what has no place in it any more is left out."""
    contents, links, empty = tree
    root.mkdir()
    for folder in empty:
        with suppress(OSError):
            (root / folder).mkdir(parents=True, exist_ok=True)
    for (folder, name), content in contents.items():
        with suppress(OSError):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_bytes(content)
    for folder, name, target in links:
        with suppress(OSError):
            (root / folder / name).symlink_to(target)


@settings(max_examples=examples(600), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREE, st.sampled_from(LAYOUTS))
def test_folder_at_random_gets_a_documented_code(tree: Any, layout: str) -> None:
    home = Path(mkdtemp(prefix="malformed-"))
    try:
        build(home / "migrations", tree)
        environ = {
            "MIGRATE_DIR": str(home / "migrations"),
            "MIGRATE_TERMINATION_LOG": str(home / "outcome"),
            "MIGRATE_LAYOUT": layout,
        }
        with redirect_stderr(StringIO()) as said:
            code = program.run_command(["check"], environ, Stop())
        outcome = json.loads((home / "outcome").read_bytes())
    finally:
        shutil.rmtree(home)

    assert code in {0, 21}, said.getvalue()
    assert "Traceback" not in said.getvalue()
    assert all(outcome["message"].splitlines())


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREE, st.sampled_from(LAYOUTS[2:]))
def test_hope_finds_the_same_as_a_closer_look(tree: Any, layout: str) -> None:
    home = Path(mkdtemp(prefix="malformed-"))
    try:
        build(home / "migrations", tree)
        with os.scandir(home / "migrations") as entries:
            visible = {entry.name: entry for entry in entries if not entry.name.startswith(".")}
        found = []
        for is_hopeful in (True, False):
            try:
                chosen, version_of, ignored = files_of(layout, visible, is_hopeful=is_hopeful)
                found.append(
                    (files.load_all(chosen, version_of or files.plain_version, files.part_of(layout), {}), ignored)
                )
            except BadMigrations:
                found.append(([], []))
    finally:
        shutil.rmtree(home)

    if found[0][0]:
        assert found[0] == found[1]
