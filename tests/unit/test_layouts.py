"""The folders of other tools: how they are told apart, which of their files are migrations, and what is refused."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from containers import ROOT
from counting import Calls, steps
from pgslipway import files
from pgslipway.engine.check import check
from pgslipway.engine.variables import checked
from pgslipway.errors import BadMigrations
from pgslipway.layouts import entries
from pgslipway.migrations import migrations_in

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Slipway
    from pgslipway.migrations import Migration

REAL = ROOT.parent / "shared" / "real" / "moving"
GOOSE = "-- +goose Up\nCREATE TABLE a ();\n-- +goose Down\nDROP TABLE a;\n"
DBMATE = "-- migrate:up\nCREATE TABLE a ();\n-- migrate:down\nDROP TABLE a;\n"
TERN = "CREATE TABLE a ();\n---- create above / drop below ----\nDROP TABLE a;\n"
SQL = "CREATE TABLE a ();\n"
JOURNAL = '{{"version": "7", "entries": [{}]}}'


def journal(**moments: int) -> str:
    """Drizzle's, with these tags."""
    return JOURNAL.format(
        ", ".join(f'{{"idx": 0, "tag": "{tag}", "when": {when}, "breakpoints": true}}' for tag, when in moments.items())
    )


def found(path: Path, layout: str = "auto") -> dict[str, int]:
    """The versions in a folder by filename."""
    return {name: version for version, name, _, _ in files.discover(str(path), layout).found}


def refused(path: Path, layout: str = "auto") -> str:
    with pytest.raises(BadMigrations) as caught:
        files.discover(str(path), layout)
    return str(caught.value)


def migrations(path: Path, layout: str = "auto") -> list[Migration]:
    return migrations_in(files.discover(str(path), layout))


def problems(path: Path, layout: str = "auto") -> list[str]:
    """All that is said of a folder's files, each as if it were pending."""
    return [str(problem) for one in migrations(path, layout) for problem in checked(one, None)[1].problems]


# --- which layout it is -----------------------------------------------------------------------------------------

TOLD = {
    "plain": ({"1_a.sql": SQL, "README.md": ""}, "plain", "", {"1_a.sql": 1}, []),
    "golang-migrate": ({"1_a.up.sql": SQL, "1_a.down.sql": ""}, "plain", "", {"1_a.up.sql": 1}, []),
    "plain-beside-a-folder": ({"1_a.sql": SQL, "more/notes.sql": ""}, "plain", "1_a.sql", {"1_a.sql": 1}, ["more/"]),
    "goose": (
        {"00001_a.sql": GOOSE, "00002_b.sql": GOOSE},
        "goose",
        "00001_a.sql",
        {"00001_a.sql": 1, "00002_b.sql": 2},
        [],
    ),
    "goose-with-go": (
        {
            "1_a.go": "package m",
            "2_b.sql": GOOSE,
            "embed.go": "",
            "3_c_test.go": "",
            "4.go": "",
            "5_E.SQL": "",
            "n.md": "",
        },
        "goose",
        "2_b.sql",
        {"1_a.go": 1, "2_b.sql": 2},
        ["3_c_test.go", "4.go", "5_E.SQL", "embed.go", "n.md"],
    ),
    "goose-in-lower-case": ({"1_a.sql": "--  +GOOSE up\n"}, "goose", "1_a.sql", {"1_a.sql": 1}, []),
    "goose-comments-first": ({"1_a.sql": "-- a\n\n  -- b\n-- +goose Up\n"}, "goose", "1_a.sql", {"1_a.sql": 1}, []),
    "dbmate": (
        {"1a.sql": DBMATE, "2_b.sql": DBMATE, "seed.sql": "", "x/3_c.sql": ""},
        "dbmate",
        "1a.sql",
        {"1a.sql": 1, "2_b.sql": 2},
        ["seed.sql", "x/"],
    ),
    "tern-by-its-file": (
        {"1_a.sql": SQL, "tern.conf": "", "func/a.sql": "{{.b}}", "1_.sql": "", "seed.sql": "", "2_d.sql/e": ""},
        "tern",
        "tern.conf",
        {"1_a.sql": 1},
        ["1_.sql", "2_d.sql/", "func/", "seed.sql", "tern.conf"],
    ),
    "tern-by-its-marker": (
        {"001_a.sql": TERN, "002_b.sql": SQL},
        "tern",
        "001_a.sql",
        {"001_a.sql": 1, "002_b.sql": 2},
        [],
    ),
    "flyway": (
        {
            "V1.1__a.sql": SQL,
            "sub/deep/V2__b.SQL": SQL,
            "V3.sql": SQL,
            "U1.1__a.sql": SQL,
            "sub/notes.sql": SQL,
            "V1.1__a.sql.conf": "",
            "flyway.conf": "",
            ".V9__x.sql": "",
            "sub/.V9__x.sql": "",
            "v4__d.sql": "",
        },
        "flyway",
        "sub/deep/V2__b.SQL",
        {"V1.1__a.sql": 1_0001_0000_0000, "sub/deep/V2__b.SQL": 2_0000_0000_0000, "V3.sql": 3_0000_0000_0000},
        ["flyway.conf", "sub/notes.sql", "v4__d.sql"],
    ),
    "refinery": (
        {"V1__a.sql": SQL, "V1__a.rs": "fn", "V2__b.rs": "fn", "mod.rs": ""},
        "flyway",
        "V1__a.sql",
        {"V1__a.sql": 10**12, "V2__b.rs": 2 * 10**12},
        ["V1__a.rs", "mod.rs"],
    ),
    "prisma": (
        {
            "0_init/migration.sql": SQL,
            "20260131_b/migration.sql": SQL,
            "20260131_a/migration.sql": SQL,
            "20260131_a/down.sql": SQL,
            "migration_lock.toml": "",
            "NOTICE.md": "",
        },
        "prisma",
        "0_init/migration.sql",
        {"0_init/migration.sql": 0, "20260131_a/migration.sql": 202601310, "20260131_b/migration.sql": 202601311},
        ["NOTICE.md"],
    ),
    "prisma-name-with-a-dot": (
        {"1_a/migration.sql": SQL, "1_a.b/migration.sql": SQL},
        "prisma",
        "1_a/migration.sql",
        {"1_a/migration.sql": 10, "1_a.b/migration.sql": 11},
        [],
    ),
    "diesel": (
        {
            "00000000000000_setup/up.sql": SQL,
            "2026-01-31-120000_a/up.sql": SQL,
            "2026-01-31-120000_a/down.sql": SQL,
            "2026-01-31-120000_a/metadata.toml": "",
            "empty/.keep": "",
            ".hidden/up.sql": SQL,
            "loose.txt": "",
        },
        "diesel",
        "00000000000000_setup/up.sql",
        {"00000000000000_setup/up.sql": 0, "2026-01-31-120000_a/up.sql": 202601311200000000},
        ["empty/", "loose.txt"],
    ),
    "drizzle": (
        {
            "meta/_journal.json": journal(b=1700000000001, a=1700000000000),
            "a.sql": SQL,
            "b.sql": SQL,
            "c.sql": SQL,
            "meta/0000_snapshot.json": "",
        },
        "drizzle",
        "meta/_journal.json",
        {"a.sql": 1700000000000, "b.sql": 1700000000001},
        ["c.sql"],
    ),
    "drizzle-numbered": (
        {"meta/_journal.json": journal(**{"0000_a": 5}), "0000_a.sql": SQL},
        "drizzle",
        "meta/_journal.json",
        {"0000_a.sql": 5},
        [],
    ),
    "drizzle-in-folders": (
        {"20260131120000_a/migration.sql": SQL, "20260131120000_a/snapshot.json": "{}"},
        "drizzle",
        "20260131120000_a/migration.sql",
        {"20260131120000_a/migration.sql": 1769860800000},
        [],
    ),
}


