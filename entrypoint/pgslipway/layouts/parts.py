"""The up part of a file that has a part to apply its change and one to undo it: the lines between two markers.

As each tool finds them: by lines, whether or not they stand within a string. One function for each layout, which
returns the first byte of the up part and the one after it, and raises Undivided. No heavy import, and no more work
than it takes: a start with nothing to do looks at every file.
"""

from ..errors import Undivided

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap  # noqa: F401  # in the quoted type
    from typing import TypeAlias

Source: "TypeAlias" = "bytes | mmap"
BOM = b"\xef\xbb\xbf"
GOOSE, DBMATE, TERN = b"+goose", b"migrate:", b"---- create above / drop below ----"
GOOSE_WORDS = {b"up", b"down", b"statementbegin", b"statementend", b"no transaction", b"envsub on", b"envsub off"}
AS_USUAL = {
    b"-- +goose Up": b"up", b"-- +goose Down": b"down", b"-- +goose StatementBegin": b"statementbegin",
    b"-- +goose StatementEnd": b"statementend", b"-- +goose NO TRANSACTION": b"no transaction",
    b"-- migrate:up": b"up", b"-- migrate:down": b"down",
}  # fmt: skip
"""The words of markers as nearly everybody writes them."""
SIGNS = {"goose": b"-- +goose up", "dbmate": b"-- migrate:up", "tern": TERN}
"""The marker, in lower case, that tells a tool's file."""
LOOK = 1 << 20
"""Bytes of a file in which the markers of another tool are looked for."""


def goose(source: "Source") -> tuple[int, int]:
    """Return goose's: from `-- +goose Up` to `-- +goose Down`."""
    if part := usual_part(source, b"-- +goose Up\n", b"\n-- +goose Down\n", GOOSE):
        return part
    start = end = -1
    for begin, after, line in lines_with(source, GOOSE):
        word = AS_USUAL.get(line) or goose_word(source, begin, line)
        if word == b"up":
            if start >= 0:
                raise Undivided("a second `-- +goose Up`; a file has one", line_at(source, begin))
            refuse_before(source, begin, "-- +goose Up")
            start = after
        elif word == b"down":
            if start < 0 or end >= 0:
                raise Undivided("`-- +goose Down` stands once, after `-- +goose Up`", line_at(source, begin))
            end = begin
    if start < 0:
        raise Undivided(f"no `-- +goose Up` line, from which on goose runs a file{stranger(source, 'goose')}")
    return start, end if end >= 0 else len(source)


def usual_part(source: "Source", up: bytes, down: bytes, word: bytes) -> tuple[int, int] | None:
    """Return the part where the file begins with the one marker, has the other, and no more: as nearly every file."""
    if isinstance(source, bytes) and source.startswith(up) and source.lower().count(word) == 2:
        begin = source.find(down, len(up) - 1) + 1
        return (len(up), begin) if begin else None
    return None


def goose_word(source: "Source", begin: int, line: bytes) -> bytes:
    """Return the word of a marker of goose's in lower case; empty for a line that is none. Raises Undivided."""
    if not line.lstrip().startswith(b"--"):
        return b""
    words = b" ".join(line.lstrip()[2:].split()).lower()
    word = words.removeprefix(GOOSE).strip()
    if not line.startswith(b"--"):
        raise Undivided(
            "goose wants no blanks before its marker; move it to the start of the line", line_at(source, begin)
        )
    if word not in GOOSE_WORDS or not words.startswith(GOOSE):
        known = "Up, Down, StatementBegin, StatementEnd, NO TRANSACTION"
        raise Undivided(f"goose has no such marker; it knows {known}", line_at(source, begin))
    return word


def dbmate(source: "Source") -> tuple[int, int]:
    """Return dbmate's: from `-- migrate:up` to `-- migrate:down`, both of which it wants."""
    if part := usual_part(source, b"-- migrate:up\n", b"\n-- migrate:down\n", DBMATE):
        return part
    start = end = -1
    for begin, after, line in lines_with(source, DBMATE):
        word = AS_USUAL.get(line) or dbmate_word(line)
        if word == b"up":
            if start >= 0:
                raise Undivided("a second `-- migrate:up`; a file has one", line_at(source, begin))
            refuse_before(source, begin, "-- migrate:up")
            start = after
        elif word == b"down" and end < 0:
            end = begin
    if start < 0:
        raise Undivided(f"no `-- migrate:up` line, from which on dbmate runs a file{stranger(source, 'dbmate')}")
    if end < start:
        raise Undivided("no `-- migrate:down` line after `-- migrate:up`; dbmate wants both")
    return start, end


def dbmate_word(line: bytes) -> bytes:
    """Return the word of a marker of dbmate's, with which the options follow; empty for a line that is none."""
    words = line[2:].split() if line.startswith(b"--") else []
    return words[0].removeprefix(DBMATE) if words and words[0].startswith(DBMATE) else b""


def tern(source: "Source") -> tuple[int, int]:
    """Return tern's: the text above `---- create above / drop below ----`; all of it without that line."""
    end = source.find(TERN)
    return 0, len(source) if end < 0 else end


def lines_with(source: "Source", word: bytes) -> "Iterator[tuple[int, int, bytes]]":
    """Yield the first byte of each line that has `word` in any case, the one after the line, and the line."""
    for place in places(source, word):
        begin = source.rfind(b"\n", 0, place) + 1
        end = source.find(b"\n", place)
        after = len(source) if end < 0 else end + 1
        line = source[begin:after].rstrip()
        yield begin, after, line if begin else line.removeprefix(BOM)


def places(source: "Source", word: bytes) -> "Iterator[int]":
    """Yield where `word` stands, in any case, at most once for a line."""
    if not isinstance(source, bytes):
        import re  # a file so large is rare

        yield from (match.start() for match in re.finditer(re.escape(word) + rb"[^\n]*", source, re.IGNORECASE))
        return
    lower = source.lower()
    place = lower.find(word)
    while place >= 0:
        yield place
        end = lower.find(b"\n", place)
        place = lower.find(word, end) if end >= 0 else -1


def refuse_before(source: "Source", begin: int, marker: str) -> None:
    """Raise Undivided where something else than comments and blanks stands before the byte `begin`."""
    if not begin:
        return
    for number, line in enumerate(source[:begin].removeprefix(BOM).split(b"\n"), 1):
        if line.strip() and not line.lstrip().startswith(b"--"):
            raise Undivided(f"only comments may stand before `{marker}`; move this below it", number)


def stranger(source: "Source", layout: str) -> str:
    """Say that a file has another tool's marker, if it does."""
    lower = source[:LOOK].lower()
    found = next((other for other, sign in SIGNS.items() if other != layout and sign in lower), None)
    return f"; it has {found}'s: two layouts meet in this folder" if found else ""


def line_at(source: "Source", place: int) -> int:
    """Return the number of the line with a byte."""
    return source[:place].count(b"\n") + 1
