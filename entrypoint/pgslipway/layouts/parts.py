"""The up part of a file that has a part to apply its change and one to undo it: the lines between two markers.

As each tool finds them: by lines, whether or not they stand within a string. One function for each layout, which
returns the first byte of the up part and the one after it, and raises Undivided. No heavy import.
"""

from ..errors import Undivided

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap  # noqa: F401  # in the quoted type
    from typing import TypeAlias

Source: "TypeAlias" = "bytes | mmap"
GOOSE, DBMATE, TERN = b"+goose", b"migrate:", b"---- create above / drop below ----"
GOOSE_WORDS = {b"up", b"down", b"statementbegin", b"statementend", b"no transaction", b"envsub on", b"envsub off"}
BLANK = b" \t\r\f\v"


def goose(source: "Source") -> tuple[int, int]:
    """Return goose's: from `-- +goose Up` to `-- +goose Down`."""
    marks = [(begin, after, goose_word(source, begin, line)) for begin, after, line in lines_with(source, GOOSE)]
    ups = [(begin, after) for begin, after, word in marks if word == b"up"]
    downs = [begin for begin, _, word in marks if word == b"down"]
    if not ups:
        raise Undivided("no `-- +goose Up` line, from which on goose runs a file")
    if len(ups) > 1:
        raise Undivided("a second `-- +goose Up`; a file has one", line_at(source, ups[1][0]))
    start = ups[0][1]
    if downs[1:] or (downs and downs[0] < start):
        raise Undivided("`-- +goose Down` stands once, after `-- +goose Up`", line_at(source, downs[-1]))
    refuse_before(source, start, "-- +goose Up")
    return start, downs[0] if downs else len(source)


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
    start = end = -1
    for begin, after, words in lines_with(source, DBMATE):
        if not words.startswith(b"--") or not words[2:].lstrip(BLANK).startswith(DBMATE):
            continue
        word = words[2:].lstrip(BLANK).removeprefix(DBMATE).partition(b" ")[0].rstrip(BLANK)
        if word == b"up":
            if start >= 0:
                raise Undivided("a second `-- migrate:up`; a file has one", line_at(source, begin))
            start = after
        elif word == b"down" and end < 0:
            end = begin
    if start < 0:
        raise Undivided("no `-- migrate:up` line, from which on dbmate runs a file")
    if end < start:
        raise Undivided("no `-- migrate:down` line after `-- migrate:up`; dbmate wants both")
    refuse_before(source, start, "-- migrate:up")
    return start, end


def tern(source: "Source") -> tuple[int, int]:
    """Return tern's: what stands above `---- create above / drop below ----`; all of it without that line."""
    end = source.find(TERN)
    return 0, len(source) if end < 0 else end


def lines_with(source: "Source", word: bytes) -> "Iterator[tuple[int, int, bytes]]":
    """Yield the first byte of each line that has `word` in any case, the one after the line, and the line."""
    for place in places(source, word):
        begin = source.rfind(b"\n", 0, place) + 1
        end = source.find(b"\n", place)
        after = len(source) if end < 0 else end + 1
        yield begin, after, source[begin:after].rstrip().removeprefix(b"\xef\xbb\xbf" if not begin else b"")


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


def refuse_before(source: "Source", start: int, marker: str) -> None:
    """Raise Undivided where something else than comments and blanks stands before the line that ends at `start`."""
    for line in source[:start].removeprefix(b"\xef\xbb\xbf").splitlines():
        if line.strip() and not line.lstrip().startswith(b"--"):
            place = line_at(source, source.find(line))
            raise Undivided(f"only comments may stand before `{marker}`; move this below it", place)


def line_at(source: "Source", place: int) -> int:
    """Return the number of the line with a byte."""
    return source[:place].count(b"\n") + 1
