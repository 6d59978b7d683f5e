"""The up part of a file that has two parts: between which bytes it lies, its checksum, and what is refused."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from pgslipway import files
from pgslipway.engine.check import check
from pgslipway.errors import BadMigrations, FilesChanged
from pgslipway.migrations import migrations_in

if TYPE_CHECKING:
    from conftest import Folder
    from pgslipway.migrations import Migration

MARKERS = {
    "goose": (b"-- +goose Up\n", b"-- +goose Down\n"),
    "dbmate": (b"-- migrate:up\n", b"-- migrate:down\n"),
    "tern": (b"", b"---- create above / drop below ----\n"),
}
UP = b"CREATE TABLE a ();\n"
DOWN = b"DROP TABLE a;\n"


def migration(folder: Folder, content: bytes, layout: str) -> Migration:
    [found] = migrations_in(files.discover(str(folder({"1_a.sql": content})), layout))
    return found


def refused(folder: Folder, content: bytes, layout: str) -> str:
    with pytest.raises(BadMigrations) as caught:
        migration(folder, content, layout)
    return str(caught.value)


def sum_of(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


# --- where it lies ----------------------------------------------------------------------------------------------

PARTS = {
    "goose": ("goose", b"-- +goose Up\nA;\n-- +goose Down\nB;\n", b"A;\n"),
    "goose-without-down": ("goose", b"-- +goose Up\nA;", b"A;"),
    "goose-without-anything": ("goose", b"-- +goose Up", b""),
    "goose-empty": ("goose", b"-- +goose Up\n-- +goose Down\nB;", b""),
    "goose-comments-first": ("goose", b"-- a\n\n \t-- b\n\r\n-- +goose Up\nA;\n", b"A;\n"),
    "goose-without-blanks": ("goose", b"--+goose up\nA;\n--+GOOSE   DOWN  \nB;", b"A;\n"),
    "goose-statements": (
        "goose",
        b"-- +goose Up\n-- +goose StatementBegin\nA;\n-- +goose StatementEnd\n-- +goose Down\n",
        b"-- +goose StatementBegin\nA;\n-- +goose StatementEnd\n",
    ),
    "goose-in-a-line": ("goose", b"-- +goose Up\nSELECT '-- +goose Down';\n", b"SELECT '-- +goose Down';\n"),
    "goose-in-a-string-of-lines": ("goose", b"-- +goose Up\nSELECT '\n-- +goose Down\n';\n", b"SELECT '\n"),
    "goose-in-dollars": ("goose", b"-- +goose Up\n$$\n-- +goose Down\n$$\n", b"$$\n"),
    "goose-crlf": ("goose", b"-- +goose Up\r\nA;\r\n-- +goose Down\r\nB;\r\n", b"A;\n"),
    "goose-bom": ("goose", b"\xef\xbb\xbf-- +goose Up\nA;\n-- +goose Down\nB;\n", b"A;\n"),
    "dbmate": ("dbmate", b"-- migrate:up\nA;\n-- migrate:down\nB;\n", b"A;\n"),
    "dbmate-options": ("dbmate", b"--migrate:up  transaction:false\nA;\n--\tmigrate:down a:b\nB;\n", b"A;\n"),
    "dbmate-comments-first": ("dbmate", b"-- a\n\n -- b\n-- migrate:up\nA;\n-- migrate:down\n", b"A;\n"),
    "dbmate-indented-is-none": (
        "dbmate",
        b"-- migrate:up\nA;\n -- migrate:down\n-- MIGRATE:DOWN\n-- migrate:downs\n-- migrate:\n-- migrate:down",
        b"A;\n -- migrate:down\n-- MIGRATE:DOWN\n-- migrate:downs\n-- migrate:\n",
    ),
    "dbmate-in-a-line": (
        "dbmate",
        b"-- migrate:up\nSELECT '-- migrate:down';\n-- migrate:down\n",
        b"SELECT '-- migrate:down';\n",
    ),
    "dbmate-in-a-string-of-lines": ("dbmate", b"-- migrate:up\nSELECT '\n-- migrate:down\n';", b"SELECT '\n"),
    "dbmate-crlf": ("dbmate", b"-- migrate:up\r\nA;\r\n-- migrate:down\r\nB;\r\n", b"A;\n"),
    "dbmate-bom": ("dbmate", b"\xef\xbb\xbf-- migrate:up\nA;\n-- migrate:down\n", b"A;\n"),
    "tern": ("tern", b"A;\n---- create above / drop below ----\nB;\n", b"A;\n"),
    "tern-without-down": ("tern", b"A;\nB;\n", b"A;\nB;\n"),
    "tern-in-a-line": ("tern", b"SELECT 1; ---- create above / drop below ---- B", b"SELECT 1; "),
    "tern-twice": (
        "tern",
        b"A;\n---- create above / drop below ----\nB;\n---- create above / drop below ----\n",
        b"A;\n",
    ),
    "tern-crlf": ("tern", b"A;\r\n---- create above / drop below ----\r\nB;\r\n", b"A;\n"),
    "tern-bom": ("tern", b"\xef\xbb\xbfA;\n---- create above / drop below ----\nB;\n", b"A;\n"),
    "tern-empty": ("tern", b"---- create above / drop below ----\nB;\n", b""),
}
PAD = (b"-- " + b"+" * 100 + b"\n") * 11_000
"""More than a mebibyte."""


@pytest.mark.parametrize("size", ["small", "large-up", "large-down"])
@pytest.mark.parametrize(("layout", "content", "part"), PARTS.values(), ids=PARTS)
def test_up_part_is_read_and_summed_alone(folder: Folder, layout: str, content: bytes, part: bytes, size: str) -> None:
    divide = files.part_of(layout)
    assert divide
    start, end = divide(content)
    start = start or 3 * content.startswith(b"\xef\xbb\xbf")
    if size == "large-down" and end < len(content):
        content += b"\n" + PAD
    elif size == "large-up" and content[start:]:
        content, part = content[:start] + PAD + content[start:], PAD + part

    one = migration(folder, content, layout)
    source = one.read()

    assert one.checksum == sum_of(part)
    assert source[:].replace(b"\r\n", b"\n").endswith(part)
    assert source[:] == content[: len(source)]


@pytest.mark.parametrize("layout", MARKERS)
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_down_part_may_be_edited(folder: Folder, layout: str, large: bool) -> None:
    up, down = MARKERS[layout]
    text = PAD + UP if large else UP
    before = migration(folder, up + text + down + DOWN, layout)

    after = migration(folder, b"" + up + text + down + b"-- another one\n\xff", layout)

    assert after.checksum == before.checksum == sum_of(text)
    assert before.read()[:] == up + text


@pytest.mark.parametrize("layout", MARKERS)
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_up_part_may_not_be_edited(folder: Folder, layout: str, large: bool) -> None:
    up, down = MARKERS[layout]
    text = PAD + UP if large else UP
    before = migration(folder, up + text + down + DOWN, layout)

    after = migration(folder, up + text + b" \n" + down + DOWN, layout)

    assert after.checksum != before.checksum
    with pytest.raises(FilesChanged, match=r"1_a\.sql: changed since this run began; run it again"):
        before.read()


@pytest.mark.parametrize("layout", ["goose", "dbmate"])
def test_file_that_loses_its_marker_while_a_run_waits_has_changed(folder: Folder, layout: str) -> None:
    up, down = MARKERS[layout]
    before = migration(folder, up + UP + down + DOWN, layout)

    folder({"1_a.sql": UP})

    with pytest.raises(FilesChanged) as caught:
        before.read()
    assert str(caught.value).startswith("1_a.sql: changed since this run began: no `")


@pytest.mark.parametrize("layout", MARKERS)
@pytest.mark.parametrize("variant", ["crlf", "bom", "cr"])
def test_line_ends_and_a_bom_make_no_difference(folder: Folder, layout: str, variant: str) -> None:
    up, down = MARKERS[layout]
    content = up + b"SELECT 1;\n-- \xc3\xa9\n" + down + DOWN
    before = migration(folder, content, layout)

    changed = {
        "crlf": content.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + content,
        "cr": content.replace(b"1;\n", b"1;\r"),
    }[variant]

    assert migration(folder, changed, layout).checksum == before.checksum


@pytest.mark.parametrize("layout", MARKERS)
def test_memory_for_a_large_down_part_is_not_kept(folder: Folder, layout: str) -> None:
    up, down = MARKERS[layout]
    one = migration(folder, up + UP + down + PAD, layout)

    source = one.read()

    assert isinstance(source, bytes)
    assert source == up + UP
    assert check(one, source).is_large is False


@pytest.mark.parametrize("layout", MARKERS)
def test_large_up_part_is_mapped_and_cut_at_its_end(folder: Folder, layout: str) -> None:
    up, down = MARKERS[layout]
    one = migration(folder, up + PAD + UP + down + DOWN, layout)

    source = one.read()

    assert not isinstance(source, bytes)
    assert check(one, source).is_large is True
    assert check(one, source).problems == []
    assert source[-len(UP) :] == UP


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize(
    "content",
    [b"-- \xff\n-- +goose Up\nA;\n", b"-- +goose Up\nA;\n-- \xff\n-- +goose Down\n"],
    ids=["before", "within"],
)
def test_part_that_is_not_utf_8_is_refused_with_its_line(folder: Folder, content: bytes, large: bool) -> None:
    if large:
        content += PAD
    line = 1 if content.startswith(b"-- \xff") else 3

    assert refused(folder, content, "goose") == f"1_a.sql:{line}: not UTF-8; save the file as UTF-8"


# --- what is refused --------------------------------------------------------------------------------------------

NO_UP = "no `-- +goose Up` line, from which on goose runs a file"
NO_DBMATE_UP = "no `-- migrate:up` line, from which on dbmate runs a file"
NO_DOWN = "no `-- migrate:down` line after `-- migrate:up`; dbmate wants both"
NO_SUCH = "goose has no such marker; it knows Up, Down, StatementBegin, StatementEnd, NO TRANSACTION"
ORDER = "`-- +goose Down` stands once, after `-- +goose Up`"
REFUSED = {
    "goose-missing": ("goose", b"SELECT 1;", f": {NO_UP}"),
    "goose-empty": ("goose", b"", f": {NO_UP}"),
    "goose-misspelt": ("goose", b"-- +goos Up\nA;", f": {NO_UP}"),
    "goose-misspelt-word": ("goose", b"-- a\n-- +goose Upp\nA;", f":2: {NO_SUCH}"),
    "goose-misspelt-down": ("goose", b"-- +goose Up\nA;\n-- +goose Dwn\n", f":3: {NO_SUCH}"),
    "goose-no-word": ("goose", b"-- +goose Up\n-- +goose\n", f":2: {NO_SUCH}"),
    "goose-talked-about": ("goose", b"-- +goose Up\n-- see +goose down\n", f":2: {NO_SUCH}"),
    "goose-in-a-string": ("goose", b"SELECT '-- +goose Up';", f": {NO_UP}"),
    "goose-indented": (
        "goose",
        b"\n\t-- +goose Up\nA;",
        ":2: goose wants no blanks before its marker; move it to the start of the line",
    ),
    "goose-up-twice": ("goose", b"-- +goose Up\nA;\n\n-- +goose Up\n", ":4: a second `-- +goose Up`; a file has one"),
    "goose-down-twice": ("goose", b"-- +goose Up\n-- +goose Down\n-- +goose Down\n", f":3: {ORDER}"),
    "goose-down-first": ("goose", b"-- +goose Down\n-- +goose Up\n", f":1: {ORDER}"),
    "goose-only-down": ("goose", b"\n-- +goose Down\nB;", f":2: {ORDER}"),
    "goose-sql-before": (
        "goose",
        b"-- a; SELECT 1;\nSELECT 1;\n-- +goose Up\n",
        ":2: only comments may stand before `-- +goose Up`; move this below it",
    ),
    "goose-block-comment-before": (
        "goose",
        b"/* a */\r\n-- +goose Up\r\n",
        ":1: only comments may stand before `-- +goose Up`; move this below it",
    ),
    "dbmate-missing": ("dbmate", b"SELECT 1;", f": {NO_DBMATE_UP}"),
    "dbmate-only-down": ("dbmate", b"-- migrate:down\n", f": {NO_DBMATE_UP}"),
    "dbmate-misspelt": ("dbmate", b"-- migrate: up\n-- migrate:down\n", f": {NO_DBMATE_UP}"),
    "dbmate-upper-case": ("dbmate", b"-- MIGRATE:UP\n-- migrate:down\n", f": {NO_DBMATE_UP}"),
    "dbmate-indented": ("dbmate", b" -- migrate:up\n-- migrate:down\n", f": {NO_DBMATE_UP}"),
    "dbmate-longer-word": ("dbmate", b"-- migrate:upwards\n-- migrate:down\n", f": {NO_DBMATE_UP}"),
    "dbmate-no-word": ("dbmate", b"-- migrate:\n--\n", f": {NO_DBMATE_UP}"),
    "dbmate-without-down": ("dbmate", b"-- migrate:up\nA;\n", f": {NO_DOWN}"),
    "dbmate-down-misspelt": ("dbmate", b"-- migrate:up\nA;\n-- migrate:dwn\n", f": {NO_DOWN}"),
    "dbmate-down-first": ("dbmate", b"-- migrate:down\n-- migrate:up\nA;\n", f": {NO_DOWN}"),
    "dbmate-up-twice": (
        "dbmate",
        b"-- migrate:up\nA;\n-- migrate:up\n-- migrate:down\n",
        ":3: a second `-- migrate:up`; a file has one",
    ),
    "dbmate-sql-before": (
        "dbmate",
        b"SELECT 1;\n-- migrate:up\n-- migrate:down\n",
        ":1: only comments may stand before `-- migrate:up`; move this below it",
    ),
}


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize(("layout", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_markers_that_do_not_tell_the_up_part_are_refused(
    folder: Folder, layout: str, content: bytes, message: str, large: bool
) -> None:
    assert refused(folder, content + b"\n" + PAD if large else content, layout) == f"1_a.sql{message}"
