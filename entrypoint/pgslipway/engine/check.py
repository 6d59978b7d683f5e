"""The check of a file alone: how it wants to be run, and which of its statements can never work."""

import codecs
import re
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ..errors import Problem
from ..files import LARGE, PLAIN, Source
from ..layouts.versions import numbers
from ..migrations import Migration
from . import copying
from .assignments import ISOLATION, LEVELS, MODE, assignments, refused
from .contents import Contents
from .markers import marker
from .message import NO_TRANSACTION, excerpt
from .sql import SqlError, Statement, leading_comments, statements, text_start, tokens
from .squash import SQUASH
from .wishes import wishes

At: TypeAlias = Callable[[int, str], Problem]
"""Makes a problem of a byte of the file and a message."""

CONTROL = re.compile(
    r"(BEGIN|START TRANSACTION|END|ABORT|PREPARE TRANSACTION|(COMMIT|ROLLBACK)(?! PREPARED)"
    r"(?! (WORK |TRANSACTION )?TO\b))\b"
)
OPENING = re.compile(rf"(BEGIN( WORK| TRANSACTION)?|START TRANSACTION)( ({MODE.pattern}))*")
CLOSING = re.compile(r"(COMMIT|END)( WORK| TRANSACTION)?")
OUTSIDE = re.compile(
    r"(CREATE (UNIQUE )?INDEX CONCURRENTLY|DROP INDEX CONCURRENTLY"
    r"|REINDEX .*\bCONCURRENTLY(?! (FALSE|OFF))|REINDEX ((?!INDEX |TABLE )\S+ )*?(SCHEMA|DATABASE|SYSTEM)"
    r"|VACUUM|CLUSTER( VERBOSE)?$|REPACK$|(CREATE|DROP) (DATABASE|TABLESPACE)"
    r"|ALTER DATABASE .+ SET TABLESPACE|ALTER SYSTEM"
    r"|ALTER TABLE .+ DETACH PARTITION .+ CONCURRENTLY|CREATE SUBSCRIPTION (?!.*\b(CONNECT|CREATE_SLOT) (FALSE|OFF)\b)"
    r"|DISCARD ALL|(COMMIT|ROLLBACK) PREPARED)\b"
)
"""The statements that Postgres refuses inside a transaction block (25001): PreventInTransactionBlock in its sources."""
FIND_OUT = {"flyway", "prisma"}
"""The layouts whose tools run such a statement without being told that it needs no transaction."""
TAKES_NO_SNAPSHOT = re.compile(r"(BEGIN|START|SET|RESET)\b")
LEVEL_SETTINGS = {ISOLATION, f"default_{ISOLATION}"}
USUAL_LEVEL = "READ COMMITTED"
ONE_LEVEL = (
    "a file is one transaction, whose isolation level is set before its first query; write SET TRANSACTION ISOLATION "
    "LEVEL … once, as the first statement of the file"
)
NO_LEVEL = "the statements of a file without a transaction run at READ COMMITTED; remove this"
UNNAMED_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX CONCURRENTLY ON\b")
SETTINGS = re.compile(r"(SET|RESET|SELECT (PG_CATALOG )?SET_CONFIG)\b")
"""These change the session and nothing else."""
TEMPORARY = re.compile(
    r"CREATE (OR REPLACE )?((GLOBAL|LOCAL) )?TEMP(ORARY)? (RECURSIVE )?(TABLE|VIEW|SEQUENCE) (IF NOT EXISTS )?(?=\S)"
)
EXTENSION_UPDATE = re.compile(r"ALTER EXTENSION \S+ UPDATE\b")
WITHOUT_POOLER = "connect to Postgres directly, or set MIGRATE_LOCK=session where the pooler is in session mode"
NEEDS_SESSION = f"behind a pooler this would stay with whoever uses the server connection next; {WITHOUT_POOLER}"
NEEDS_NEW_SESSION = f"this must be the first command of a session, which a pooler does not give; {WITHOUT_POOLER}"
NEEDS_ROLE = (
    "this runs outside a transaction, where MIGRATE_ROLE, or the schema of a target, cannot be set behind a pooler; "
    f"{WITHOUT_POOLER}"
)
OWNED_BY_ONE = (
    "in which schema? The schema of the first target would own the extension, and no other target would find it: write "
    "CREATE EXTENSION … SCHEMA public, and have it searched (MIGRATE_TARGET_PATH=public)"
)
EXTENSION_PLACED = re.compile(r"CREATE EXTENSION .*\bSCHEMA \S")
ROLE_TEXT = "the role of a file without a transaction is MIGRATE_ROLE, for its journal too; remove this line"
REFUSED_OUTSIDE = {
    re.compile(pattern): message
    for pattern, message in {
        r"(SET|RESET) ((SESSION|LOCAL) )?(ROLE|SESSION AUTHORIZATION)\b": ROLE_TEXT,
        r"SET (LOCAL|TRANSACTION|CONSTRAINTS)\b": "this has no effect outside a transaction; write SET, without LOCAL",
        r"SET .*(TRANSACTION_READ_ONLY|CHARACTERISTICS)\b": "the journal could not be written any more; remove this",
        r"(SAVEPOINT|RELEASE|ROLLBACK( WORK| TRANSACTION)? TO)\b": "there is no transaction here; remove this",
        r"DISCARD ALL\b": "this would drop the migration lock; write RESET ALL, DISCARD TEMP or DISCARD PLANS",
    }.items()
}
"""The statements that a file without a transaction must not have."""
UNICODE_NAME = re.compile(rb'U&"', re.IGNORECASE)
DEALLOCATE = re.compile(rb"DEALLOCATE", re.IGNORECASE)
"""Wherever it stands: in a block, or in a text that the file executes."""
NO_TRANSACTION_LINE = re.compile(r"no-transaction", re.IGNORECASE)
MINIMUM_VERSION = re.compile(r"minimum-version:(.*)", re.IGNORECASE)


