"""`wait`: the same look, again and again, until another run has applied everything; it only reads."""

import logging

import asyncpg

from .config import Config
from .connect import connect
from .dial import Connection
from .errors import AccessRefused, DatabaseUnavailable, FilesChanged, Locked, NotYet
from .question import texts_name
from .run import Run, begin, newest_of
from .words import names

logger = logging.getLogger(__name__)


async def wait(config: Config) -> str:
    """Block until the schema holds every migration of this image; return the last line of the log.

    Raises NotYet with the missing ones when the wait timeout has passed.
    """
    if config.create_database == "yes":
        config = config.but(create_database="expect")
    run = await begin(config)

    async def look(connection: Connection) -> None:
        try:
            run.refuse_changed()
            await look_for_all(run, connection)
        except FilesChanged as error:
            run.start_over(error)
            await look_for_all(run, connection)

    try:
        async with connect(config, look):
            return f"up to date: {newest_of(run)}"
    except DatabaseUnavailable as error:
        if not run.missing:
            raise
        raise NotYet(f"{error}; when it last answered: {run.missing}") from error


async def look_for_all(run: Run, connection: Connection) -> None:
    """Raise NotYet unless the history holds every migration, as far as the role can see.

    Logs the missing ones when they change. Raises HistoryConflict where `up` would.
    """
    history = run.history_as_login
    try:
        if await run.is_current(history, connection):
            return
        from .engine import adopt, plan, repeatable, their_lock  # most looks miss nothing

        rows, found = await adopt.look(run, history, connection)
        await their_lock.refuse(found, connection)
        pending = [*plan.compare(run, rows).pending, *await repeatable.pending(run, history, connection)]
        missing = f"{run.counted([one.filename for one in pending])} missing: {names(pending)}" if pending else ""
    except (AccessRefused, asyncpg.InsufficientPrivilegeError) as error:
        cause = error.__cause__ or error
        missing = f"{tables_of(run)} cannot be read yet: {cause}; it takes SELECT on it and USAGE on its schema"
    except Locked as error:
        missing = str(error)
    except asyncpg.LockNotAvailableError as error:
        missing = f"{tables_of(run)} cannot be read yet: {error}"
    if missing and missing != run.missing:
        logger.info("waiting for the schema: %s", missing)
    run.missing = missing
    if missing:
        raise NotYet(missing)


def tables_of(run: Run) -> str:
    """Return the tables that are read, for a message."""
    name = run.history.name
    return f"{name}, or {texts_name(run.config.schema, run.config.table)}," if run.repeatable else name
