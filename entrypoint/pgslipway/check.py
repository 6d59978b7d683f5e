"""What can be known from a file alone: how it wants to be run, and what in it can never work."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from .message import NO_TRANSACTION, excerpt
from .migrations import Migration, Source
from .sql import SqlError, Statement, leading_comments, quote_name, statements

CONTROL = re.compile(
    r"(BEGIN|START TRANSACTION|END|ABORT|PREPARE TRANSACTION|(COMMIT|ROLLBACK)(?! PREPARED)"
    r"(?! (WORK |TRANSACTION )?TO\b))\b"
)
OPENING = re.compile(r"(BEGIN( WORK| TRANSACTION)?|START TRANSACTION)")
CLOSING = re.compile(r"(COMMIT|END)( WORK| TRANSACTION)?")
OUTSIDE = re.compile(
    r"(CREATE (UNIQUE )?INDEX CONCURRENTLY|DROP INDEX CONCURRENTLY"
    r"|REINDEX .*\bCONCURRENTLY(?! (FALSE|OFF))|REINDEX ((?!INDEX |TABLE )\S+ )*?(SCHEMA|DATABASE|SYSTEM)"
    r"|VACUUM|CLUSTER( VERBOSE)?$|(CREATE|DROP) (DATABASE|TABLESPACE)|ALTER DATABASE .+ SET TABLESPACE|ALTER SYSTEM"
    r"|ALTER TABLE .+ DETACH PARTITION .+ CONCURRENTLY|CREATE SUBSCRIPTION (?!.*\b(CONNECT|CREATE_SLOT) (FALSE|OFF)\b)"
    r"|DISCARD ALL|(COMMIT|ROLLBACK) PREPARED)\b"
)
"""What Postgres refuses inside a transaction block (25001): PreventInTransactionBlock in its sources."""
UNNAMED_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX CONCURRENTLY ON\b")
COPY = re.compile(r"COPY .*\b(FROM STDIN|TO STDOUT)\b")
CONCURRENT_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX CONCURRENTLY (IF NOT EXISTS )?\S")
SETTING = re.compile(
    rb"SET\s+(?:SESSION\s+|LOCAL\s+)?(client_encoding|standard_conforming_strings)\s*(?:=|\sTO\s)\s*'?([\w-]*)",
    re.IGNORECASE,
)
ALLOWED = {
    "client_encoding": ("utf8", "utf-8", "unicode"),
    "standard_conforming_strings": ("on", "true", "yes", "1"),
}
AFTER_TABLE = {"USING", "INCLUDE", "NULLS", "WITH", "TABLESPACE", "WHERE"}
EXTENSION = re.compile(r"CREATE EXTENSION (IF NOT EXISTS )?\S")
NO_TRANSACTION_LINE = re.compile(r"no-transaction", re.IGNORECASE)
MINIMUM_VERSION = re.compile(r"minimum-version:(.*)", re.IGNORECASE)


@dataclass(slots=True)
class Contents:
    """What a look at a file's text tells."""

    transactional: bool = True
    minimum_version: int | None = None
    wrapper: tuple[Statement, ...] = ()
    """The BEGIN and COMMIT around the whole file; they are not sent, since every file is a transaction."""
    count: int = 0
    concurrent_indexes: set[tuple[str, str]] = field(default_factory=set)
    """The indexes that it builds concurrently: name, and quoted name of the table."""
    extensions: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def note_names(self, statement: Statement) -> None:
        """Keep the names of what `statement` makes, where they matter later."""
        if match := EXTENSION.match(statement.text):
            self.extensions.add(folded(statement.words[match[0].count(" ")]))
        if match := CONCURRENT_INDEX.match(statement.text):
            index = match[0].count(" ")
            self.concurrent_indexes.add((folded(statement.words[index]), table_name(statement.words[index + 1 :])))


def check(migration: Migration, source: Source) -> Contents:
    """Look at the text of `migration` and return what it wants and what is wrong with it."""
    contents = Contents()
    try:
        refuse_nul(source)
        examine(migration, source, contents)
    except SqlError as error:
        contents.problems.append(excerpt(migration.filename, source, error.offset, str(error)))
    return contents


