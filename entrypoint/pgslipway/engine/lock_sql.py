"""The SQL of the migration lock: trying, keeping and giving it back, and who holds it."""

import hashlib
from collections.abc import Mapping

from ..quote import quote_literal

IS_DIRECT = "SELECT 1 WHERE pg_catalog.pg_backend_pid() = {pid}"
PID = "SELECT pg_catalog.pg_backend_pid() FROM pg_catalog.pg_class LIMIT 1"
"""A query of the system catalogs: Pgpool-II does not ask a standby then."""
LOCKED, DONE, WAIT = "SELECT 2", "SELECT 1", "SELECT 0"
# Two rows where the lock is ours now, none where it is not and something is pending, one where nothing is.
TRY = "SELECT FROM pg_catalog.generate_series(1, CASE WHEN {lock} THEN 2 WHEN EXISTS ({undone}) THEN 0 ELSE 1 END)"
"""Its tag is the answer: a simple query leaves no portal open, whose snapshot would stop concurrent index builds."""
ANYTHING = "SELECT"
"""The query that says that something is pending."""
# By a query, since older servers do not know all of them. The view of all settings would do as well, but takes ten
# times as long, and this is sent for each file.
SET = """
SELECT pg_catalog.set_config(name, value, {is_local}) FROM (VALUES {pairs}) AS t (name, value)
 WHERE pg_catalog.current_setting(name, true) IS NOT NULL"""
LIFTED = {"idle_in_transaction_session_timeout": "0", "transaction_timeout": "0", "statement_timeout": "0"}


def set_sql(settings: Mapping[str, str], scope: str) -> str:
    """Return a query that sets such settings as the server knows, for the SESSION or the transaction (LOCAL)."""
    pairs = ", ".join(f"({quote_literal(name)}, {quote_literal(value)})" for name, value in settings.items())
    return SET.format(is_local="true" if scope == "LOCAL" else "false", pairs=pairs)


BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; {set_sql(LIFTED, 'LOCAL')};"
KEEP = "SET idle_session_timeout = 0;"
"""The server would end an idle session that holds the lock, as ours is before a busy file is tried again."""
TRY_LOCK = "pg_catalog.pg_try_advisory_lock({key}) AND pg_catalog.pg_try_advisory_lock_shared({key})"
"""A session holds it in both modes, which never disturb each other in one session."""
IS_LOCKED = """
CASE WHEN pg_catalog.pg_advisory_unlock_shared({key}) THEN pg_catalog.pg_try_advisory_lock_shared({key}) ELSE false END
"""
"""That the session still has the lock, told by giving the shared one back and taking it again while the other one keeps
everybody out: a look into pg_locks takes some tenths of a millisecond, and this is asked for each file."""
UNLOCK = """
SELECT pg_catalog.pg_advisory_unlock_shared({key}), pg_catalog.pg_advisory_unlock({key}); RESET idle_session_timeout
"""
# The rows of pg_locks that are this lock in this database; it shows the key as two unsigned halves.
IS_OURS = """
l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
AND l.classid = '{high}'::pg_catalog.oid AND l.objid = '{low}'::pg_catalog.oid
AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""
HELD_BY = "EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = {pid} AND {is_ours})"
# Who holds the lock: a pid to recognise the session by, and a description for people.
HOLDER = """
SELECT l.pid, pg_catalog.format('pid %s (%s from %s, connected since %s)', l.pid,
           coalesce(nullif(a.application_name, ''), 'unknown'), coalesce(a.client_addr::text, 'a local socket'),
           coalesce(pg_catalog.date_trunc('second', a.backend_start)::text, 'an unknown time')) AS name
  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE {is_ours}
"""
# One row where nobody else uses a server connection of the pooler, and the server has a slot for one more: a pooler
# that gives none then has one place only. Other roles' addresses may be hidden; those count as the pooler's.
IS_ALONE = """
SELECT 1 WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity a
     WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.datname = pg_catalog.current_database()
       AND a.backend_type = 'client backend'
       AND (a.client_addr IS NOT DISTINCT FROM pg_catalog.inet_client_addr() OR a.query = '<insufficient privilege>'))
   AND (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')
       < (SELECT pg_catalog.sum(CASE name WHEN 'max_connections' THEN 1 ELSE -1 END * setting::int)
            FROM pg_catalog.pg_settings
           WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections'))
"""


def lock_key(schema: str, table: str) -> int:
    """Return the key of the advisory lock, a signed 64-bit number; it must stay as it is for ever."""
    digest = hashlib.sha256(f"pgslipway:{schema}.{table}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def try_sql(lock: str, undone: str) -> str:
    """Return the query that evaluates the condition `lock`, and, where that is false, the query `undone`."""
    return TRY.format(lock=lock, undone=undone)


def is_ours_sql(key: int) -> str:
    """Return the condition that finds the lock in pg_locks."""
    unsigned = key % 2**64
    return IS_OURS.format(high=unsigned >> 32, low=unsigned % 2**32)
