"""Text into statements, by the lexical rules of Postgres.

The rules are those of scan.l and psqlscan.l in the Postgres sources: nested comments, dollar quotes, E'' strings
that go on in the next line, parentheses (CREATE RULE) and BEGIN ATOMIC bodies. They work on bytes, as Postgres
does: any byte above 127 belongs to a name. So a large file can be mapped and is never copied whole.

The lines after `COPY … FROM stdin;` are data, to the one with a backslash and a dot, as in psql: one token, with the
semicolon.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from ..files import Source

E_STRING = rb"'(?>(?:[^'\\]++|''|\\.)*)'"
NEXT_LINE = rb"(?:(?>(?:[ \t\f\v]|--[^\r\n]*+)*)[\r\n](?>(?:\s|--[^\r\n]*+[\r\n])*))"
"""What may stand between the pieces of a string: with a line end in it they are one string.

Groups are repeated as (?>(?:…)*), not (?:…)*+, which goes wrong in Python below 3.11.5 (cpython#106052).
"""
TOKEN = re.compile(
    rb"""
    (?P<space>\s++)
  | (?P<line>--[^\r\n]*+)
  | (?P<block>/\*)
  | (?P<string>'[^']*+(?>(?:''[^']*+)*)'
      | [eE]%(e)s (?>(?:%(gap)s %(e)s)*) (?!%(gap)s'))
  | (?P<name>"[^"]*+(?>(?:""[^"]*+)*)")
  | (?P<restrict>(?<![^\n])\\(?:un)?restrict[ \t][^\r\n]*+)
  | (?P<stray>[eE]'|['"\\])
  | (?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+)
  | (?P<dollar>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$)
  | (?P<group>\((?>(?:[^()'"$\\;/eE-]++|[eE](?!')|-(?!-)|/(?!\*)|'[^']*+')*)\))  # a simple list, whole: 5 times as fast
  | (?P<open>\() | (?P<close>\)) | (?P<end>;)
  | (?P<other>[0-9][0-9A-Za-z_.]*+ | \$[0-9]++ | [][,.+*<>=%%^&|~!@\#?:{}`]++ | .)
    """
    % {b"e": E_STRING, b"gap": NEXT_LINE},
    re.VERBOSE | re.DOTALL,
)
COMMENT_EDGE = re.compile(rb"/\*|\*/")
STRAY = {
    b"'": "the string that begins here is never closed; a quote inside a string is written twice: ''",
    b'"': 'the quoted name that begins here is never closed; a quote inside a name is written twice: ""',
    b"\\": "psql's backslash commands are not SQL; write what the command does as SQL, or leave it out",
}
NO_END = "the data of this COPY begin in the next line and never end; put a line with a backslash and a dot behind them"
WORDS = 64
"""How many words of a statement are kept: enough to tell its kind, few enough for a 20 MB INSERT."""
TOLD_BY_OPTIONS = ("REINDEX", "CREATE SUBSCRIPTION")
"""The statements whose options in parentheses decide whether they can run in a transaction."""
ROUTINE = {"FUNCTION", "PROCEDURE"}
STATEMENT_ENDS = b";"
BLANK = {"space", "line", "block", "restrict"}
"""The last one is what pg_dump writes around its output since 2025, to keep psql from other commands in between."""
SPEAKING = {"word", "name", "group", "end"}
"""The kinds of token whose text matters."""
COPY = re.compile(rb"COPY(?![A-Za-z0-9_$\x80-\xff])", re.IGNORECASE)
CLIENT = {("STDIN",), ("STDOUT",)}
"""To Postgres both mean the one that makes sense."""
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
WORD = re.compile(rb'"[^"]*+(?>(?:""[^"]*+)*)"|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+')


class SqlError(Exception):
    """The text cannot be SQL; `offset` is the byte where the trouble begins."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Statement:
    """The bytes from `start` to `end`, without the semicolon, and its first words."""

    start: int
    end: int
    words: tuple[str, ...]
    """The first words outside parentheses: upper case, or quoted as they stand."""
    data: tuple[int, int] | None = None
    """The first byte of the data that follow, and the one after them."""

    @property
    def text(self) -> str:
        """The words with one space between them; a quoted name, which could say anything, is ""."""
        return " ".join('""' if word.startswith('"') else word for word in self.words)


def text_start(source: Source) -> int:
    """Return where the text begins: after a BOM."""
    return len(codecs.BOM_UTF8) if source[: len(codecs.BOM_UTF8)] == codecs.BOM_UTF8 else 0


def tokens(source: Source) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, start, end) for every token, white space and comments included. Raises SqlError."""
    position, first = text_start(source), -1
    while match := TOKEN.match(source, position):
        kind, end = str(match.lastgroup), match.end()
        if kind == "block":
            end = end_of_comment(source, position)
        elif kind == "dollar":
            end = end_of_dollar_quote(source, match)
        elif kind == "stray":
            raise SqlError(position, STRAY[match.group()[-1:]])
        elif kind == "end":
            if first >= 0 and COPY.match(source, first) and takes_data(source[first:position]):
                kind, end = "data", end_of_data(source, position)
            first = -1
        elif first < 0 and kind not in BLANK:
            first = position
        yield kind, position, end
        position = end


def end_of_comment(source: Source, start: int) -> int:
    """Return where the block comment that begins at `start` ends; comments nest."""
    depth = 0
    for edge in COMMENT_EDGE.finditer(source, start):
        depth += 1 if edge.group() == b"/*" else -1
        if depth == 0:
            return edge.end()
    raise SqlError(start, "the comment that begins here is never closed; comments nest: each /* needs its own */")


def end_of_dollar_quote(source: Source, opening: re.Match[bytes]) -> int:
    """Return where the dollar-quoted string that `opening` begins ends."""
    tag = opening.group()
    end = source.find(tag, opening.end())
    if end < 0:
        raise SqlError(
            opening.start(), f"the string that begins here is never closed with {tag.decode(errors='replace')}"
        )
    return end + len(tag)


def takes_data(statement: bytes) -> bool:
    """Tell whether a COPY reads what the client sends."""
    words = [parts for _, parts in names(statement)]
    return any(first == ("FROM",) and second in CLIENT for first, second in pairwise(words))


def end_of_data(source: Source, semicolon: int) -> int:
    """Return where the data after the `semicolon` of a COPY end: behind the backslash and the dot. Raises SqlError."""
    start = source.find(b"\n", semicolon) + 1
    if start and (rest := source[semicolon + 1 : start].strip()) and not rest.startswith(b"--"):
        raise SqlError(semicolon + 1, "the data of COPY begin in the next line; move this behind them")
    place = start - 1
    while start and (place := source.find(b"\n\\.", place)) >= 0:
        place += 3
        if source[place : place + 2] in {b"", b"\r", b"\r\n"} or source[place : place + 1] == b"\n":
            return place
    raise SqlError(semicolon, NO_END)


def data_in(source: Source, start: int, end: int) -> tuple[int, int]:
    """Return the range of the data in the token from the semicolon to the end of their last line."""
    return source.find(b"\n", start) + 1, source.rfind(b"\\.", start, end)


def statements(source: Source) -> Iterator[Statement]:
    """Yield the statements of `source` one after the other. Raises SqlError."""
    draft: Draft | None = None
    for kind, start, end in tokens(source):
        if kind in BLANK:
            continue
        if kind not in {"end", "data"} or (draft and draft.is_open):
            draft = draft or Draft(start)
            draft.add(kind, source[start:end] if kind in SPEAKING else b"", end)
        elif draft:
            yield draft.statement(data_in(source, start, end) if kind == "data" else None)
            draft = None
    if draft:
        yield draft.statement()


@dataclass(slots=True)
class Draft:
    """A statement whose tokens are still coming in."""

    start: int
    end: int = 0
    depth: int = 0
    """Open parentheses."""
    in_body: bool = False
    """Between BEGIN ATOMIC and the END that closes it, the only one to stand where a statement would begin."""
    last: bytes = b""
    words: list[str] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Tell whether a semicolon belongs to the statement."""
        return self.depth > 0 or self.in_body

    def statement(self, data: tuple[int, int] | None = None) -> Statement:
        """Return the finished statement, with its data."""
        return Statement(self.start, self.end, tuple(self.words), data)

    def add(self, kind: str, token: bytes, end: int) -> None:
        """Take in one token; `token` is its text where that matters."""
        if kind == "open":
            self.depth += 1
        elif kind == "close":
            self.depth = max(0, self.depth - 1)
        elif kind == "word":
            token = token.upper()
            if self.begins_body(token):
                self.in_body, token = True, STATEMENT_ENDS
            elif token == b"END" and self.last == STATEMENT_ENDS:
                self.in_body = False
        if len(self.words) < WORDS and self.is_told_by(kind):
            self.words += [word_text(word) for word in WORD.findall(token)]
        self.last, self.end = token, end

    def is_told_by(self, kind: str) -> bool:
        """Tell whether a token of this kind tells the statement's kind here: options in parentheses seldom do."""
        if kind in {"word", "name"} and not self.depth:
            return True
        return kind in {"word", "name", "group"} and " ".join(self.words[:2]).startswith(TOLD_BY_OPTIONS)

    def begins_body(self, word: bytes) -> bool:
        """Tell whether `word` is the ATOMIC that opens the body of a function."""
        is_routine = self.words[:1] == ["CREATE"] and not ROUTINE.isdisjoint(self.words[1:4])
        return word == b"ATOMIC" and self.last == b"BEGIN" and is_routine and not self.in_body


def word_text(word: bytes) -> str:
    """Return a word as rules want it: upper case, but a quoted name as it stands."""
    return (word if word.startswith(b'"') else word.upper()).decode(errors="replace")


def names(source: Source) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield (number of words before it, its parts) for each word or qualified name outside parentheses."""
    parts: list[str] = []
    count, depth, is_joined = 0, 0, False
    for kind, start, end in tokens(source):
        if kind in BLANK:
            continue
        depth += (kind == "open") - (kind == "close")
        if kind in {"word", "name"} and not depth:
            if parts and not is_joined:
                yield count - len(parts), tuple(parts)
                parts = []
            parts.append(word_text(source[start:end]))
            count += 1
        is_joined = source[start:end] == b"."
    if parts:
        yield count - len(parts), tuple(parts)


def plain_comments(text: str) -> str:
    """Return `text` with a question mark for each character of a comment that is not ASCII: as long as before."""
    source = text.encode()
    pieces = ((kind, source[start:end].decode()) for kind, start, end in tokens(source))
    return "".join(NOT_ASCII.sub("?", piece) if kind in {"line", "block"} else piece for kind, piece in pieces)


def leading_comments(source: Source) -> Iterator[str]:
    """Yield the text of each line comment before the first statement, without the dashes. Raises SqlError."""
    for kind, start, end in tokens(source):
        if kind == "line":
            yield source[start + 2 : end].decode(errors="replace").strip()
        elif kind not in BLANK:
            return


def folded(word: str) -> str:
    """Return the name that a word stands for, as Postgres folds it."""
    if word.startswith('"'):
        return word[1:-1].replace('""', '"')
    return word.encode().lower().decode()  # bytes, because only ASCII is folded
