"""The folder of migrations: which files count, and what is said of the rest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from pgslipway.errors import BadMigrations
from pgslipway.files import CHUNK, LARGE
from pgslipway.migrations import discover

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Slipway

HOW_TO = "name it <version>_<description>.sql, such as 007_add_orders.sql"
LARGEST = 2**63 - 1
NAMES = {
    "digits": ("001_extensions.sql", 1),
    "without-zeros": ("1_a.sql", 1),
    "timestamp-up": ("20260131120000_add_users.up.sql", 20260131120000),
    "version-0": ("0_first.sql", 0),
    "version-000": ("000_first.sql", 0),
    "largest": (f"{LARGEST}_a.sql", LARGEST),
    "spaces": ("1_a b.sql", 1),
    "dots": ("1_a.b.sql", 1),
    "not-ascii": ("1_größe_😀.sql", 1),
    "percent": ("1_100%_{}.sql", 1),
    "second-underscore": ("1__.sql", 1),
}
IGNORED = {
    "down": "001_a.down.sql",
    "down-upper-case": "001_a.DOWN.SQL",
    "hidden": ".001_a.sql",
    "hidden-nonsense": ".a.sql.swp.sql",
    "other-suffix": "001_a.sql.bak",
    "readme": "README.md",
    "no-suffix": "001_a",
    "keep": ".gitkeep",
}
BAD_NAMES = {
    "no-version": "a.sql",
    "no-description": "001.sql",
    "empty-description": "001_.sql",
    "dash": "001-a.sql",
    "letter-in-version": "001a_b.sql",
    "negative": "-1_a.sql",
    "version-last": "a_001.sql",
    "suffix-upper-case": "001_a.SQL",
    "only-suffix": "_.sql",
    "digits-not-ascii": "\u0660\u0661_a.sql",
    "space-before": " 1_a.sql",
    "fraction": "1.5_a.sql",
}
UNPRINTABLE = {
    "line-end": (b"1_a\nb.sql", r"'1_a\nb.sql'"),
    "escape": (b"1_\x1b[31m.sql", r"'1_\x1b[31m.sql'"),
    "not-utf-8": (b"1_\xff.sql", r"'1_\udcff.sql'"),
    "right-to-left": ("1_\u202elqs.sql".encode(), r"'1_\u202elqs.sql'"),
    "without-a-version": (b"\x07.sql", r"'\x07.sql'"),
}


def refused(path: Path) -> str:
    with pytest.raises(BadMigrations) as caught:
        discover(path)
    return str(caught.value)


@pytest.mark.parametrize(("name", "version"), NAMES.values(), ids=NAMES)
def test_name_gives_the_version(folder: Folder, name: str, version: int) -> None:
    path = folder({name: "SELECT 1"})

    [migration] = discover(path)

    assert (migration.version, migration.filename, migration.path) == (version, name, str(path / name))


@pytest.mark.parametrize("name", IGNORED.values(), ids=IGNORED)
def test_entry_that_is_no_migration_is_left_alone(folder: Folder, name: str) -> None:
    path = folder({"002_b.sql": "", name: "\xff"})

    found = discover(path)

    assert [migration.filename for migration in found] == ["002_b.sql"]


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_name_that_does_not_fit_is_refused(folder: Folder, name: str) -> None:
    path = folder({"002_b.sql": "", name: ""})

    message = refused(path)

    assert message == f"{name}: not a migration's name; {HOW_TO}"


@pytest.mark.parametrize(("name", "shown"), UNPRINTABLE.values(), ids=UNPRINTABLE)
def test_name_that_cannot_be_printed_is_shown_in_ascii(tmp_path: Path, name: bytes, shown: str) -> None:
    with open(bytes(tmp_path) + b"/" + name, "wb"):  # noqa: PTH123  # the name is bytes
        pass

    message = refused(tmp_path)

    assert message == f"{shown}: not a migration's name; {HOW_TO}"


@pytest.mark.parametrize("version", [str(LARGEST + 1), "9" * 100], ids=["one-more", "many-digits"])
def test_version_above_bigint_is_refused(folder: Folder, version: str) -> None:
    path = folder({f"{version}_a.sql": ""})

    message = refused(path)

    assert message == f"{version}_a.sql: the version is too large; the largest is {LARGEST}"


def test_zeros_do_not_make_a_version_large(folder: Folder) -> None:
    path = folder({f"{'0' * 30}7_a.sql": ""})

    [migration] = discover(path)

    assert migration.version == 7


def test_migrations_come_by_ascending_version(folder: Folder) -> None:
    path = folder(dict.fromkeys(["10_b.sql", "9_c.sql", "011_a.sql", "0_z.sql", "20260131120000_d.sql"], ""))

    versions = [migration.version for migration in discover(path)]

    assert versions == [0, 9, 10, 11, 20260131120000]


def test_every_bad_file_is_named_at_once(folder: Folder) -> None:
    path = folder({"1_a.sql": "", "001_b.sql": "", "2_c.sql": "", "02_d.sql": "", "2_e.up.sql": "", "x.sql": ""})
    (path / "3_f.sql").mkdir()
    (path / "4_g.sql").write_bytes(b"SELECT 1;\n-- \xe9\n")

    message = refused(path)

    assert message.splitlines() == [
        f"3_f.sql: not a file; {path}/3_f.sql must be a regular file or a link to one",
        "4_g.sql:2: not UTF-8; save the file as UTF-8",
        f"x.sql: not a migration's name; {HOW_TO}",
        "version 1 is taken by 001_b.sql and 1_a.sql; give each file a version of its own",
        "version 2 is taken by 02_d.sql and 2_c.sql and 2_e.up.sql; give each file a version of its own",
    ]


def test_broken_link_is_refused(folder: Folder) -> None:
    path = folder({})
    (path / "1_a.sql").symlink_to("nowhere.sql")

    message = refused(path)

    assert message == f"1_a.sql: not a file; {path}/1_a.sql must be a regular file or a link to one"


def test_link_in_a_circle_is_refused(folder: Folder) -> None:
    path = folder({})
    (path / "1_a.sql").symlink_to("1_a.sql")

    message = refused(path)

    assert message.startswith("1_a.sql: ")


def test_unreadable_file_is_refused(folder: Folder, slipway: Slipway) -> None:
    path = folder({"1_a.sql": "SELECT 1"})
    (path / "2_b.sql").symlink_to("/proc/self/mem")  # even root reads nothing at its beginning

    finished = slipway("check", env={}, migrations=path)

    assert finished.code == 21, str(finished)
    assert finished.outcome is not None
    assert finished.outcome["message"] == "2_b.sql: cannot be read: Input/output error"


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path / "nowhere")

    assert message == f"{tmp_path}/nowhere: No such file or directory; MIGRATE_DIR must be the folder of migrations"


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()

    message = refused(tmp_path / "a")

    assert message == f"{tmp_path}/a: Not a directory; MIGRATE_DIR must be the folder of migrations"


@pytest.mark.parametrize("files", [{}, {"README.md": "", "1_a.down.sql": ""}], ids=["empty", "no-migration-in-it"])
def test_folder_without_a_migration_is_refused(folder: Folder, files: dict[str, str]) -> None:
    path = folder(files)

    message = refused(path)

    assert message == f"{path}: no migration in this folder; {HOW_TO}"


def test_subfolders_are_left_alone(folder: Folder) -> None:
    path = folder({"1_a.sql": ""})
    (path / "more").mkdir()
    (path / "more" / "2_b.sql").touch()

    versions = [migration.version for migration in discover(path)]

    assert versions == [1]


def test_mounted_config_map_is_read_through_its_links(tmp_path: Path) -> None:
    (data := tmp_path / "..2026_01_31_12_00_00.123456789").mkdir()
    (data / "001_a.sql").write_text("SELECT 1")
    (tmp_path / "..data").symlink_to(data.name)
    (tmp_path / "001_a.sql").symlink_to("..data/001_a.sql")

    [migration] = discover(tmp_path)

    assert (migration.filename, migration.read()) == ("001_a.sql", b"SELECT 1")


SAME = {"bom": b"\xef\xbb\xbfSELECT 1;\n-- \xc3\xa9\n", "crlf": b"SELECT 1;\r\n-- \xc3\xa9\r\n",
        "both": b"\xef\xbb\xbfSELECT 1;\r\n-- \xc3\xa9\n", "cr": b"SELECT 1;\r-- \xc3\xa9\r"}  # fmt: skip
CHECKED = "SELECT 1;\n-- é\n"


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_checksum_is_of_the_text_and_not_of_its_encoding(folder: Folder, content: bytes) -> None:
    path = folder({"1_a.sql": content, "2_b.sql": CHECKED, "3_c.sql": CHECKED.replace("1", "2")})

    same, plain, other = (migration.checksum for migration in discover(path))

    assert same == plain == hashlib.sha256(CHECKED.encode()).hexdigest()
    assert other != plain


@pytest.mark.parametrize("size", [65535, 65536, 65537, LARGE + CHUNK - 1, LARGE + CHUNK, LARGE + CHUNK + 1, 2_000_000])
def test_checksum_of_a_large_file_does_not_depend_on_where_it_is_cut(folder: Folder, size: int) -> None:
    path = folder({"1_a.sql": b"-" * (size - 2) + b"\xc3\xa9\r\n", "2_b.sql": b"-" * (size - 2) + b"\xc3\xa9\n"})

    dos, unix = discover(path)

    assert dos.checksum == unix.checksum == hashlib.sha256((path / "2_b.sql").read_bytes()).hexdigest()


NOT_UTF_8 = {"latin-1": (b"SELECT 1;\n\nSELECT '\xe9';\n", 3), "utf-16": ("SELECT 1".encode("utf-16"), 1),
             "surrogate": (b"\n\xed\xa0\x80", 2), "cut-off": (b"\r\n\r\n--\xc3", 3)}  # fmt: skip


@pytest.mark.parametrize(("content", "line"), NOT_UTF_8.values(), ids=NOT_UTF_8)
def test_file_that_is_not_utf_8_is_refused_with_its_line(folder: Folder, content: bytes, line: int) -> None:
    path = folder({"1_a.sql": content})

    message = refused(path)

    assert message == f"1_a.sql:{line}: not UTF-8; save the file as UTF-8"
