"""The guard of the server that a scratch database is on: a file whose functions or blocks act on it is rolled back.

A look at the text finds only what stands there. So each transaction that writes to one of our tables, as that of every
file does, is asked at its end what it has written to the catalogs that all databases share.

It does not see the transactions of a procedure that commits, what comes after a SET CONSTRAINTS ALL IMMEDIATE of the
file's own, and what is in no catalog: replication slots, signals to other sessions, files of the server.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ...config import Config
from ...connect import reconnect
from ...driver_errors import root
from ...engine.journal import Journal
from ...engine.repeatable import texts_of
from ...engine.sending import own_sql
from ...errors import BadMigrations, MigrationFailed, Problem
from ...history import History
from ...migrations import discover
from .shared import SHARED_WRITES

SCHEMA = "pgslipway_rehearsal"
GUARDED = "RH001"
"""The SQLSTATE of the guard, as nobody else has it."""
FUNCTION = f"""
CREATE SCHEMA {SCHEMA};
CREATE FUNCTION {SCHEMA}.refuse_shared_writes() RETURNS trigger LANGUAGE plpgsql AS $guard$
DECLARE catalogs text := (SELECT pg_catalog.string_agg(name, ', ') FROM ({SHARED_WRITES}) AS shared);
BEGIN
    IF catalogs IS NOT NULL THEN
        RAISE EXCEPTION '%', catalogs USING ERRCODE = '{GUARDED}';
    END IF;
    RETURN NULL;
END $guard$
"""
# At the end of the transaction, since our row comes first; and in a session, too, that turns off the usual triggers.
TRIGGER = f"""
CREATE CONSTRAINT TRIGGER {SCHEMA} AFTER INSERT OR UPDATE OR DELETE ON {{table}} DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.refuse_shared_writes();
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER {SCHEMA}
"""
REFUSED = (
    "a function or a block in it acts on the whole server ({catalogs}), and so beyond the scratch database, and was "
    "rolled back; rehearse it without --on, on the embedded Postgres, which is thrown away as a whole"
)


async def set_up_guard(config: Config) -> None:
    """Make our tables in the scratch database, each with the guard. Raises as the first file of a run would."""
    history = History(config.schema, config.table)
    journal, texts = Journal(history), texts_of(history)
    largest = discover(config.dir, config.layout)[-1].version
    async with reconnect(config) as connection, own_sql(history):
        await history.upgrade(connection, largest, config.ddl_lock_timeout)
        await journal.create(connection)
        await texts.create(connection, config.ddl_lock_timeout)
        await connection.execute(FUNCTION)
        for table in (history.name, journal.name, texts.name):
            await connection.execute(TRIGGER.format(table=table))


@contextmanager
def guarded() -> Iterator[None]:
    """Raise BadMigrations for a file in the block that the guard has refused."""
    try:
        yield
    except MigrationFailed as error:
        cause = root(error)
        if getattr(cause, "sqlstate", None) != GUARDED:
            raise
        raise BadMigrations(Problem(REFUSED.format(catalogs=cause), error.problems[-1].file)) from error
