"""The verdict on each statement: whether it keeps others from a table for as long as a table is large."""

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...engine.sql import SqlError, leading_comments
from ...errors import BadMigrations, Problem
from ...migrations import Migration
from ...words import count, few
from .effects import EVERYBODY, Effect, Observed
from .looks import Relation

DIRECTIVE = re.compile(r"blocking:(.*)", re.IGNORECASE)
BLOCKING, ACCEPTED = "blocking", "accepted"
QUEUE = "locks-and-the-queue-behind-them"
PAGE = "docs/writing-migrations.md"
SECTIONS = (
    (r"CREATE (UNIQUE )?INDEX|REINDEX|CLUSTER", "indexes"),
    (r".*\bSET NOT NULL\b|.*\bADD CONSTRAINT \S* NOT NULL\b", "not-null"),
    (r".*\bADD (CONSTRAINT \S* )?(PRIMARY KEY|UNIQUE|EXCLUDE)", "indexes"),
    (r".*\b(CHECK|FOREIGN KEY|REFERENCES|VALIDATE CONSTRAINT)\b", "constraints"),
    (r".*\bALTER (COLUMN )?\S* (SET DATA )?TYPE\b", "another-type"),
    (r"ALTER TABLE .*\bADD\b", "columns"),
)
"""The words of a statement, and the section of the page that says what to write instead."""
FILLS = re.compile(r"(INSERT|COPY|MERGE|WITH|SELECT|DO|CALL)\b")
"""What may fill a table."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A statement that blocks."""

    statement: Observed
    closed: Sequence[Effect]
    """The tables that nobody can write to, or use, until the transaction ends."""
    work: Sequence[Observed]
    """The statements that read or rewrite a whole table meanwhile, perhaps itself."""
    is_accepted: bool
    """Its file says that it may block."""

    @property
    def verdict(self) -> str:
        """The word for it."""
        return ACCEPTED if self.is_accepted else BLOCKING

    @property
    def section(self) -> str:
        """The section of the page that says what to write instead."""
        if self.statement not in self.work:
            return QUEUE
        words = self.statement.kind
        return next((section for pattern, section in SECTIONS if re.match(pattern, words)), QUEUE)

    @property
    def problem(self) -> Problem:
        """The finding in words, at its place."""
        one = self.statement
        can = "nobody can read or write" if any(e.blocks == EVERYBODY for e in self.closed) else "nobody can write to"
        tables = few([effect.relation.name for effect in self.closed])
        lock = max(self.closed, key=lambda effect: effect.lock).lock_name
        text = f"{can} {tables} ({lock}) while {', '.join(self.deeds())}; see {PAGE}#{self.section}\n  {one.text}"
        return Problem(text, one.file, one.line)

    def deeds(self) -> Iterator[str]:
        """Yield who reads and rewrites which tables."""
        for one in self.work[:3]:
            rewritten = [effect.relation.name for effect in one.effects if effect.rewrites]
            read = [effect.relation.name for effect in one.effects if effect.reads]
            deeds = [f"rewrites {few(rewritten)}"] * bool(rewritten) + [f"reads all of {few(read)}"] * bool(read)
            yield f"{'it' if one is self.statement else f'line {one.line}'} {' and '.join(deeds)}"
        if len(self.work) > 3:
            yield f"{count(len(self.work) - 3, 'more statement')} do so, too"


def findings(observed: Sequence[Observed], accepting: Container[str]) -> Iterator[Finding]:
    """Yield the statements that block; `accepting` are the files that may.

    Blocking is a lock that keeps out writers, held while this or a later statement of the same transaction reads or
    rewrites a whole table.
    """
    for _, group in groupby(observed, key=lambda one: (one.file, one.transaction)):
        statements = [*group]
        works = working(statements)
        for place, one in enumerate(statements):
            needs_lock = works[place] and not one.changes_rows
            shut = [
                effect
                for effect in one.effects
                if effect.blocks and (effect.is_new or (needs_lock and is_work(effect)))
            ]
            tables = frozenset(effect.relation for effect in shut)
            if work := [*work_meanwhile(statements[place:] if shut else (), works[place:], tables)]:
                yield Finding(one, shut, work, one.file in accepting)


def work_meanwhile(
    statements: Sequence[Observed], works: Sequence[bool], tables: frozenset[Relation]
) -> Iterator[Observed]:
    """Yield the statements that work, as long as one of these tables is closed: a rolled back savepoint opens it."""
    for one, is_long in zip(statements, works, strict=False):
        if tables.isdisjoint(one.closed):
            return
        if is_long:
            yield one


def working(statements: Sequence[Observed]) -> list[bool]:
    """Tell of each statement of a transaction whether it reads or rewrites a whole table.

    That takes the longer the larger the table is; but what a TRUNCATE has emptied before, and nobody has filled again.
    """
    found: list[bool] = []
    empty: set[Relation] = set()
    for one in statements:
        if one.truncates:
            empty |= {effect.relation for effect in one.effects if effect.rewrites}
        elif FILLS.match(one.kind):
            empty.clear()
        found.append(
            not one.truncates and any(is_work(effect) and effect.relation not in empty for effect in one.effects)
        )
    return found


def is_work(effect: Effect) -> bool:
    """Tell whether a table is read or rewritten as a whole."""
    return effect.reads or effect.rewrites


def is_accepted(migration: Migration) -> bool:
    """Tell whether the file says that it may block. Raises BadMigrations for another word after `blocking:`."""
    try:
        words = [
            match[1].strip() for line in leading_comments(migration.read()) if (match := DIRECTIVE.fullmatch(line))
        ]
    except SqlError:  # the check of the file tells
        return False
    if others := [word for word in words if word.lower() != ACCEPTED]:
        raise BadMigrations(Problem(f"blocking: expected {ACCEPTED}, not {others[0]!r}", migration.filename))
    return bool(words)
