"""A scratch database on a server that is given for it (`--on`): made for one rehearsal, and dropped at its end.

Its name says whose it is. The session that made it holds an advisory lock on the number in its name for as long as the
rehearsal runs: a database with such a name whose lock nobody holds was left by a run that was killed, and goes with
the next one.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from math import inf

import asyncpg

from ...config import Config, Location
from ...connect import close, wait_for_answer
from ...create import BY_WAY_OF
from ...dial import Connection
from ...driver_errors import by_sqlstate, describe, heals, lacks_database
from ...engine.lock import is_direct
from ...engine.lock_sql import LIFTED, set_sql
from ...engine.sending import is_lost, lost_while, see_through
from ...errors import AccessRefused, BadConfiguration, DatabaseUnavailable, SlipwayError
from ...libpq import URL
from ...retry import keep_trying, log_causes
from ...run import refuse_reader
from ...system import environment
from .address import beside, named_in, refuse_target, server_at, server_name, target_in
from .guard import guarded, set_up_guard
from .servers import forget_variables
from .whole_server import refuse_whole_server

logger = logging.getLogger(__name__)

PREFIX = "pgslipway_rehearsal_"
NUMBERS = 10**9
"""How many numbers there are to choose from: so many that no two rehearsals choose the same."""
CLASS = int.from_bytes(b"pgsl")
"""The first half of the lock's key; the second one is the number."""
UNLIMITED = {**LIFTED, "idle_session_timeout": "0", "lock_timeout": "0"}
"""The server would end the session that holds the lock and does nothing else, or a copy of a large template."""
LOCK = "SELECT pg_catalog.pg_advisory_lock({lock_class}, {number})"
# The lock is taken before its database is made and given back after that is dropped, and this looks at the locks after
# the databases. So nobody drops the database of a rehearsal that runs.
LEFT_BEHIND = f"""
SELECT d.datname FROM pg_catalog.pg_database d
 WHERE d.datname ~ '^{PREFIX}[0-9]+$' AND NOT EXISTS (
       SELECT FROM pg_catalog.pg_locks l
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = {CLASS}::pg_catalog.oid
          AND d.datname = '{PREFIX}' || l.objid::text)
"""
HAS_DATABASE = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)"
POOLED = "a scratch database needs a session of its own, which a pooler does not give; give the address of Postgres"


@asynccontextmanager
async def scratch(config: Config, url: str, *, down: bool = False) -> AsyncIterator[Config]:
    """Give the settings for a scratch database of the server at `url`, which is there while the block runs.

    `down` tells that down parts will run as well. Raises BadMigrations for statements that act on the whole server;
    BadConfiguration for a malformed URL, a server that has the database of the environment, or a pooler;
    AccessRefused where the user may not create databases; DatabaseUnavailable, and ConnectionLost.
    """
    server = server_at(url)
    environ = environment()
    database = target_in(environ)
    forget_variables()
    if database and database == named_in(url):
        raise refuse_target(database, environ, "names")
    await refuse_whole_server(config, down=down)
    connection = await reach(config, url)
    try:
        async with lost_while("nothing was rehearsed"):
            await refuse_server(connection, config, database, environ)
            await connection.execute(set_sql(UNLIMITED, "SESSION"))
            await drop_left_behind(connection)
        async with own_database(connection, config, server_name(server)) as name:
            place = f"the scratch database {name} of {server_name(server)}"
            there = config.but(role=None, location=Location({URL: beside(url, name)}, place))
            await set_up_guard(there)
            with guarded():
                yield there
    finally:
        await close(connection)


async def reach(config: Config, url: str) -> Connection:
    """Connect to the database that `url` names, or to one that is nearly always there. Raises as `connect` does."""
    names = [*dict.fromkeys(filter(None, [named_in(url), *BY_WAY_OF]))]
    for database in names:
        location = Location({URL: beside(url, database)})
        try:
            connection, _ = await wait_for_answer(config.but(location=location), refuse_reader)
        except AccessRefused as error:
            if database == names[-1] or not (error.__cause__ and lacks_database(error.__cause__)):
                raise
        else:
            return connection
    raise AssertionError  # the last one raised


async def refuse_server(
    connection: Connection, config: Config, database: str | None, environ: Mapping[str, str]
) -> None:
    """Raise BadConfiguration for a pooler, and for a server that has the `database` of the environment."""
    if not await is_direct(connection, config.but(lock="auto")):
        raise BadConfiguration(f"--on: {POOLED}")
    if database and await connection.fetchval(HAS_DATABASE, database):
        raise refuse_target(database, environ, "this server has")


async def drop_left_behind(connection: Connection) -> None:
    """Drop the scratch databases that killed rehearsals have left; one that this user may not drop stays."""
    for row in await connection.fetch(LEFT_BEHIND):
        try:
            await connection.execute(f"DROP DATABASE IF EXISTS {row['datname']} WITH (FORCE)")
        except asyncpg.PostgresError as error:
            logger.warning(
                "%s, which a killed rehearsal left, could not be dropped: %s", row["datname"], describe(error)
            )
        else:
            logger.info("dropped %s, which a killed rehearsal left", row["datname"])


@asynccontextmanager
async def own_database(connection: Connection, config: Config, server: str) -> AsyncIterator[str]:
    """Give the name of a database that exists while the block runs, for as long as the session does at most."""
    number = secrets.randbelow(NUMBERS)
    name = f"{PREFIX}{number}"
    stays = f"the next rehearsal drops {name}"
    async with lost_while(stays):
        await connection.execute(LOCK.format(lock_class=CLASS, number=number))
    try:
        async with lost_while(stays):
            await create(connection, config, name, server)
        yield name
    except BaseException:
        try:
            await drop(connection, name)
        except SlipwayError as error:
            logger.warning("%s", error)
        raise
    await drop(connection, name)


async def create(connection: Connection, config: Config, name: str, server: str) -> None:
    """Create a database of that name; again while somebody uses its template. Raises AccessRefused."""

    async def attempt() -> None:
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        except asyncpg.PostgresError as error:
            if is_lost(error):
                raise
            raise not_created(error, name, server) from None  # the cause may count as a refusal

    try:
        await attempt()
    except DatabaseUnavailable as error:
        limit, log = config.wait_timeout or inf, log_causes(server, describe, {})
        await keep_trying(attempt, error, heals=heals, limit=limit, log=log)


def not_created(error: asyncpg.PostgresError, name: str, server: str) -> SlipwayError:
    """Return why the scratch database could not be created."""
    is_in_use = isinstance(error, asyncpg.ObjectInUseError)  # its template is, which passes
    failure = DatabaseUnavailable if is_in_use else by_sqlstate(error)
    advice = "; the user of --on needs CREATEDB" if isinstance(error, asyncpg.InsufficientPrivilegeError) else ""
    return failure(f"{server}: the scratch database {name} could not be created: {describe(error)}{advice}")


async def drop(connection: Connection, name: str) -> None:
    """Drop the scratch database, whoever is connected to it, even if we are cancelled meanwhile.

    Raises ConnectionLost, AccessRefused, or DatabaseUnavailable where somebody keeps it in use.
    """
    stays = f"{name} is still there, and the next rehearsal drops it"
    async with lost_while(stays):
        try:
            await see_through(connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"), stays)
        except asyncpg.PostgresError as error:
            if is_lost(error):
                raise
            failure = AccessRefused if isinstance(error, asyncpg.InsufficientPrivilegeError) else DatabaseUnavailable
            raise failure(f"{describe(error)}; {stays}") from error