def refuse_nul(source: Source) -> None:
    """Raise SqlError for a NUL byte, which the protocol takes for the end of the text."""
    if (position := source.find(b"\0")) >= 0:
        raise SqlError(position, "a NUL byte, which Postgres cannot store; remove it")


def examine(migration: Migration, source: Source, contents: Contents) -> None:
    """Fill `contents`. Raises SqlError where the text ends to be SQL."""
    read_directives(migration, source, contents)
    control = []
    for statement in statements(source):
        contents.count += 1
        if CONTROL.match(statement.text):
            control.append((contents.count, statement))
        if message := refusal(statement, source, contents.transactional):
            contents.problems.append(excerpt(migration.filename, source, statement.start, message))
        contents.note_names(statement)
    if is_wrapped(control, contents):
        contents.wrapper = tuple(statement for _, statement in control)
        control = []
    for _, statement in control:
        message = transaction_control(statement, contents.transactional)
        contents.problems.append(excerpt(migration.filename, source, statement.start, message))
    if not contents.transactional and contents.count > 1:
        contents.problems.append(
            f"{migration.filename}: {contents.count} statements in a file without a transaction; "
            "this version runs one statement for each such file: split it"
        )


def read_directives(migration: Migration, source: Source, contents: Contents) -> None:
    """Take over what the leading comment asks for."""
    for comment in leading_comments(source):
        if NO_TRANSACTION_LINE.fullmatch(comment):
            contents.transactional = False
        elif match := MINIMUM_VERSION.fullmatch(comment):
            value = match[1].strip()
            if re.fullmatch(r"[0-9]{1,19}", value) and int(value) <= migration.version:
                contents.minimum_version = int(value)
            else:
                contents.problems.append(
                    f"{migration.filename}: minimum-version: {value} must be a version that is not above "
                    f"the file's own, {migration.version}"
                )


def refusal(statement: Statement, source: Source, transactional: bool) -> str | None:
    """Say why `statement` can never work in such a file and what to write instead, or None."""
    text = statement.text
    if COPY.match(text):
        return "COPY from or to the client needs a client's data stream; write INSERT … VALUES, or COPY a server file"
    if text.startswith("SET ") and (given := SETTING.match(source[statement.start : statement.end])):
        setting, value = given[1].decode().lower(), given[2].decode().lower()
        if value not in ALLOWED[setting]:
            return f"the file is read and sent with {setting} = {ALLOWED[setting][0]}; remove this line"
    if UNNAMED_INDEX.match(text):
        return "an index that is built concurrently needs a name here, so that a run that was cut off can go on"
    if transactional and (match := OUTSIDE.match(text)):
        return f"{match[0].strip()} cannot run inside a transaction; {NO_TRANSACTION}"
    return None


def transaction_control(statement: Statement, transactional: bool) -> str:
    """Say why `statement`, which begins or ends a transaction, is refused."""
    if not transactional:
        return f"{statement.text}: a file without a transaction cannot have transaction control; remove it"
    return f"{statement.text}: a file is one transaction already; remove it (SAVEPOINT and ROLLBACK TO are fine)"


def is_wrapped(control: list[tuple[int, Statement]], contents: Contents) -> bool:
    """Tell whether the only transaction control is a plain BEGIN at the start and a COMMIT at the end."""
    if not contents.transactional or len(control) != 2:
        return False
    (first, opening), (last, closing) = control
    return (
        (first, last) == (1, contents.count)
        and OPENING.fullmatch(opening.text) is not None
        and CLOSING.fullmatch(closing.text) is not None
    )


def folded(word: str) -> str:
    """Return the name that a word stands for, as Postgres folds it."""
    if word.startswith('"'):
        return word[1:-1].replace('""', '"')
    return word.encode().lower().decode()  # bytes, because only ASCII is folded


def table_name(words: Sequence[str]) -> str:
    """Return the quoted name of the table from the words "ON [ONLY] schema table USING …"."""
    named = [word for word in words[1:3] if word != "ONLY"] + list(words[3:4])
    parts = [named[0], *takewhile(lambda word: word not in AFTER_TABLE, named[1:2])] if named else []
    return ".".join(quote_name(folded(part)) for part in parts)
