"""The state that a file leaves in its session, and the SQL that drops it.

A file must do the same on a database that got its files one by one as on a new one that gets all of them in one
session. So no file finds a setting, a role, a temporary table, a cursor, a prepared statement, an advisory lock or
the current value of a sequence of an earlier file.
"""

from ..dial import Connection
from ..libpq import APPLICATION_NAME
from .lock import Held
from .lock_sql import KEEP

OURS = ("pgslipway_record", "pgslipway_verify", "pgslipway_settings", "pgslipway_end")
"""The statements that `prepared` prepares."""
NO_OTHERS = f"(SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements) = {len(OURS)}"
"""That no file has prepared a statement and left it, as long as ours are there."""
PREPARED_AND_LOCKED = "DEALLOCATE ALL; SELECT pg_catalog.pg_advisory_unlock_all();"
POOLED_NAME = f"SET application_name = '{APPLICATION_NAME}';"
"""A pooler takes over what RESET ALL makes of it; the watch and those who wait for us know us by it."""
PUT_BACK = "CLOSE ALL; UNLISTEN *; DISCARD SEQUENCES; {prepared} RESET ALL; {name} DISCARD TEMP;"
CLEAN = f"CLOSE ALL; UNLISTEN *; DISCARD SEQUENCES; {PREPARED_AND_LOCKED} RESET ALL; {POOLED_NAME}"
"""Drops everything but temporary tables that a statement may have left in a session that is not ours."""
# The transaction's lock bridges the moment in which the session has none: nobody else can take it in between. Where the
# file has dropped the session's lock, nothing is taken again: another runner may have been at work meanwhile.
ONLY_OURS = """
CASE WHEN pg_catalog.pg_advisory_unlock_shared({key}) AND pg_catalog.pg_try_advisory_xact_lock({key}) THEN
    CASE WHEN pg_catalog.pg_advisory_unlock_all() IS NOT NULL THEN
        pg_catalog.pg_try_advisory_lock({key}) AND pg_catalog.pg_try_advisory_lock_shared({key}) END
ELSE pg_catalog.pg_advisory_unlock_all() IS NULL END
"""
"""Drops the session's advisory locks but ours; true where ours was still held. A look into pg_locks for the others
takes eight times as long."""
AS_SENT = {"client_encoding": "UTF8", "standard_conforming_strings": "on"}
"""How the server has to read what is sent: as it was checked, and as the driver encodes it."""
# The driver's own prepared statements do not come from SQL.
PREPARED = """
SELECT pg_catalog.format('DEALLOCATE %I', name) AS sql FROM pg_catalog.pg_prepared_statements WHERE from_sql
"""


def is_lent(held: Held) -> bool:
    """Tell whether the connection is an application's, with statements that its driver has prepared."""
    return held.another is None


def keeps_prepared(held: Held) -> bool:
    """Tell whether statements of ours may stay prepared: not on an application's connection, nor behind any pooler."""
    return held.is_direct and not is_lent(held) and held.pid == held.connection.get_server_pid()


def drop_prepared_sql(held: Held) -> str:
    """Return the SQL that drops all prepared statements, where none but a file's can be there."""
    return "" if is_lent(held) else "DEALLOCATE ALL;"


def put_back_sql(held: Held) -> str:
    """Return the SQL that puts session state back at the end of a file's transaction."""
    if held.is_direct:
        return PUT_BACK.format(prepared="" if keeps_prepared(held) else drop_prepared_sql(held), name=KEEP)
    return PUT_BACK.format(prepared=PREPARED_AND_LOCKED, name=POOLED_NAME)


def is_put_back_sql(held: Held, key: int) -> str:
    """Return the condition that the lock with this `key` is ours and nothing is left to drop, for after COMMIT.

    It drops the other advisory locks of a session of ours.
    """
    condition = ONLY_OURS.format(key=key) if held.is_direct else held.condition
    if keeps_prepared(held):
        nothing_left = NO_OTHERS
    elif is_lent(held):
        nothing_left = f"NOT EXISTS ({PREPARED})"
    else:
        return condition
    # AND would ask the cheaper question first, and no lock would be dropped where that says no.
    return f"CASE WHEN {condition} THEN {nothing_left} ELSE false END"


async def drop_prepared(held: Held) -> None:
    """Drop by name what files have prepared on an application's connection: its driver's statements stay."""
    if is_lent(held):
        connection: Connection = held.connection
        for row in await connection.fetch(PREPARED):
            await connection.execute(row["sql"])


def is_read_as_sent(connection: Connection) -> bool:
    """Tell whether the server reads the next message as it is meant; it reports a change after each message."""
    reported = connection.get_settings()
    return all(getattr(reported, name, value) == value for name, value in AS_SENT.items())


async def have_it_read_as_sent(held: Held) -> None:
    """Put back how the server reads the next statement, where a function of the one before has changed that.

    In one message, Postgres reads all statements before it runs the first: so a large file, which goes statement by
    statement, means the same as a small one.
    """
    connection: Connection = held.connection
    if not is_read_as_sent(connection) and (held.is_direct or connection.is_in_transaction()):
        await connection.execute("".join(f"SET {name} = '{value}';" for name, value in AS_SENT.items()))