def check(migration: Migration, source: Source) -> Contents:
    """Look at the text of `migration`; return its wishes and its problems."""
    contents = Contents(is_large=len(source) > LARGE)
    at = partial(excerpt, migration.filename, source)
    if not migration.is_sql:
        return Contents(problems=[at(*one) for one in wishes(migration, source)[1]])
    try:
        refuse_nul(source)
        refuse_bom(source)
        take_directives(migration, source, contents)
        take_wishes(migration, source, contents, at)
        contents.drops_prepared = not contents.is_large and DEALLOCATE.search(source) is not None
        if found := marker(source, migration.layout):
            contents.problems.append(at(*found))
        if source.find(b"restrict ") >= 0:
            contents.left_out += [(start, end) for kind, start, end in tokens(source) if kind == "restrict"]
        examine(source, contents, at)
    except SqlError as error:
        contents.problems.append(at(error.offset, str(error)))
    return contents


def refuse_nul(source: Source) -> None:
    """Raise SqlError for a NUL byte, which the protocol takes for the end of the text."""
    if (position := source.find(b"\0")) >= 0:
        raise SqlError(position, "a NUL byte, which Postgres cannot store; remove it")


def refuse_bom(source: Source) -> None:
    """Raise SqlError for a byte order mark within the SQL, which Postgres takes for a part of a name."""
    if source.find(codecs.BOM_UTF8[:1], text_start(source)) >= 0:  # one byte is found ten times as fast
        for kind, start, end in tokens(source):
            if kind == "word" and (place := source[start:end].find(codecs.BOM_UTF8)) >= 0:
                raise SqlError(start + place, "a byte order mark, as two files put together have one; remove it")


def examine(source: Source, contents: Contents, at: At) -> None:
    """Fill `contents` statement by statement. Raises SqlError where the text is no SQL any more."""
    control = []
    for statement in statements(source):
        contents.count += 1
        contents.place(statement)
        if CONTROL.match(statement.text):
            control.append((contents.count, statement))
        if message := refusal(statement, source, contents):
            contents.problems.append(at(statement.start, message))
        if not contents.transactional:
            note_needs(statement, contents, at)
        if contents.note(statement, source) and not EXTENSION_PLACED.match(statement.text):
            contents.owned_by_one.append(at(statement.start, OWNED_BY_ONE))
    if is_wrapped(control, contents):
        contents.wrapper = tuple(statement for _, statement in control)
        control = []
    for _, statement in control:
        contents.problems.append(at(statement.start, transaction_control(statement, contents.transactional)))