@pytest.mark.parametrize(("contents", "layout", "decided_by", "versions", "ignored"), TOLD.values(), ids=TOLD)
def test_folder_tells_its_layout(
    folder: Folder, contents: dict[str, str], layout: str, decided_by: str, versions: dict[str, int], ignored: list[str]
) -> None:
    path = folder(contents)

    told = files.discover(str(path))

    assert (told.layout, told.decided_by, told.ignored) == (layout, decided_by, ignored)
    assert {name: version for version, name, _, _ in told.found} == versions
    assert [version for version, *_ in told.found] == sorted(versions.values())


@pytest.mark.parametrize(
    ("contents", "layout", "versions", "ignored"),
    [(contents, layout, versions, ignored) for contents, layout, _, versions, ignored in TOLD.values()],
    ids=TOLD,
)
def test_layout_that_is_said_has_the_same_migrations(
    folder: Folder, contents: dict[str, str], layout: str, versions: dict[str, int], ignored: list[str]
) -> None:
    path = folder(contents)

    told = files.discover(str(path), layout)

    assert (told.layout, told.decided_by, told.ignored) == (layout, "", ignored)
    assert {name: version for version, name, _, _ in told.found} == versions


MEET = {
    "plain-and-flyway": ({"1_a.sql": SQL, "V1__a.sql": SQL}, "1_a.sql (plain) and V1__a.sql (flyway)"),
    "goose-and-flyway": ({"1_a.sql": GOOSE, "x/V1__a.sql": SQL}, "x/V1__a.sql (flyway) and 1_a.sql (goose)"),
    "dbmate-and-prisma": (
        {"1_a.sql": DBMATE, "1_a/migration.sql": ""},
        "1_a/migration.sql (prisma) and 1_a.sql (dbmate)",
    ),
    "tern-and-diesel": ({"1_a.sql": TERN, "1_a/up.sql": ""}, "1_a/up.sql (diesel) and 1_a.sql (tern)"),
    "prisma-and-diesel-in-one-folder": (
        {"1_a/migration.sql": "", "1_a/up.sql": ""},
        "1_a/migration.sql (prisma) and 1_a/up.sql (diesel)",
    ),
    "drizzle-and-prisma": (
        {"meta/_journal.json": journal(a=1), "a.sql": "", "1_a/migration.sql": ""},
        "meta/_journal.json (drizzle) and 1_a/migration.sql (prisma)",
    ),
    "drizzle-and-flyway": (
        {"meta/_journal.json": journal(a=1), "a.sql": "", "V1__v.sql": ""},
        "meta/_journal.json (drizzle) and V1__v.sql (flyway)",
    ),
}


@pytest.mark.parametrize(("contents", "examples"), MEET.values(), ids=MEET)
def test_two_layouts_that_meet_are_refused_with_an_example_of_each(
    folder: Folder, contents: dict[str, str], examples: str
) -> None:
    path = folder(contents)

    message = refused(path)

    assert message == (
        f"two layouts meet in this folder: {examples}; keep the files of one of them, or say which one it is with "
        "MIGRATE_LAYOUT, and the others are not read"
    )


TWO_MARKERS = {
    "goose-then-dbmate": (
        GOOSE,
        DBMATE,
        "no `-- +goose Up` line, from which on goose runs a file; it has dbmate's: two layouts meet in this folder",
    ),
    "dbmate-then-goose": (
        DBMATE,
        GOOSE,
        "no `-- migrate:up` line, from which on dbmate runs a file; it has goose's: two layouts meet in this folder",
    ),
    "dbmate-then-tern": (
        DBMATE,
        TERN,
        "no `-- migrate:up` line, from which on dbmate runs a file; it has tern's: two layouts meet in this folder",
    ),
}


