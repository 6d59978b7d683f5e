"""The address of the server that is given for a rehearsal (`--on`), and the database from which it stays away.

The environment describes the target, as for every other command. The URL alone says where the scratch database will be.
"""

import logging
from collections.abc import Mapping

from ...config import Location
from ...errors import BadConfiguration
from ...libpq import MALFORMED_URL, URL, target, url_parameters
from ...parameters import UNNAMED

logger = logging.getLogger(__name__)

NAMING = ("DATABASE_URL", "DATABASE_URL_FILE", "PGDATABASE", "PGDATABASE_FILE")
"""The variables by which an environment names its database."""
IN_OTHER_WORDS = {
    MALFORMED_URL: (
        "expected postgresql://user@host:port/database (the value is not shown: it may hold a password); write special "
        "characters in a password as %40 and so on, or give its file: ?passfile=/path"
    ),
    UNNAMED: "holds an unknown parameter, which is named once the password is in a file instead: ?passfile=/path",
}
"""The problems that advise a variable, which does not count here."""


def server_at(url: str) -> Location:
    """Return where the server is. Raises BadConfiguration with everything that is wrong, and no secret."""
    server = Location({URL: url or " "})
    if server.problems:
        raise BadConfiguration(*(f"--on: {in_other_words(problem)}" for problem in server.problems))
    if server.ignored:
        logger.info("--on: has no meaning here: %s", ", ".join(map(without_variable, server.ignored)))
    return server


def in_other_words(problem: str) -> str:
    """Return the problem of a URL without its variable."""
    text = without_variable(problem)
    return IN_OTHER_WORDS.get(text, text)


def without_variable(text: str) -> str:
    """Return a text about a URL without its variable."""
    return text.removeprefix(f"{URL}: ")


def server_name(server: Location) -> str:
    """Return host and port for messages."""
    return target({name: value for name, value in server.libpq.items() if name != "PGDATABASE"}).removesuffix("/")


def named_in(url: str) -> str | None:
    """Return the database that a sound URL names."""
    return url_parameters(url.strip()).get("dbname")


def beside(url: str, database: str) -> str:
    """Return a sound URL for another database of its server; the last word in a URL counts."""
    if "=" in url.partition("://")[0]:
        return f"{url} database={database}"
    return f"{url.strip()}{'&' if '?' in url else '?'}database={database}"


def target_in(environ: Mapping[str, str]) -> str | None:
    """Return the database that the environment names; None where it names none.

    Raises BadConfiguration where nobody can tell.
    """
    if not any(environ.get(variable) for variable in NAMING):
        return None
    location = Location(environ)
    if location.problems:
        raise BadConfiguration(*location.problems)
    return location.database


def refuse_target(database: str, environ: Mapping[str, str], found: str) -> BadConfiguration:
    """Return the refusal of a server on which the `database` of the environment was `found`."""
    variables = ", ".join(variable for variable in NAMING if environ.get(variable))
    return BadConfiguration(
        f"--on: {found} {database}, which is the database of the environment ({variables}), and no rehearsal goes "
        "there; give another server, or unset what names the database"
    )
