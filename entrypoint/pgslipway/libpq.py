"""Where Postgres is: DATABASE_URL and libpq's own variables, read as one."""

import getpass
import re
import ssl
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
PEM_FILES = ("PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL")
PEM = "-----BEGIN"
UNSUPPORTED = {"service", "sslpassword"}
"""Parameters of libpq's URLs that would be taken for settings of the server."""
SYSTEM_ROOTS = ("PGSSLROOTCERT", "system")
"""What stands for the authorities that this system trusts, since libpq 16."""
NO_BUNDLE = "this system has no bundle of authorities; give the path of one, or SSL_CERT_FILE"
HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|/.*?|[^:\[\]]*)(:[0-9]+)?")
"""A socket's folder, too, which may have colons: Cloud SQL's is /cloudsql/project:region:instance."""
MALFORMED_URL = (
    f"{URL}: expected postgresql://user@host:port/database (the value is not shown: it may hold a password); give a "
    "password with special characters as PGPASSWORD or PGPASSWORD_FILE"
)


def locate(values: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the PG* variables for asyncpg, the URL's settings for the server, and all that is wrong with `values`."""
    found = []
    try:
        given, settings = merge(values)
    except ValueError as problem:
        found.append(str(problem))
        given, settings = {**values, "PGUSER": "unknown"}, {}  # what the URL says of it cannot be told
    found += problems(given)
    if not found:
        try:
            return complete(given), settings, found
        except (OSError, UnicodeDecodeError) as error:
            found.append(f"PGPASSFILE: {given['PGPASSFILE']}: {getattr(error, 'strerror', 'not UTF-8 text')}")
    return given, settings, found


def merge(values: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
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
    yield from authority_problems(given)
    for variable, choices in CHOICES.items():
        if given.get(variable, choices[0]) not in choices:
            yield f"{variable}: expected {' or '.join(choices)}"
    yield from file_problems(given)
    for variable in ("PGUSER", "PGDATABASE"):
        if "://" in given.get(variable, ""):
            yield f"{variable}: expected a name, not a URL; give that as {URL}"
    if "PGUSER" not in given and not login_name():
        yield f"PGUSER: not set, and this process's user id has no name; give PGUSER or the user in {URL}"


def file_problems(given: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the files that the variables name, without their contents."""
    for variable in (*PEM_FILES, "PGPASSFILE"):
        path = given.get(variable)
        if path is None or (variable, path) == SYSTEM_ROOTS:
            continue
        if not is_file(path):
            yield f"{variable}:{shown(path)} no such file, or none that may be looked at; give the path of one"
        elif variable in PEM_FILES and not is_pem(path):
            yield f"{variable}: {path}: nothing in PEM format in this file, or it may not be read"


def authority_problems(given: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with leaving it to this system whom it trusts."""
    if SYSTEM_ROOTS in given.items():
        if given.get("PGSSLMODE", "verify-full") != "verify-full":
            yield "PGSSLMODE: PGSSLROOTCERT=system goes with verify-full only: anybody can have a public certificate"
        if not ssl.get_default_verify_paths().cafile:
            yield f"PGSSLROOTCERT: {NO_BUNDLE}"


def complete(given: Mapping[str, str]) -> dict[str, str]:
    """Return `given` with what asyncpg does not read as libpq does. Raises OSError and UnicodeDecodeError.

    It knows no `system`, and no password file that others may read, as mounted Secrets are.
    """
    completed = dict(given)
    if SYSTEM_ROOTS in given.items():
        completed |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": ssl.get_default_verify_paths().cafile or ""}
    if path := completed.pop("PGPASSFILE", None):
        completed.setdefault("PGPASSWORD", password_from(Path(path), given))
    return completed


def password_from(passfile: Path, given: Mapping[str, str]) -> str:
    """Return the password that `passfile` has for one of the hosts, or an empty one."""
    from .passfile import find_password

    user = given.get("PGUSER") or login_name() or ""
    hosts, ports = host_list(given)
    addresses = zip(hosts or ["localhost"], map(str, ports) if hosts else [given.get("PGPORT", "5432")], strict=True)
    return find_password(passfile.read_text(encoding="utf-8"), addresses, given.get("PGDATABASE", user), user) or ""


def shown(path: str) -> str:
    """Return a path for a message; nothing of what may be the secret itself, where the path of its file should be."""
    return f" {path}:" if re.fullmatch(r"\.{0,2}/[^:\s]{1,200}", path) else ""


def is_file(path: str) -> bool:
    """Tell whether there is a file that this process may look at."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def is_pem(path: str) -> bool:
    """Tell whether there is something in PEM format in a file."""
    try:
        return PEM.encode() in Path(path).read_bytes()
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
    return f"[{host}]" if host.count(":") > 1 and not host.startswith(("[", "/")) else host


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
