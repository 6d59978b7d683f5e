"""Statements that act on the whole server: on one that others use, a rehearsal refuses them before anything runs."""

import asyncio
import re
from collections.abc import Iterator

from ...config import Config
from ...dial import Connection
from ...engine.message import excerpt
from ...engine.sql import SqlError, Statement, statements
from ...engine.undo import undo_of
from ...engine.variables import checked
from ...errors import BadMigrations, Problem
from ...migrations import Migration, discover_all

OBJECTS = r"(ROLE|USER(?! MAPPING\b)|GROUP|DATABASE|TABLESPACE|SUBSCRIPTION)\b"
CATALOGS = (
    "pg_authid", "pg_auth_members", "pg_database", "pg_db_role_setting", "pg_tablespace", "pg_subscription",
    "pg_parameter_acl", "pg_replication_origin", "pg_shdescription", "pg_shseclabel",
)  # fmt: skip
"""The catalogs that all databases share; but for pg_shdepend, which every owner and every grant is in."""
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
# The shared catalogs that this transaction has written to, whatever function did it. Their locks are held until it
# ends, but for those of GRANT and of replication origins, whose rows tell. What is written about the own database alone
# does not count: that goes with it.
SHARED_WRITES = f"""
WITH own AS (
    SELECT oid, pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.xid AS xid
      FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
), written (name, is_own) AS (
    SELECT 'pg_database', d.oid = own.oid FROM pg_catalog.pg_database d JOIN own ON d.xmin = own.xid
    UNION ALL SELECT 'pg_db_role_setting', s.setdatabase = own.oid
      FROM pg_catalog.pg_db_role_setting s JOIN own ON s.xmin = own.xid
    UNION ALL SELECT 'pg_shdescription', s.objoid = own.oid
      FROM pg_catalog.pg_shdescription s JOIN own ON s.xmin = own.xid
    UNION ALL SELECT 'pg_tablespace', false FROM pg_catalog.pg_tablespace t JOIN own ON t.xmin = own.xid
    UNION ALL SELECT 'pg_replication_origin', false
      FROM pg_catalog.pg_replication_origin o JOIN own ON o.xmin = own.xid
), locked (name) AS (
    SELECT c.relname::text FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
     WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.database = 0 AND l.granted
       AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
       AND c.relname IN ({", ".join(f"'{name}'" for name in CATALOGS)})
)
SELECT name FROM (SELECT name FROM locked UNION SELECT name FROM written) AS found
 WHERE (SELECT pg_catalog.bool_and(is_own) FROM written WHERE written.name = found.name) IS NOT TRUE
 ORDER BY name
"""


async def shared_writes(connection: Connection) -> list[str]:
    """Return the shared catalogs that the open transaction has written to, but about its own database."""
    return [row["name"] for row in await connection.fetch(SHARED_WRITES)]


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