@pytest.mark.parametrize(("first", "second", "message"), TWO_MARKERS.values(), ids=TWO_MARKERS)
def test_markers_of_two_tools_are_refused(folder: Folder, first: str, second: str, message: str) -> None:
    path = folder({"1_a.sql": first, "2_b.sql": second})

    assert refused(path) == f"2_b.sql: {message}"


@pytest.mark.parametrize("tool", ["goose", "dbmate"])
@pytest.mark.parametrize("layout", ["plain", "tern"])
def test_markers_in_a_file_of_a_folder_without_are_refused(folder: Folder, layout: str, tool: str) -> None:
    path = folder({"1_a.sql": SQL if layout == "plain" else TERN, "2_b.sql": GOOSE if tool == "goose" else DBMATE})

    marker = "-- +goose Up" if tool == "goose" else "-- migrate:up"
    assert problems(path) == [
        (
            f"2_b.sql:1: this line is {tool}'s, but the folder is not: its first file tells its layout. Move the "
            f"part that "
            f"undoes the change to a file that ends in .down.sql, and take {tool}'s lines out; or set "
            f"MIGRATE_LAYOUT={tool}\n"
            f"  1 | {marker}\n    | ^"
        )
    ]


@pytest.mark.parametrize(
    ("contents", "wrong"),
    [
        (
            {"1_a/migration.sql": SQL, "2_b/up.sql": SQL},
            "2_b: this folder has no migration.sql; it has up.sql (diesel)",
        ),
        (
            {"1_a/up.sql": SQL, "2_b/migration.sql": SQL},
            "2_b: this folder has no up.sql; it has migration.sql (prisma)",
        ),
    ],
    ids=["prisma-then-diesel", "diesel-then-prisma"],
)
def test_folders_of_two_tools_are_refused(folder: Folder, contents: dict[str, str], wrong: str) -> None:
    assert refused(folder(contents)) == f"{wrong}: two layouts meet in this folder"


def test_setting_wins_over_what_the_folder_tells(folder: Folder) -> None:
    path = folder({"1_a.sql": GOOSE, "V1__a.sql": SQL, "1_b/migration.sql": SQL, "1_c/up.sql": SQL})

    assert found(path, "flyway") == {"V1__a.sql": 10**12}
    assert found(path, "tern") == {"1_a.sql": 1}
    assert refused(path, "goose") == (
        "V1__a.sql: not a migration's name; it begins with its version, as in 007_add_orders.sql"
    )
    assert refused(path, "plain") == f"V1__a.sql: not a migration's name; {files.HOW_TO_NAME}"


@pytest.mark.parametrize("layout", ["goose", "dbmate", "tern", "flyway", "prisma", "diesel", "drizzle"])
def test_folder_without_a_migration_of_the_layout_is_refused(folder: Folder, layout: str) -> None:
    path = folder({"README.md": ""})

    assert refused(path, layout) == f"{path}: no migration in this folder as {layout} has them; see MIGRATE_LAYOUT"


# --- what `check` says of it ------------------------------------------------------------------------------------


def test_check_names_the_layout_its_reason_and_the_files_that_are_not_read(folder: Folder, slipway: Slipway) -> None:
    path = folder({"1_a.sql": GOOSE, "NOTICE.md": "", "old/9_z.sql": ""})

    finished = slipway("check", env={}, migrations=path)

    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["message"] == "checked 1 migration, laid out as by goose (told by 1_a.sql): nothing wrong"
    assert " not read: NOTICE.md, old/\n" in finished.err


def test_check_names_a_layout_that_was_said_without_a_reason(folder: Folder, slipway: Slipway) -> None:
    path = folder({"V1__a.sql": SQL, "1_a.sql": SQL})

    finished = slipway("check", env={}, migrations=path, layout="flyway")

    assert finished.outcome
    assert finished.outcome["message"] == "checked 1 migration, laid out as by flyway: nothing wrong"
    assert " not read: 1_a.sql\n" in finished.err


def test_check_says_nothing_of_a_layout_where_it_is_plain(folder: Folder, slipway: Slipway) -> None:
    finished = slipway("check", env={}, migrations=folder({"1_a.sql": SQL, "NOTICE.md": ""}))

    assert finished.outcome
    assert finished.outcome["message"] == "checked 1 migration: nothing wrong"


# --- what is refused, whatever is applied -----------------------------------------------------------------------

