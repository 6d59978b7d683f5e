"""Messages about a file: the line with a caret under the place, and everything that Postgres said."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import asyncpg

from ..errors import Problem
from ..files import Source
from .copying import line_in
from .filled import NEWLINE, Filled, as_written, line_ends
from .masks import covered, masked
from .sql import text_start

UNPRINTABLE = re.compile(r"[^\t\x20-\x7e\xa0-\U0010ffff]")
INVISIBLE = re.compile("[\u00a0\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
"""What hides in a line, or looks like a blank, and is none to Postgres."""
NO_VALUES: Mapping[str, str] = {}
WIDTH = 100
"""Characters of a long line that are shown around the caret."""
NO_TRANSACTION = "put it in a file of its own that has the line `-- no-transaction` at its top"
HINTS = (
    ("25001", "transaction block", f"this cannot run inside a transaction: {NO_TRANSACTION}"),
    (
        "25001",
        "performed writes",
        f"a file writes its history row first, and this must come before any write: {NO_TRANSACTION}",
    ),
    ("2D000", "", f"a file is one transaction, so nothing in it may commit: {NO_TRANSACTION}"),
    ("55P04", "", "a new enum value can be used once it is committed: put ALTER TYPE … ADD VALUE in an earlier file"),
    ("0A000", "already been loaded", f"it must be the first statement that a session runs: {NO_TRANSACTION}"),
)
"""What to do about a SQLSTATE with such words in its message, where Postgres does not say it for us."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A piece of a file as it was sent, by which a position that Postgres gives becomes a place in the file."""

    source: Source
    start: int
    """The first byte of the piece."""
    text: str
    before: str = ""
    """Our own text before the piece in the message."""
    is_statement: bool = False
    """The piece is one statement: an error without a position is about it."""
    data: tuple[int, int] | None = None
    """The first byte of the data that are sent with it, and the one after them."""

    def offset(self, position: str | None, encoding: str = "UTF8") -> int | None:
        """Return the byte of the file at a position (from 1, in the message); None outside the piece.

        An error at the end of the input has the position after the last character. Positions count characters, but in
        a database that has no `encoding` (SQL_ASCII) bytes.
        """
        if position is None and self.is_statement:
            return self.start
        size = (lambda text: len(text.encode())) if encoding == "SQL_ASCII" else len
        place = int(position or 0) - 1 - size(self.before)
        if not 0 <= place <= size(self.text):
            return None
        return self.start + (place if encoding == "SQL_ASCII" else len(self.text[:place].encode()))

    def offset_of(self, fields: Mapping[str, str], encoding: str) -> int | None:
        """Return the byte of the file that an error is about; None where it does not say."""
        if self.data and (number := line_in(self.text.encode(), fields)):
            return start_of_line(self.source, self.data[0], number)
        return self.offset(fields.get("position"), encoding)

    @property
    def lines(self) -> tuple[int, int]:
        """The numbers of the piece's first and last line."""
        first = line_of(self.source, self.start)
        return first, first + line_ends(self.source, self.start, self.start + len(self.text.rstrip().encode()))


def line_of(source: Source, offset: int) -> int:
    """Return the number of the line that byte `offset` is in, of the file as it was written."""
    return 1 + line_ends(source, 0, offset)


def start_of_line(source: Source, offset: int, number: int) -> int:
    """Return the first byte of a line, counted from 1, of what begins at `offset`."""
    if number == 1:
        return offset
    line_end = next(islice(NEWLINE.finditer(source, offset), number - 2, None), None)
    return line_end.end() if line_end else offset


def excerpt(filename: str, source: Source, offset: int, message: str) -> Problem:
    """Return the problem `message` at its line, which is shown below it with a caret.

    `offset` is in bytes, 0-based. A value of a variable is shown as the variable.
    """
    return shown_at(filename, source, offset, source.mask(message) if isinstance(source, Filled) else message)


def shown_at(filename: str, source: Source, offset: int, message: str) -> Problem:
    """Return the problem `message`, in which no value is, at its line."""
    source, offset = as_written(source, offset)
    number = line_of(source, offset)
    start = source.rfind(b"\n", 0, offset) + 1
    end = source.find(b"\n", offset)
    offset = max(offset, text_start(source))
    first = max(start, text_start(source), offset - 4 * WIDTH)
    before = source[first:offset].decode(errors="ignore")[-WIDTH // 2 :]
    after = source[offset : min(end if end >= 0 else len(source), offset + 4 * WIDTH)].decode(errors="ignore")
    before, line = (shown(text.rstrip("\r\n")) for text in (before, before + after[:WIDTH]))
    padding = re.sub(r"[^\t]", " ", before)
    margin = " " * len(str(number))
    return Problem(f"{message}\n  {number} | {line.rstrip()}\n  {margin} | {padding}^", filename, number)


def shown(text: str) -> str:
    """Return `text` so that a person sees all of it: what has no width of its own by its number."""
    return INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", UNPRINTABLE.sub("�", text))


def explain(
    error: asyncpg.PostgresError,
    filename: str,
    sent: Sent | None = None,
    line: int = 0,
    encoding: str = "UTF8",
    values: Mapping[str, str] = NO_VALUES,
) -> Problem:
    """Return everything that `error` says, at its place in the piece that was sent; of `values` the names alone.

    Where Postgres gives no position in it, `line` is named, or the file alone. `encoding` is the database's.
    """
    said = {key: str(value) for key, value in error.as_dict().items() if value}
    message = masked(values, said.get("message") or str(error))
    offset = sent.offset_of(said, encoding) if sent else None
    if sent is None or offset is None:
        problem = Problem(message, filename, line)
    else:
        problem = shown_at(filename, sent.source, offset, message)
    problem.text = "\n".join([problem.text, *details(said, encoding, values)])
    return problem


def details(fields: dict[str, str], encoding: str, values: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines below the message: the query inside a function, Postgres's additions, and our hint."""
    if query := fields.get("internal_query"):
        inside = Sent(query.encode(), 0, query, is_statement=True)
        offset = inside.offset(fields.get("internal_position"), encoding)
        yield shown_at("", covered(values, query), offset or 0, "in the query that it ran:").text
    for key in ("detail", "hint", "context"):
        if key in fields:
            yield f"{key}: {masked(values, fields[key])}"
    for sqlstate, words, hint in HINTS:
        if fields.get("sqlstate") == sqlstate and words in fields.get("message", ""):
            yield f"hint: {hint}"
    names = [
        f"{kind} {fields[f'{kind}_name']}" for kind in ("table", "column", "constraint") if f"{kind}_name" in fields
    ]
    if names:
        yield f"about: {masked(values, ', '.join(names))}"
    yield f"SQLSTATE {fields.get('sqlstate')}"
