"""A database that does not exist is created, where MIGRATE_CREATE_DATABASE says so."""

import logging
from copy import copy

import asyncpg

from .config import Config, Location
from .dial import Connection, open_connection
from .driver_errors import describe
from .errors import AccessRefused, DatabaseUnavailable
from .quote import quote_name

logger = logging.getLogger(__name__)

BY_WAY_OF = ("postgres", "template1")
"""The databases that are nearly always there."""


async def create_database(config: Config, location: Location, seconds: float) -> None:
    """Create the database of `location`, owned by the role of the settings if there is one.

    Another runner may do the same in the same moment. Raises AccessRefused where it cannot be done, DatabaseUnavailable
    where somebody uses its template right now, and every failure to connect.
    """
    name = location.database
    connection = await connect_beside(location, seconds)
    owner = f" OWNER {quote_name(config.role)}" if config.role else ""
    try:
        await connection.execute(f"CREATE DATABASE {quote_name(name)}{owner}")
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        return
    except asyncpg.ObjectInUseError as error:
        cause = f"the database {name} could not be created yet: {error}"
        raise DatabaseUnavailable(cause) from None  # the cause, an object in use, would count as a refusal
    except asyncpg.PostgresError as error:
        raise AccessRefused(
            f"the database {name} does not exist, and could not be created (MIGRATE_CREATE_DATABASE=yes): {error}; the "
            "user needs CREATEDB, and to be a member of MIGRATE_ROLE if that is set"
        ) from error
    finally:
        connection.terminate()
    logger.info("created the database %s", name)


async def connect_beside(location: Location, seconds: float) -> Connection:
    """Return a connection to a database of the same server that is there. Raises AccessRefused without one."""
    refusals = []
    for name in BY_WAY_OF:
        beside = copy(location)
        beside.libpq = {**location.libpq, "PGDATABASE": name}
        try:
            return await open_connection(beside, 0, seconds)
        except asyncpg.PostgresError as error:
            refusals.append(f"{name}: {describe(error)}")
    raise AccessRefused(
        f"the database {location.database} does not exist, and to create it a connection to postgres or template1 is "
        f"needed, which is refused: {'; '.join(refusals)}. A pooler knows only the databases in its settings"
    )