REFUSED = {
    "goose-without-a-version": (
        {"1_a.sql": GOOSE, "b.sql": GOOSE},
        "b.sql: not a migration's name; it begins with its version, as in 007_add_orders.sql",
    ),
    "goose-without-an-underscore": (
        {"1_a.sql": GOOSE, "2.sql": GOOSE},
        "2.sql: not a migration's name; it begins with its version, as in 007_add_orders.sql",
    ),
    "goose-version-0": (
        {"0_a.sql": GOOSE},
        "0_a.sql: goose's versions begin with 1, and 0 stands for none; give it another one",
    ),
    "goose-twice": (
        {"1_a.sql": GOOSE, "01_b.go": ""},
        "version 1 is taken by 01_b.go and 1_a.sql; give each file a version of its own",
    ),
    "goose-down-file": (
        {"1_a.sql": GOOSE, "1_a.down.sql": GOOSE},
        "version 1 is taken by 1_a.down.sql and 1_a.sql; give each file a version of its own",
    ),
    "goose-large": (
        {"1_a.sql": GOOSE, "9223372036854775808_b.sql": GOOSE},
        "9223372036854775808_b.sql: the version is too large; the largest is 9223372036854775807",
    ),
    "dbmate-zeros": (
        {"1_a.sql": DBMATE, "01_b.sql": DBMATE},
        "version 1 is taken by 01_b.sql and 1_a.sql; give each file a version of its own",
    ),
    "tern-twice": (
        {"001_a.sql": TERN, "1_b.sql": TERN},
        "version 1 is taken by 001_a.sql and 1_b.sql; give each file a version of its own",
    ),
    "flyway-repeatable": (
        {"V1__a.sql": SQL, "sub/r__v.sql": SQL, "sub/R__.sql": SQL, "R_v.sql": SQL},
        "\n".join(
            f"{name}: not a repeatable file's name; name it R__<description>.sql, such as R__views.sql"
            for name in ("R_v.sql", "sub/R__.sql", "sub/r__v.sql")
        ),
    ),
    "flyway-baseline": (
        {"V1__a.sql": SQL, "B1__a.sql": SQL, "B2.sql": SQL},
        (
            "B1__a.sql: a baseline migration of Flyway's, which pgslipway does not run; make a V file of it\n"
            "B2.sql: a baseline migration of Flyway's, which pgslipway does not run; make a V file of it"
        ),
    ),
    "flyway-callbacks": (
        {
            "V1__a.sql": SQL,
            "sub/beforeMigrate.sql": SQL,
            "afterEachMigrate__grants.sql": SQL,
            "createSchema.sql": SQL,
            "aftermath.sql": SQL,
            "after.sql": SQL,
            "afterAll2.sql": SQL,
        },
        (
            "afterEachMigrate__grants.sql: a callback of Flyway's, which pgslipway does not run; put its SQL into the "
            "migrations\n"
            "createSchema.sql: a callback of Flyway's, which pgslipway does not run; put its SQL into the migrations\n"
            "sub/beforeMigrate.sql: a callback of Flyway's, which pgslipway does not run; put its SQL into the "
            "migrations"
        ),
    ),
    "flyway-undoes-nothing": (
        {"V1__a.sql": SQL, "U1.0__a.sql": SQL, "U2__b.sql": SQL, "U__c.sql": SQL},
        (
            "U2__b.sql: no V file has this version, so it is nothing that undoes one; refinery's U files may "
            "become V files\n"
            "U__c.sql: no V file has this version, so it is nothing that undoes one; refinery's U files may "
            "become V files"
        ),
    ),
    "flyway-version-missing": (
        {"V__x.sql": SQL},
        (
            "V__x.sql: a version is numbers with dots or underscores in between, such as 1.2; name it "
            "V<version>__<description>.sql, such as V1.2__orders.sql"
        ),
    ),
    "flyway-one-underscore": (
        {"V1_x.sql": SQL},
        (
            "V1_x.sql: a version is numbers with dots or underscores in between, such as 1.2; name it "
            "V<version>__<description>.sql, such as V1.2__orders.sql"
        ),
    ),
    "flyway-five-parts": (
        {"V1.2.3.4.5__x.sql": SQL},
        (
            "V1.2.3.4.5__x.sql: after 1 a version may have 3 more numbers, each below 10000; name it "
            "V<version>__<description>.sql, such as V1.2__orders.sql"
        ),
    ),
    "flyway-date-with-two-parts": (
        {"V20260131.1.1__x.sql": SQL},
        (
            "V20260131.1.1__x.sql: after 20260131 a version may have 1 more number, each below 10000; name it "
            "V<version>__<description>.sql, such as V1.2__orders.sql"
        ),
    ),
    "flyway-19-digits": (
        {f"V{10**18}__x.sql": SQL},
        (
            f"V{10**18}__x.sql: the first number of a version has at most 18 digits; name it "
            "V<version>__<description>.sql, such as V1.2__orders.sql"
        ),
    ),
    "flyway-same-version": (
        {"V1__a.sql": SQL, "V01.0__b.sql": SQL, "V1_0_0__c.sql": SQL, "sub/V1__d.sql": SQL, "V1__e.sql": SQL},
        (
            f"version {10**12} is taken by V01.0__b.sql and V1_0_0__c.sql and V1__a.sql and V1__e.sql and "
            f"sub/V1__d.sql; "
            "give each file a version of its own"
        ),
    ),
    "prisma-without-its-file": (
        {"1_a/migration.sql": SQL, "2_b/README.md": ""},
        "2_b: this folder has no migration.sql; remove it, or add the file",
    ),
    "prisma-without-a-version": (
        {"init/migration.sql": SQL},
        "init/migration.sql: the folder's name must begin with its version, as in 20260131120000_orders",
    ),
    "prisma-zeros": (
        {"1_a/migration.sql": SQL, "01_a/migration.sql": SQL},
        "version 10 is taken by 01_a/migration.sql and 1_a/migration.sql; give each file a version of its own",
    ),
    "prisma-tenth": (
        {f"1_{letter}/migration.sql": SQL for letter in "abcdefghijk"},
        (
            "1_j/migration.sql: 9 folders before this one begin with the same digits; give it other ones\n"
            "1_k/migration.sql: 9 folders before this one begin with the same digits; give it other ones"
        ),
    ),
    "prisma-large": (
        {f"{10**18}_a/migration.sql": SQL},
        f"{10**18}_a/migration.sql: the version is too large; the largest is 9223372036854775807",
    ),
    "diesel-without-its-file": (
        {"1_a/up.sql": SQL, "2_b/down.sql": SQL},
        "2_b: this folder has no up.sql; remove it, or add the file",
    ),
    "diesel-letters": (
        {"a_1/up.sql": SQL},
        (
            "a_1/up.sql: a version is at most 18 digits, with dashes as one likes; name the folder as in "
            "2026-01-31-120000_orders"
        ),
    ),
    "diesel-19-digits": (
        {"2026013112000012345_a/up.sql": SQL},
        (
            "2026013112000012345_a/up.sql: a version is at most 18 digits, with dashes as one likes; name the "
            "folder as in "
            "2026-01-31-120000_orders"
        ),
    ),
    "diesel-zeros-on-the-right": (
        {"1_a/up.sql": SQL, "10_b/up.sql": SQL, "1-0-0_c/up.sql": SQL},
        (
            f"version {10**17} is taken by 1-0-0_c/up.sql and 10_b/up.sql and 1_a/up.sql; give each file a "
            f"version of its own"
        ),
    ),
    "drizzle-file-missing": (
        {"meta/_journal.json": journal(a=1, b=2), "b.sql": SQL},
        "meta/_journal.json: names a.sql, which is not there; put the file back, or take the entry out",
    ),
    "drizzle-same-moment": (
        {"meta/_journal.json": journal(a=1, b=1), "a.sql": SQL, "b.sql": SQL},
        "version 1 is taken by a.sql and b.sql; give each file a version of its own",
    ),
    "drizzle-folder-without-a-moment": (
        {"1_a/migration.sql": SQL, "1_a/snapshot.json": ""},
        (
            "1_a/migration.sql: a version is 14 digits, the moment to the second; name the folder as in "
            "20260131120000_orders"
        ),
    ),
    "drizzle-folder-with-a-moment-that-never-was": (
        {
            f"{moment}_a/{name}": ""
            for name in ("migration.sql", "snapshot.json")
            for moment in (20260229000000, 20261301000000, 20260131240000, 19691231235959, 20260132000000)
        },
        "\n".join(
            f"{moment}_a/migration.sql: a version is a moment of the calendar from 1970 on, to the second; name "
            f"the folder "
            "as in 20260131120000_orders"
            for moment in (19691231235959, 20260131240000, 20260132000000, 20260229000000, 20261301000000)
        ),
    ),
}


