"""Statements that act on the whole server: on one that others use, a rehearsal refuses them before anything runs."""

import asyncio
import re
from collections.abc import Iterator

from ...config import Config
from ...engine.message import excerpt
from ...engine.sql import SqlError, Statement, statements
from ...engine.undo import undo_of
from ...engine.variables import checked
from ...errors import BadMigrations, Problem
from ...migrations import Migration, discover_all
from .shared import CATALOGS

OBJECTS = r"(ROLE|USER(?! MAPPING\b)|GROUP|DATABASE|TABLESPACE|SUBSCRIPTION)\b"
FUNCTIONS = (
    "pg_create_physical_replication_slot", "pg_create_logical_replication_slot", "pg_drop_replication_slot",
    "pg_copy_physical_replication_slot", "pg_copy_logical_replication_slot", "pg_replication_slot_advance",
    "pg_replication_origin_create", "pg_replication_origin_drop", "pg_replication_origin_advance",
    "pg_reload_conf", "pg_rotate_logfile", "pg_switch_wal", "pg_create_restore_point", "pg_promote",
    "pg_cancel_backend", "pg_terminate_backend",
)  # fmt: skip
"""The functions that act beyond the database that they are called in."""
WHOLE_SERVER = re.compile(
    rf"(CREATE|ALTER|DROP) {OBJECTS}|(COMMENT|SECURITY LABEL( FOR( \S+)?)?) ON {OBJECTS}"
    r"|ALTER SYSTEM\b|(REASSIGN|DROP) OWNED\b"
    r"|(GRANT|REVOKE) (?!.*\bON\b)|(GRANT|REVOKE) .*\bON (DATABASE|TABLESPACE|PARAMETER) (?!TO\b|FROM\b)"
    rf"|(INSERT INTO|UPDATE( ONLY)?|DELETE FROM( ONLY)?) (PG_CATALOG )?({'|'.join(CATALOGS).upper()})\b"
    rf"|(SELECT|WITH|INSERT)\b.*\b({'|'.join(FUNCTIONS).upper()})\b"
)
REFUSED = (
    "this acts on the whole server, and so beyond the scratch database; rehearse it without --on, on the embedded "
    "Postgres, which is thrown away as a whole"
)


async def refuse_whole_server(config: Config, *, down: bool = False) -> None:
    """Raise BadMigrations with every statement of the folder's files that acts on the whole server.

    `down` has their down parts looked at as well.
    """
    problems: list[Problem] = []
    for migration in texts(config, down=down):
        if migration.is_sql:
            filled, _ = checked(migration, config.variables)
            problems += whole_server(filled)
        await asyncio.sleep(0)  # a signal may come while many files are read
    if problems:
        raise BadMigrations(*problems)


def texts(config: Config, *, down: bool) -> Iterator[Migration]:
    """Yield the files of the folder, and their down parts where there are any. Raises BadMigrations."""
    migrations, repeatable = discover_all(config.dir, config.layout)
    yield from migrations
    yield from repeatable
    for migration in migrations if down else ():
        try:
            yield undo_of(migration, config.dir)
        except BadMigrations:  # which `down` tells
            continue


def whole_server(migration: Migration) -> Iterator[Problem]:
    """Yield a problem for each statement of a file that acts on the whole server."""
    source = migration.read()
    try:
        for statement in statements(source):
            if acts_on_whole_server(statement):
                yield excerpt(migration.filename, source, statement.start, REFUSED)
    except SqlError:  # the check of the file tells
        return


def acts_on_whole_server(statement: Statement) -> bool:
    """Tell whether a statement acts on more than the database that it runs in."""
    return WHOLE_SERVER.match(statement.text) is not None