def note_needs(statement: Statement, contents: Contents, at: At) -> None:
    """Keep why a statement of a file without a transaction needs a session of its own, if it does."""
    needs, found = NEEDS_SESSION, contents.session_state
    if contents.count == 1 and EXTENSION_UPDATE.match(statement.text):
        needs = NEEDS_NEW_SESSION
    elif OUTSIDE.match(statement.text):
        needs, found = NEEDS_ROLE, contents.outside
    elif not SETTINGS.match(statement.text) and not TEMPORARY.match(statement.text):
        return
    found.append(at(statement.start, needs))


def take_directives(migration: Migration, source: Source, contents: Contents) -> None:
    """Take over the directives of the leading comment."""
    for comment in leading_comments(source):
        if NO_TRANSACTION_LINE.fullmatch(comment):
            contents.transactional = False
        elif SQUASH.fullmatch(comment):
            contents.is_squash = True
        elif match := MINIMUM_VERSION.fullmatch(comment):
            value = match[1].strip()
            found = numbers(migration.layout, value)
            if found and found.start <= migration.version:
                contents.minimum_version = found.start
            else:
                message = f"{value} must be a version that is not above the file's own, {migration.text}"
                contents.problems.append(Problem(f"minimum-version: {message}", migration.filename))


def take_wishes(migration: Migration, source: Source, contents: Contents, at: At) -> None:
    """Take over what the layout's tool would read in the file, or find out about its statements."""
    if migration.layout == PLAIN:
        return
    without_transaction, refused = wishes(migration, source)
    contents.problems += [at(*one) for one in refused]
    contents.may_end_committed = True
    if migration.layout in FIND_OUT:
        without_transaction |= any(OUTSIDE.match(statement.text) for statement in statements(source))
    contents.transactional &= not without_transaction


def refusal(statement: Statement, source: Source, contents: Contents) -> str | None:
    """Say why `statement` can never work in such a file, and its replacement; or None."""
    text, transactional = statement.text, contents.transactional
    is_misplaced = CONTROL.match(text) and (contents.count > 1 or not transactional)  # which has a message of its own
    for setting, value in () if is_misplaced else assignments(statement, source):
        taken = take_level(value, contents) if setting in LEVEL_SETTINGS else None
        if message := taken or refused(setting, value):
            return message
    contents.has_query |= not TAKES_NO_SNAPSHOT.match(text)
    if message := copying.refusal(statement, transactional=transactional):
        return message
    if UNNAMED_INDEX.match(text):
        return "an index that is built concurrently needs a name here, so that a run that was cut off can go on"
    if transactional and (match := OUTSIDE.match(text)):
        return f"{match[0].strip()} cannot run inside a transaction; {NO_TRANSACTION}"
    return None if transactional else refusal_outside(text, source[statement.start : statement.end])


def take_level(level: str, contents: Contents) -> str | None:
    """Take over the isolation level that a statement asks for, or say why it cannot have it."""
    if not contents.transactional:
        return NO_LEVEL
    if not contents.has_query and not contents.isolation and level in LEVELS:
        contents.isolation = level.upper()
    is_known = level in LEVELS  # Postgres refuses any other
    return ONE_LEVEL if is_known and level.upper() != (contents.isolation or USUAL_LEVEL) else None


def refusal_outside(text: str, statement: bytes) -> str | None:
    """Say why a statement can never work in a file without a transaction, or None."""
    if OUTSIDE.match(text) and UNICODE_NAME.search(statement):
        return 'write the name without U&"": it is looked up in the catalogs when a run was cut off'
    return next((message for pattern, message in REFUSED_OUTSIDE.items() if pattern.match(text)), None)


def transaction_control(statement: Statement, transactional: bool) -> str:
    """Say why `statement`, which begins or ends a transaction, is refused."""
    if not transactional:
        return f"{statement.text}: a file without a transaction cannot have transaction control; remove it"
    return f"{statement.text}: a file is one transaction already; remove it (SAVEPOINT and ROLLBACK TO are fine)"


def is_wrapped(control: list[tuple[int, Statement]], contents: Contents) -> bool:
    """Tell whether all transaction control is a plain BEGIN at the start and a COMMIT at the end, or that alone."""
    if not contents.transactional:
        return False
    if len(control) == 1 and contents.may_end_committed:
        ((last, closing),) = control
        return last == contents.count and CLOSING.fullmatch(closing.text) is not None
    if len(control) != 2:
        return False
    (first, opening), (last, closing) = control
    return (
        (first, last) == (1, contents.count)
        and OPENING.fullmatch(opening.text) is not None
        and CLOSING.fullmatch(closing.text) is not None
    )