@pytest.mark.parametrize(("contents", "message"), REFUSED.values(), ids=REFUSED)
def test_name_that_the_layout_cannot_have_is_refused(folder: Folder, contents: dict[str, str], message: str) -> None:
    assert refused(folder(contents)) == message


# --- what is refused of a pending file --------------------------------------------------------------------------

CODE = "a migration in code, which pgslipway does not run; apply it with {}, or make it SQL"
PLACEHOLDER = (
    "Flyway's own placeholders, and others than a name of letters, digits and _ that begins with no digit and does not "
    "end in _file, have no value here; write it"
)
PENDING = {
    "goose-in-go": (
        {"1_a.sql": GOOSE, "2_b.go": "package m\n\n// it's one\nfunc init() {}"},
        f"2_b.go:1: {CODE.format('goose')}\n  1 | package m\n    | ^",
    ),
    "goose-variables": (
        {"1_a.sql": "-- +goose Up\n-- +goose ENVSUB ON\nSELECT '${X}';\n-- +goose ENVSUB OFF\n"},
        (
            "1_a.sql:2: ENVSUB: goose would put variables in here; write their values\n"
            "  2 | -- +goose ENVSUB ON\n    | ^"
        ),
    ),
    "goose-misspelt": (
        {"1_a.sql": "-- +goose Up\nSELECT 1;\n-- goose Down\nDROP TABLE a;"},
        (
            "1_a.sql:3: goose takes this for a comment, and goes on; its markers are `-- +goose Up` and `-- "
            "+goose Down`\n"
            "  3 | -- goose Down\n    | ^"
        ),
    ),
    "tern-template": (
        {"1_a.sql": "SELECT 1;\n  GRANT a TO {{.role}};\n---- create above / drop below ----\n{{.b}}"},
        (
            "1_a.sql:2: a template of tern's, which pgslipway does not fill in; write what it becomes\n"
            "  2 |   GRANT a TO {{.role}};\n    |              ^"
        ),
    ),
    "tern-misspelt": (
        {"1_a.sql": TERN, "2_b.sql": "SELECT 1;\n---- create above / drop bellow ----\nDROP TABLE a;"},
        (
            "2_b.sql:2: tern takes this for a comment, and goes on; its markers are "
            "`---- create above / drop below ----` and `---- tern: disable-tx ----`\n"
            "  2 | ---- create above / drop bellow ----\n    | ^"
        ),
    ),
    "tern-mark-misspelt": (
        {"1_a.sql": TERN, "2_b.sql": "---- tern: disable-transaction ----\nSELECT 1;"},
        (
            "2_b.sql:1: tern takes this for a comment, and goes on; its markers are "
            "`---- create above / drop below ----` and `---- tern: disable-tx ----`\n"
            "  1 | ---- tern: disable-transaction ----\n    | ^"
        ),
    ),
    "flyway-placeholder": (
        {"V1__a.sql": "SELECT 1;\nSELECT '${flyway:timestamp}'\n"},
        f"V1__a.sql:2: {PLACEHOLDER}\n  2 | SELECT '${{flyway:timestamp}}'\n    |         ^",
    ),
    "flyway-in-java": (
        {"V1__a.sql": SQL, "V2__b.java": "'"},
        f"V2__b.java:1: {CODE.format('flyway')}\n  1 | '\n    | ^",
    ),
    "refinery-in-rust": (
        {"V1__a.sql": SQL, "V2__b.rs": "//"},
        f"V2__b.rs:1: {CODE.format('refinery')}\n  1 | //\n    | ^",
    ),
    "flyway-conf": (
        {"V1__a.sql": "SELECT 1", "V1__a.sql.conf": "# a\r\nencoding=UTF-8\r\nshouldExecute=${x}==1\r\n"},
        "V1__a.sql:1: V1__a.sql.conf asks for shouldExecute=${x}==1, which has no effect here\n  1 | SELECT 1\n    | ^",
    ),
    "flyway-conf-misspelt": (
        {"V1__a.sql": "SELECT 1", "V1__a.sql.conf": "executeInTransaction=flase"},
        (
            "V1__a.sql:1: V1__a.sql.conf asks for executeInTransaction=flase, which has no effect here\n"
            "  1 | SELECT 1\n    | ^"
        ),
    ),
    "flyway-conf-is-a-folder": (
        {"V1__a.sql": "SELECT 1", "V1__a.sql.conf/x": ""},
        "V1__a.sql:1: V1__a.sql.conf beside it cannot be read: Is a directory\n  1 | SELECT 1\n    | ^",
    ),
    "diesel-metadata": (
        {"1_a/up.sql": "SELECT 1", "1_a/metadata.toml": "run_in_transaction = no"},
        (
            "1_a/up.sql:1: metadata.toml beside it is not TOML: Invalid value (at line 1, column 22)\n"
            "  1 | SELECT 1\n    | ^"
        ),
    ),
    "diesel-metadata-text": (
        {"1_a/up.sql": "SELECT 1", "1_a/metadata.toml": 'run_in_transaction = "false"'},
        "1_a/up.sql:1: metadata.toml beside it: run_in_transaction must be true or false\n  1 | SELECT 1\n    | ^",
    ),
    "minimum-version": (
        {"V1.2__a.sql": "-- minimum-version: 1.10\n"},
        "V1.2__a.sql: minimum-version: 1.10 must be a version that is not above the file's own, 1.2",
    ),
    "error-in-the-up-part": (
        {"1_a.sql": "-- a\n-- +goose Up\n\nSELECT 1;\n  COMMIT;\nSELECT 2;\n-- +goose Down\nCOMMIT;"},
        (
            "1_a.sql:5: COMMIT: a file is one transaction already; remove it (SAVEPOINT and ROLLBACK TO are fine)\n"
            "  5 |   COMMIT;\n    |   ^"
        ),
    ),
    "up-part-ends-in-a-string": (
        {"1_a.sql": "-- +goose Up\nSELECT '\n-- +goose Down\n';"},
        (
            "1_a.sql:2: the string that begins here is never closed; a quote inside a string is written twice: ''\n"
            "  2 | SELECT '\n    |        ^"
        ),
    ),
}


