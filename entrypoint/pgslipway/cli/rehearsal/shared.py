"""The catalogs that all databases of a server share, and the question which of them a transaction has written to."""

from ...dial import Connection

CATALOGS = (
    "pg_authid", "pg_auth_members", "pg_database", "pg_db_role_setting", "pg_tablespace", "pg_subscription",
    "pg_parameter_acl", "pg_replication_origin", "pg_shdescription", "pg_shseclabel",
)  # fmt: skip
"""The catalogs that all databases share; but for pg_shdepend, which every owner and every grant is in."""
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
