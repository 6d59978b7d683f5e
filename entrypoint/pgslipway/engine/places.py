"""The places of variables in a text, and the rules for a value there: those of the quotes that it is in, or of none."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .sql import BLANK, E_STRING, NEXT_LINE, SqlError, tokens

CODE, BODY, PLAIN, ESCAPE, UNICODE, NAME, UNICODE_NAME = "code", "body", "'", "E'", "U&'", '"', 'U&"'
LEFT, UESCAPE = "left", "UESCAPE"
"""What is left as it stands, comments and data; and the string that names the escape character of the one before."""
DOUBLED = {PLAIN: "'", ESCAPE: "\\'", UNICODE: "\\'", NAME: '"', UNICODE_NAME: '\\"'}
"""The characters that are written twice."""
SKIPPED = {*BLANK, "data"}
PLAIN_VALUE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+(\.[0-9]+)?")
UNICODE_QUOTE = re.compile(rb"&['\"]")
BESIDE = re.compile(rb"[A-Za-z0-9_$'\"\x80-\xff]")
OPEN_ESCAPE = {
    BODY: re.compile(rb"(?<!\\)(?:\\\\)*\\\Z"),
    ESCAPE: re.compile(rb"(?<!\\)(?:\\\\)*\\(?:x[0-9A-Fa-f]?|[0-7]{1,2}|u[0-9A-Fa-f]{0,3}|U[0-9A-Fa-f]{0,7})?\Z"),
    UNICODE: re.compile(rb"(?<!\\)(?:\\\\)*\\(?:[0-9A-Fa-f]{0,3}|\+[0-9A-Fa-f]{0,5})\Z"),
}
OPEN_ESCAPE[UNICODE_NAME] = OPEN_ESCAPE[UNICODE]
"""The beginning of an escape that the first characters of a value would end."""
BACKSLASH = ord("\\")
LONGEST_ESCAPE = 10
"""Bytes."""
NEAR = 1 << 16
"""Bytes after a string in which its UESCAPE is looked for."""
PIECE, GAP = re.compile(E_STRING, re.DOTALL), re.compile(NEXT_LINE)

STANDS_ALONE = (
    "a variable outside of quotes stands alone, as a name or a number does; put a blank beside it, or all of the name "
    'in quotes: "…${…}…"'
)
ENDS_ESCAPE = "a backslash before a variable would take the beginning of its value for a part of an escape; remove it"
NO_UESCAPE = "a variable cannot be where there is a UESCAPE; write the string without one, or without U&"
CUTS_QUOTE = "a variable cannot be a part of the quotes themselves; put a blank before it"
NOT_PLAIN = {
    CODE: "outside of quotes the value of a variable must be a plain word or a number; put quotes around it",
    BODY: "in a dollar-quoted body the value of a variable must be a plain word or a number",
}


class Segment(NamedTuple):
    """A piece of the text that is no code: its kind, and the bytes between its quotes."""

    kind: str
    start: int
    end: int


class Use(NamedTuple):
    """A variable at its place."""

    start: int
    end: int
    name: str
    kind: str
    problem: str = ""
    """Why no value can be there."""


def uses(source: bytes, pattern: re.Pattern[bytes]) -> Iterator[Use]:
    """Yield the variables of a text, whose name is the group of `pattern`. Raises SqlError where it is no SQL."""
    found = segments(source)
    segment: Segment | None = next(found, None)
    last = -1
    for match in pattern.finditer(source):
        start, end = match.span()
        while segment and segment.end <= start:
            segment = next(found, None)
        within = segment if segment and segment.start < end else None
        if within and within.kind == LEFT:
            continue
        kind = within.kind if within else CODE
        problem = misfit_in(source, within, start, end) if within else misfit(source, start, end, last)
        yield Use(start, end, match[1].decode(errors="replace"), kind, problem)
        last = end if kind == CODE else -1


def misfit(source: bytes, start: int, end: int, last: int) -> str:
    """Say why no value can be at a place in code; `last` is the end of the variable before it."""
    is_beside = start == last or (start and BESIDE.match(source, start - 1)) or BESIDE.match(source, end)
    return STANDS_ALONE if is_beside or UNICODE_QUOTE.match(source, end) else ""


def misfit_in(source: bytes, segment: Segment, start: int, end: int) -> str:
    """Say why no value can be at a place in quotes."""
    if start < segment.start or end > segment.end:
        return CUTS_QUOTE
    if segment.kind == UESCAPE or (segment.kind in {UNICODE, UNICODE_NAME} and has_uescape(source, segment.end + 1)):
        return NO_UESCAPE
    pattern = OPEN_ESCAPE.get(segment.kind)
    first = max(segment.start, start - LONGEST_ESCAPE)
    while first > segment.start and source[first] == BACKSLASH:  # which tells with how many of them it begins
        first -= 1
    return ENDS_ESCAPE if pattern and pattern.search(source[first:start]) else ""


def has_uescape(source: bytes, end: int) -> bool:
    """Tell whether the string or the name that ends there, or goes on in the next line, has an escape of its own."""
    for kind, first, last in tokens(b"\n" + source[end : end + NEAR]):
        if kind not in BLANK and kind != "string":
            return kind == "word" and source[end + first - 1 : end + last - 1].upper() == b"UESCAPE"
    return False


def segments(source: bytes) -> Iterator[Segment]:
    """Yield the quoted pieces of a text, and those that are left as they stand. Raises SqlError."""
    before: list[tuple[str, int, int]] = []
    """The two tokens before, without blanks."""
    kind = PLAIN
    """That of the string before, which a string in the next line goes on with."""
    for sort, start, end in single_tokens(source):
        if sort in SKIPPED:
            yield Segment(LEFT, start, end)
            continue
        if sort == "string" and source[start : start + 1] != b"'":
            yield from pieces(source, start, end)
        elif sort in {"string", "name"}:
            kind = kind_of(source, sort, start, before, kind)
            yield Segment(kind, start + 1, end - 1)
        elif sort == "dollar":
            tag = source.index(b"$", start + 1) + 1 - start
            yield Segment(BODY, start + tag, end - tag)
        before = [*before[-1:], (sort, start, end)]


def kind_of(source: bytes, sort: str, start: int, before: list[tuple[str, int, int]], last: str) -> str:
    """Return the kind of a string or a quoted name; `last` is that of the string before it."""
    texts = [source[first:end].upper() for _, first, end in before]
    if texts[-1:] == [b"UESCAPE"]:
        return UESCAPE
    if texts == [b"U", b"&"] and before[0][1] == start - 2:
        return UNICODE if sort == "string" else UNICODE_NAME
    if sort == "string" and before and before[-1][0] == "string" and GAP.fullmatch(source, before[-1][2], start):
        return last
    return PLAIN if sort == "string" else NAME


def pieces(source: bytes, start: int, end: int) -> Iterator[Segment]:
    """Yield the pieces of an E string, which may go on in the next line, after a comment."""
    place = start + 1
    while place < end:
        if piece := PIECE.match(source, place):
            yield Segment(ESCAPE, place + 1, piece.end() - 1)
            place = piece.end()
        elif gap := GAP.match(source, place):
            yield Segment(LEFT, place, gap.end())
            place = gap.end()
        else:
            return


def single_tokens(source: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield the tokens of a text, and those of a list in parentheses one by one where it may have a variable."""
    for kind, start, end in tokens(source):
        if kind == "group" and source.find(b"${", start, end) >= 0:
            yield from members(source, start, end)
        else:
            yield kind, start, end


def members(source: bytes, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield the tokens of a list in parentheses."""
    yield "open", start, start + 1
    for kind, first, last in tokens(b"\n" + source[start + 1 : end - 1]):
        if last > 1:
            yield kind, max(start + first, start + 1), start + last
    yield "close", end - 1, end


def fitted(value: str, use: Use) -> bytes:
    """Return a value as it has to be written at its place. Raises SqlError for one that cannot be there."""
    if use.kind in DOUBLED:
        for character in DOUBLED[use.kind]:
            value = value.replace(character, character * 2)
    elif not PLAIN_VALUE.fullmatch(value) or value.upper() == "UESCAPE":  # which changes the string before it
        raise SqlError(use.start, NOT_PLAIN[use.kind])
    return value.encode()