@pytest.mark.parametrize(("contents", "message"), PENDING.values(), ids=PENDING)
def test_wish_that_is_not_granted_is_refused_in_a_pending_file(
    folder: Folder, contents: dict[str, str], message: str
) -> None:
    assert problems(folder(contents)) == [message]


FINE = {
    "flyway-placeholders-off": {"V1__a.sql": "SELECT '${a}';", "V1__a.sql.conf": "placeholderReplacement = false"},
    "flyway-conf": {
        "V1__a.sql": "SELECT 1;",
        "V1__a.sql.conf": b"\xef\xbb\xbfencoding=utf8\n! a\n\nexecuteInTransaction: true",
    },
    "flyway-minimum-version": {"V1.10__a.sql": "-- minimum-version: 1.2\nSELECT 1;"},
    "diesel-metadata": {"1_a/up.sql": "SELECT 1;", "1_a/metadata.toml": "other = 1"},
    "tern-comments": {"1_a.sql": TERN, "2_b.sql": "-- drop below-average rows\n-- create above all a table\nSELECT 1;"},
    "goose-comments": {"1_a.sql": "-- +goose Up\n-- geese go up\nSELECT 1;"},
    "goose-down-part": {"1_a.sql": "-- +goose Up\n-- +goose Down\n-- +goose ENVSUB ON\nCOMMIT; '"},
    "template-of-a-down-part": {"1_a.sql": "---- create above / drop below ----\n{{.a}}"},
    "dbmate-down-part": {"1_a.sql": "-- migrate:up\n-- migrate:down\nCOMMIT; '"},
    "ends-with-commit": {"1_a/migration.sql": "SELECT 1;\nCOMMIT;"},
}


@pytest.mark.parametrize("contents", FINE.values(), ids=FINE)
def test_nothing_is_said_of_what_is_fine(folder: Folder, contents: dict[str, str | bytes]) -> None:
    assert problems(folder(contents)) == []


# --- without a transaction --------------------------------------------------------------------------------------

