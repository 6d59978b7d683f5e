"""The findings in a file's text, as a plain value."""

import re
from dataclasses import dataclass, field

from ..errors import Problem
from ..files import Source
from .sql import Statement, folded

PIECE = 1 << 16
"""Bytes of a large file that are sent at once: the memory of both sides stays bounded."""
TIMEOUT = ("SET", "TRANSACTION_TIMEOUT")
UNLIMITED = re.compile(rb"SET\s+transaction_timeout\s*=\s*0", re.IGNORECASE)
"""The dumps of PostgreSQL 17 and newer have it, and older servers do not know it; a run has no such limit anyway."""
EXTENSION = re.compile(r"CREATE EXTENSION (IF NOT EXISTS )?\S")


@dataclass(slots=True)
class Contents:
    """The findings in a file's text."""

    transactional: bool = True
    isolation: str = ""
    """The isolation level that it asks for, for the BEGIN before its history row."""
    has_query: bool = False
    """A statement was found that takes a snapshot; from there on the level cannot be changed."""
    minimum_version: int | None = None
    is_squash: bool = False
    """It stands for all files before it."""
    wrapper: tuple[Statement, ...] = ()
    """The BEGIN and COMMIT around the whole file; they are not sent, since every file is a transaction."""
    left_out: list[tuple[int, int]] = field(default_factory=list)
    """The pieces that are not sent: what pg_dump writes for psql, or for servers that know the setting."""
    may_end_committed: bool = False
    """A COMMIT alone at its end means nothing, as for the tool that it was written for."""
    count: int = 0
    is_large: bool = False
    """It is sent in pieces."""
    copies: dict[int, Statement] = field(default_factory=dict)
    """The statements that data follow, each a piece of its own, by their first bytes."""
    drops_prepared: bool = False
    """It may drop statements of ours that are prepared."""
    pieces: list[int] = field(default_factory=list)
    """The first byte of each piece: statements of some PIECE bytes together, or a longer one alone."""
    session_state: list[Problem] = field(default_factory=list)
    """Problems of a file without a transaction where a pooler gives it no session of its own."""
    outside: list[Problem] = field(default_factory=list)
    """Problems of such a file where there is a role to take as well."""
    owned_by_one: list[Problem] = field(default_factory=list)
    """Problems of a file that is applied to many schemas: extensions without a schema of their own."""
    extensions: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def place(self, statement: Statement) -> None:
        """Begin another piece with `statement`, or leave it to the last one."""
        last = self.pieces[-1] if self.pieces else -PIECE
        if statement.data:
            self.is_large, self.copies[statement.start] = True, statement
        if statement.data or last in self.copies or statement.start - last >= PIECE:
            self.pieces.append(statement.start)

    def note(self, statement: Statement, source: Source) -> bool:
        """Tell whether `statement` makes an extension; keep its name, which the server must offer.

        Leave out a setting that older servers do not know.
        """
        match = EXTENSION.match(statement.text)
        if match:
            self.extensions.add(folded(statement.words[match[0].count(" ")]))
        if statement.words == TIMEOUT and UNLIMITED.fullmatch(source[statement.start : statement.end]):
            self.left_out.append((statement.start, statement.end))
        return match is not None
