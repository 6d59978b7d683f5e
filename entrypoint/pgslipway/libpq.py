"""Where Postgres is: DATABASE_URL and libpq's own variables, read as one."""

import getpass
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

URL = "DATABASE_URL"
PG_VARIABLES = (
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGDATABASE",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLCRL",
    "PGSSLNEGOTIATION",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLMAXPROTOCOLVERSION",
    "PGTARGETSESSIONATTRS",
    "PGPASSFILE",
    "PGKRBSRVNAME",
    "PGGSSLIB",
)
"""The variables that asyncpg reads from the environment by itself."""
LIBPQ = (URL, *PG_VARIABLES)
SERVICE = ("PGSERVICE", "PGSERVICEFILE")
"""What asyncpg reads only where a URL is given as well, and ignores otherwise."""
CHOICES = {
    "PGSSLMODE": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "PGSSLNEGOTIATION": ("postgres", "direct"),
    "PGTARGETSESSIONATTRS": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
FILES = ("PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL")
UNSUPPORTED = {"service", "sslpassword"}
"""Parameters of libpq's URLs that would be taken for settings of the server."""
HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]]*)(:[0-9]+)?")
MALFORMED_URL = (
    f"{URL}: expected postgresql://user@host:port/database (the value is not shown: it may hold a password); give a "
    "password with special characters as PGPASSWORD or PGPASSWORD_FILE"
)


def merge(values: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the PG* variables with what the URL says over them, and the URL's settings for the server.

    Raises ValueError for a malformed URL, without showing any of it.
    """
    environment = {variable: value for variable, value in values.items() if variable != URL}
    named = url_parameters(values[URL].rstrip("\r\n")) if URL in values else {}
    variables = {key: f"PG{key.upper().replace('_', '')}" for key in named}
    known = {variables[key]: value for key, value in named.items() if variables[key] in PG_VARIABLES}
    settings = {key: value for key, value in named.items() if variables[key] not in PG_VARIABLES}
    return environment | known, settings


def url_parameters(url: str) -> dict[str, str]:
    """Return what `url` says by the names of its parameters; one after the ? wins. Raises ValueError."""
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise ValueError(MALFORMED_URL) from error
    user, _, hosts = parts.netloc.rpartition("@")
    if (
        parts.scheme not in {"postgres", "postgresql"}
        or "@" in user + parts.path + parts.query + parts.fragment
        or parts.fragment
        or not all(map(is_host, hosts.split(",")))
        or any(character < " " for character in url)
    ):
        raise ValueError(MALFORMED_URL)
    if unsupported := UNSUPPORTED & query.keys():
        raise ValueError(f"{URL}: the parameter {', '.join(sorted(unsupported))} is not supported")
    name, _, password = user.partition(":")
    path = {"host": hosts, "user": name, "password": password, "database": parts.path.removeprefix("/")}
    named = {key: unquote(value) for key, value in path.items()} | query
    named["database"] = named.pop("dbname", named["database"])
    return {key: value for key, value in named.items() if value}


def is_host(text: str) -> bool:
    """Tell whether `text` is a host of a URL, with a port or without."""
    match = HOST.fullmatch(text)
    return match is not None and is_port((match[2] or ":1")[1:])


def is_port(text: str) -> bool:
    """Tell whether `text` is the number of a TCP port."""
    return text.isdecimal() and text.isascii() and len(text) <= 5 and 0 < int(text) < 65536


def problems(given: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the merged variables."""
    yield from address_problems(given)
    for variable, choices in CHOICES.items():
        if given.get(variable, choices[0]) not in choices:
            yield f"{variable}: expected {' or '.join(choices)}"
    for variable in FILES:
        if variable in given and not is_file(given[variable]):
            shown = "" if "-----BEGIN" in given[variable] else f" {given[variable][:200]}:"
            yield f"{variable}:{shown} no such file, or none that may be looked at; give the path of one"
    for variable in ("PGUSER", "PGDATABASE"):
        if "://" in given.get(variable, ""):
            yield f"{variable}: expected a name, not a URL; give that as {URL}"
    if "PGUSER" not in given and not login_name():
        yield f"PGUSER: not set, and this process's user id has no name; give PGUSER or the user in {URL}"


def is_file(path: str) -> bool:
    """Tell whether there is a file that this process may look at."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def address_problems(given: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the hosts and the ports."""
    hosts, ports = given.get("PGHOST", "").split(","), given.get("PGPORT", "5432").split(",")
    if not all(map(is_port, ports)):
        yield "PGPORT: expected a port number"
    elif len(ports) not in {1, len(hosts)}:
        yield "PGPORT: expected one port, or as many as there are hosts"
    if any("@" in host for host in hosts):
        yield "PGHOST: expected a host name, without a user (PGUSER) and a password (PGPASSWORD)"
    elif not all(is_host(bracketed(host)) for host in hosts):
        yield "PGHOST: expected host names or addresses, each perhaps with a port"


def bracketed(host: str) -> str:
    """Return an IPv6 address in the brackets that set it off from a port."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def host_list(given: Mapping[str, str]) -> tuple[list[str], list[int]]:
    """Return the hosts and their ports, in order; nothing where none is given."""
    if "PGHOST" not in given:
        return [], []
    specs = [HOST.fullmatch(bracketed(spec)) for spec in given["PGHOST"].split(",")]
    ports = given.get("PGPORT", "5432").split(",") * len(specs)
    found = [
        (spec[1].strip("[]"), int((spec[2] or "")[1:] or port))
        for spec, port in zip(specs, ports, strict=False)
        if spec
    ]
    return [host for host, _ in found], [port for _, port in found]


def target(given: Mapping[str, str]) -> str:
    """Return host, port and database for messages; never a user or a password."""
    host = given.get("PGHOST", "localhost")
    port = "" if ":" in host else f":{given.get('PGPORT', '5432')}"
    return f"{host}{port}/{given.get('PGDATABASE', '')}"


def login_name() -> str | None:
    """Return the name of the user that this process runs as, if the system knows one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