INDEX = "CREATE INDEX CONCURRENTLY i ON a (b);"
OUTSIDE = {
    "goose": {"1_a.sql": f"-- +goose NO TRANSACTION\n-- +goose Up\n{INDEX}\n"},
    "goose-in-the-down-part": {"1_a.sql": f"-- +goose Up\n{INDEX}\n-- +goose Down\n-- +goose no  transaction\n"},
    "goose-bom-crlf": {"1_a.sql": f"\ufeff-- +goose NO TRANSACTION\r\n-- +goose Up\r\n{INDEX}\r\n"},
    "goose-down-part-not-utf-8": {
        "1_a.sql": b"-- +goose Up\n%b\n-- +goose Down\n-- \xff\n-- +goose NO TRANSACTION\n" % INDEX.encode()
    },
    "dbmate": {"1_a.sql": f"-- migrate:up transaction:false\n{INDEX}\n-- migrate:down\n"},
    "dbmate-bom-crlf": {"1_a.sql": f"\ufeff-- migrate:up\ttransaction:false\r\n{INDEX}\r\n-- migrate:down\r\n"},
    "dbmate-more-options": {"1_a.sql": f"--migrate:up a:b transaction:false c:d\n{INDEX}\n-- migrate:down\n"},
    "tern": {"1_a.sql": f"---- tern: disable-tx ----\n{INDEX}\n---- create above / drop below ----\n"},
    "tern-bom-crlf": {"tern.conf": "", "1_a.sql": f"\ufeff---- tern: disable-tx ----\r\n{INDEX}\r\n"},
    "flyway-conf": {"V1__a.sql": "SELECT 1;", "V1__a.sql.conf": "executeInTransaction=false"},
    "flyway-finds-out": {"V1__a.sql": f"-- a\n{INDEX}"},
    "flyway-finds-vacuum": {"V1__a.sql": "VACUUM a;"},
    "flyway-finds-reindex": {"V1__a.sql": "REINDEX SCHEMA public;"},
    "prisma-finds-out": {"1_a/migration.sql": INDEX},
    "diesel": {"1_a/up.sql": INDEX, "1_a/metadata.toml": "run_in_transaction = false"},
    "ours": {"1_a.sql": f"-- no-transaction\n-- +goose Up\n{INDEX}"},
}
WITHIN = {
    "goose": {"1_a.sql": "-- +goose Up\nSELECT '-- +goose NO TRANSACTION';"},
    "dbmate": {"1_a.sql": "-- migrate:up transaction:true\nSELECT 1;\n-- migrate:down transaction:false\n"},
    "dbmate-misspelt": {"1_a.sql": "-- migrate:up transaction:falsey\nSELECT 1;\n-- migrate:down\n"},
    "tern-in-the-down-part": {"1_a.sql": f"{TERN}---- tern: disable-tx ----\n"},
    "flyway": {"V1__a.sql": "SELECT 'VACUUM';", "V1__a.sql.conf": "executeInTransaction=true"},
    "diesel": {"1_a/up.sql": "SELECT 1;", "1_a/metadata.toml": "run_in_transaction = true"},
    "drizzle": {"meta/_journal.json": journal(a=1), "a.sql": "SELECT 1;\n--> statement-breakpoint\nSELECT 2;"},
}


@pytest.mark.parametrize("contents", OUTSIDE.values(), ids=OUTSIDE)
def test_mark_of_the_tool_takes_a_file_out_of_its_transaction(folder: Folder, contents: dict[str, str | bytes]) -> None:
    [migration] = migrations(folder(contents))

    found = check(migration, migration.read())

    assert (found.transactional, found.problems) == (False, [])


@pytest.mark.parametrize("contents", WITHIN.values(), ids=WITHIN)
def test_file_without_such_a_mark_is_one_transaction(folder: Folder, contents: dict[str, str]) -> None:
    [migration] = migrations(folder(contents))

    found = check(migration, migration.read())

    assert (found.transactional, found.problems) == (True, [])


@pytest.mark.parametrize("layout", ["goose", "dbmate", "tern", "diesel", "drizzle"])
def test_tool_that_finds_nothing_out_by_itself_needs_the_mark(folder: Folder, layout: str) -> None:
    contents = {
        "goose": {"1_a.sql": f"-- +goose Up\n{INDEX}"},
        "dbmate": {"1_a.sql": f"-- migrate:up\n{INDEX}\n-- migrate:down\n"},
        "tern": {"1_a.sql": INDEX},
        "diesel": {"1_a/up.sql": INDEX},
        "drizzle": {"meta/_journal.json": journal(a=1), "a.sql": INDEX},
    }[layout]

    [said] = problems(folder(contents), layout)

    assert "CREATE INDEX CONCURRENTLY cannot run inside a transaction; " in said


# --- links ------------------------------------------------------------------------------------------------------

MOUNTED = {
    "prisma": "1_a/migration.sql",
    "diesel": "1_a/up.sql",
    "flyway": "sub/V1__a.sql",
    "drizzle": "meta/_journal.json",
}


@pytest.mark.parametrize(("layout", "name"), MOUNTED.items(), ids=MOUNTED)
def test_config_map_whose_items_make_folders_is_read_through_its_links(tmp_path: Path, layout: str, name: str) -> None:
    base, _, file = name.partition("/")
    data = tmp_path / "..2026_01_31_12_00_00.123456789"
    (data / base).mkdir(parents=True)
    (data / base / file).write_text(journal(a=1) if layout == "drizzle" else SQL)
    (data / "a.sql").write_text(SQL)
    (tmp_path / "..data").symlink_to(data.name)
    (tmp_path / base).symlink_to(f"..data/{base}")
    if layout == "drizzle":
        (tmp_path / "a.sql").symlink_to("..data/a.sql")

    told = files.discover(str(tmp_path))

    assert (told.layout, told.decided_by) == (layout, name)
    assert [one[1] for one in told.found] == ["a.sql" if layout == "drizzle" else name]


NOWHERE = {
    "prisma": "1_a/migration.sql",
    "diesel": "1_a/up.sql",
    "flyway": "V1__a.sql",
    "flyway-deep": "sub/V1__a.sql",
}


@pytest.mark.parametrize("target", ["nowhere", "2_b"], ids=["nowhere", "loop"])
@pytest.mark.parametrize("name", NOWHERE.values(), ids=NOWHERE)
def test_link_that_may_have_been_a_folder_is_refused_if_it_leads_nowhere(
    folder: Folder, name: str, target: str
) -> None:
    path = folder({name: SQL})
    link = f"{name.partition('/')[0]}/2_b" if name == NOWHERE["flyway-deep"] else "2_b"
    (path / link).symlink_to(target)

    cause = "Too many levels of symbolic links" if target == "2_b" else "No such file or directory"
    assert refused(path, "flyway" if "V1" in name else "auto") == (
        f"{link}: a link that leads nowhere: {cause}; mend it, or remove it"
    )


@pytest.mark.parametrize("layout", ["plain", "goose", "dbmate", "tern"])
def test_link_that_leads_nowhere_is_no_matter_where_no_folder_is_read(folder: Folder, layout: str) -> None:
    path = folder({"1_a.sql": {"goose": GOOSE, "dbmate": DBMATE, "tern": TERN}.get(layout, SQL), "more/2_b.sql": SQL})
    for name in ("loop", "more/loop"):
        (path / name).symlink_to("loop")

    told = files.discover(str(path))

    assert (told.layout, [one[1] for one in told.found]) == (layout, ["1_a.sql"])
    assert told.ignored == (["more/"] if layout == "plain" else ["loop", "more/"])


def test_link_in_a_circle_beside_plain_files_is_no_matter(folder: Folder) -> None:
    path = folder({"1_a.sql": SQL})
    (path / "loop").symlink_to("loop")

    assert found(path) == {"1_a.sql": 1}


def test_file_that_is_a_link_to_itself_is_refused(folder: Folder) -> None:
    path = folder({"1_a/migration.sql": SQL, "2_b/README.md": ""})
    (path / "2_b" / "migration.sql").symlink_to("migration.sql")

    assert refused(path) == "2_b/migration.sql: cannot be read: Too many levels of symbolic links"


def test_folder_is_entered_once_however_many_links_lead_to_it(folder: Folder) -> None:
    path = folder({f"f{number}/V{number}__a.sql": SQL for number in range(1, 13)})
    for one in range(1, 13):
        for other in range(1, 13):  # 12! ways through them
            (path / f"f{one}" / f"to{other}").symlink_to(f"../f{other}")
    (path / "f1" / "up").symlink_to("..")

    assert sorted(found(path).values()) == [number * 10**12 for number in range(1, 13)]


def test_folder_that_is_nested_deeply_is_read(folder: Folder) -> None:
    path, deep = folder({}), "d/" * 1500  # deeper than functions may call each other
    subprocess.run(["mkdir", "-p", deep], cwd=path, check=True)  # pathlib cannot, nor can pytest remove it
    (path / f"{deep}V1__a.sql").touch()
    try:
        names = list(found(path))
    finally:
        subprocess.run(["rm", "-r", "d"], cwd=path, check=True)

    assert names == [f"{deep}V1__a.sql"]


# --- real folders -----------------------------------------------------------------------------------------------

REAL_FOLDERS = {
    "goose/e2b-infra": ("goose", 131, []),
    "tern/discord-signup-bot": ("tern", 7, ["tern.conf"]),
    "tern/tpr": ("tern", 11, ["func/", "tern.conf"]),
    "flyway/kestra": ("flyway", 26, []),
    "drizzle/zero": ("drizzle", 26, ["0025_far_echo.sql"]),
    "prisma/hoppscotch": ("prisma", 21, []),
    "sqlx/docs.rs": ("plain", 33, []),
}


@pytest.mark.skipif(not REAL.is_dir(), reason="the folders of real products are not in this clone")
@pytest.mark.parametrize(("name", "layout", "number", "ignored"), [(k, *v) for k, v in REAL_FOLDERS.items()])
def test_real_folder_tells_its_layout(name: str, layout: str, number: int, ignored: list[str]) -> None:
    told = files.discover(str(REAL / name))

    assert (told.layout, len(told.found)) == (layout, number)
    assert [one for one in told.ignored if one != "NOTICE.md"] == ignored


# --- what it costs ----------------------------------------------------------------------------------------------

NUMBER = 120
USUAL = {
    "plain": lambda number: {f"{number:03}_a.sql": SQL},
    "goose": lambda number: {f"{number:03}_a.sql": GOOSE},
    "dbmate": lambda number: {f"{number:03}_a.sql": DBMATE},
    "tern": lambda number: {f"{number:03}_a.sql": TERN},
    "flyway": lambda number: {f"V{number // 10 + 1}.{number % 10}__a.sql": SQL},
    "prisma": lambda number: {f"{number + 20260101000000}_a/migration.sql": SQL},
    "diesel": lambda number: {f"2026-01-01-000{number:03}_a/up.sql": SQL},
    "drizzle": lambda number: {f"{number:03}_a.sql": SQL},
}
"""The file with a number, as nearly everybody has it."""


def costs(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, dict[str, int]]:
    """Return the instructions for each file, and how often each function of the system is called for each."""
    taken = steps(lambda: files.discover(str(path)))
    calls = Calls()
    with monkeypatch.context() as patched:
        for module in (files, entries):
            patched.setattr(module, "posix", calls)
        assert len(files.discover(str(path)).found) == NUMBER
    return taken / NUMBER, {name: count // NUMBER for name, count in calls.counted.items() if count >= NUMBER}


@pytest.mark.parametrize("layout", sorted(USUAL.keys() - {"plain"}))
def test_layout_costs_little_more_than_plain(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {one: tmp_path / one for one in ("plain", layout)}
    for one, path in paths.items():
        contents = {name: text for number in range(1, NUMBER + 1) for name, text in USUAL[one](number).items()}
        if one == "drizzle":
            contents["meta/_journal.json"] = journal(**{f"{number:03}_a": number for number in range(1, NUMBER + 1)})
        for name, text in contents.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
    plain, plain_calls = costs(paths["plain"], monkeypatch)

    taken, calls = costs(paths[layout], monkeypatch)

    assert plain_calls == {"open": 1, "read": 2, "close": 1}
    assert calls == plain_calls  # they are most of the time
    assert taken < 2 * plain
