"""Where Postgres is: DATABASE_URL and libpq's own variables, read as one; plain functions, without a heavy import."""

import os

from .settings import is_digits, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
"""libpq's variables that are honoured; a URL's parameters are taken for them."""
LIBPQ = (URL, *PG_VARIABLES)
SERVICE = ("PGSERVICE", "PGSERVICEFILE")
CHOICES = {
    "PGSSLMODE": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "PGSSLNEGOTIATION": ("postgres", "direct"),
    "PGTARGETSESSIONATTRS": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
PEM_FILES = ("PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL")
PEM = b"-----BEGIN"
UNSUPPORTED = {"service", "sslpassword"}
"""Parameters of libpq's URLs that would be taken for settings of the server."""
SYSTEM_ROOTS = ("PGSSLROOTCERT", "system")
"""Stands for the authorities that this system trusts, since libpq 16."""
NO_BUNDLE = "this system has no bundle of authorities; give the path of one, or SSL_CERT_FILE"
IPV6 = set("0123456789abcdefABCDEF:.%")
USER_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where the name of the user is looked for, before the user id, as in Python's getpass."""
MALFORMED_URL = (
    f"{URL}: expected postgresql://user@host:port/database (the value is not shown: it may hold a password); give a "
    "password with special characters as PGPASSWORD or PGPASSWORD_FILE"
)


def locate(values: "Mapping[str, str]") -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the PG* variables, the URL's settings for the server, and everything that is wrong with `values`."""
    found = []
    try:
        given, settings = merge(values)
    except ValueError as problem:
        found.append(str(problem))
        given, settings = {**values, "PGUSER": "unknown"}, {}  # nobody can tell what such a URL says of it
    found += problems(given)
    if not found:
        try:
            return complete(given), settings, found
        except (OSError, UnicodeDecodeError) as error:
            found.append(f"PGPASSFILE: {given['PGPASSFILE']}: {getattr(error, 'strerror', 'not UTF-8 text')}")
    return given, settings, found


def merge(values: "Mapping[str, str]") -> tuple[dict[str, str], dict[str, str]]:
    """Return the PG* variables, those of the URL over the others, and the URL's settings for the server.

    Raises ValueError for a malformed URL, without showing any of it.
    """
    merged = {variable: value for variable, value in values.items() if variable != URL}
    settings = {}
    for key, value in url_parameters(values[URL].lstrip(" ").rstrip("\r\n")).items() if URL in values else ():
        if (variable := f"PG{key.upper().replace('_', '')}") in PG_VARIABLES:
            merged[variable] = value
        else:
            settings[key] = value
    return merged, settings


def url_parameters(url: str) -> dict[str, str]:
    """Return the parts of `url` by the names of its parameters; one after the ? wins. Raises ValueError."""
    scheme, separator, rest = url.partition("://")
    before, _, query = rest.partition("?")
    authority, _, database = before.partition("/")
    user, _, hosts = authority.rpartition("@")
    if (
        not separator
        or scheme.lower() not in {"postgres", "postgresql"}
        or "@" in user + database + query
        or "#" in rest
        or not all(map(split_host, hosts.split(",")))
        or any(character < " " for character in url)
    ):
        raise ValueError(MALFORMED_URL)
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(MALFORMED_URL)
    given = {decoded(key): decoded(value) for key, _, value in pairs if value}
    if unsupported := UNSUPPORTED & given.keys():
        raise ValueError(f"{URL}: the parameter {', '.join(sorted(unsupported))} is not supported")
    name, _, password = user.partition(":")
    path = {"host": hosts, "user": name, "password": password, "database": database}
    named = {key: decoded(value) for key, value in path.items()} | given
    named["database"] = named.pop("dbname", named["database"])
    return {key: value for key, value in named.items() if value}


def decoded(text: str) -> str:
    """Return a part of a URL without its percent-encoding; a + stands for itself there, as in libpq."""
    first, *parts = text.split("%")
    encoded = first.encode()
    for part in parts:
        is_byte = len(part) >= 2 and all(character in "0123456789abcdefABCDEF" for character in part[:2])
        encoded += bytes.fromhex(part[:2]) + part[2:].encode() if is_byte else f"%{part}".encode()
    return encoded.decode(errors="replace")


def split_host(text: str) -> tuple[str, str] | None:
    """Return a host and its port, "" without one; None for a text that is neither.

    A socket's folder may have colons: Cloud SQL's is /cloudsql/project:region:instance.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        is_host = (
            bool(bracket) and host.count(":") > 1 and set(host) <= IPV6 and (not rest or (colon == ":" and bool(port)))
        )
    else:
        host, colon, port = text.rpartition(":")
        if not colon or (text.startswith("/") and not is_digits(port, len(port))):
            host, colon, port = text, "", ""
        is_host = text.startswith("/") or (not set(host) & set(":[]") and bool(port) == bool(colon))
    return (host, port) if is_host and (not port or is_port(port)) else None


def is_port(text: str) -> bool:
    """Tell whether `text` is the number of a TCP port."""
    return is_digits(text, 5) and 0 < int(text) < 65536


def problems(given: "Mapping[str, str]") -> "Iterator[str]":
    """Yield everything that is wrong with the merged variables."""
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


def file_problems(given: "Mapping[str, str]") -> "Iterator[str]":
    """Yield the problems of the files that the variables name, without their contents."""
    for variable in (*PEM_FILES, "PGPASSFILE"):
        path = given.get(variable)
        if path is None or (variable, path) == SYSTEM_ROOTS:
            continue
        if not os.path.isfile(path):
            yield f"{variable}:{shown(path)} no such file, or none that may be looked at; give the path of one"
        elif variable in PEM_FILES and not is_pem(path):
            yield f"{variable}: {path}: nothing in PEM format in this file, or it may not be read"


def authority_problems(given: "Mapping[str, str]") -> "Iterator[str]":
    """Yield the problems of `PGSSLROOTCERT=system`: the authorities that this system trusts."""
    if SYSTEM_ROOTS in given.items():
        if given.get("PGSSLMODE", "verify-full") != "verify-full":
            yield "PGSSLMODE: PGSSLROOTCERT=system goes with verify-full only: anybody can have a public certificate"
        if not system_roots():
            yield f"PGSSLROOTCERT: {NO_BUNDLE}"


def system_roots() -> str:
    """Return the path of the bundle of authorities that this system trusts; empty without one."""
    import ssl  # most starts do not ask

    return ssl.get_default_verify_paths().cafile or ""


def complete(given: "Mapping[str, str]") -> dict[str, str]:
    """Return `given` with two things that asyncpg does not read as libpq does. Raises OSError, UnicodeDecodeError.

    It knows no `system`, and no password file that others may read, as mounted Secrets are.
    """
    completed = dict(given)
    if SYSTEM_ROOTS in given.items():
        completed |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": system_roots()}
    if path := completed.pop("PGPASSFILE", None):
        completed.setdefault("PGPASSWORD", password_from(path, given))
    return completed


def password_from(passfile: str, given: "Mapping[str, str]") -> str:
    """Return the password that `passfile` has for one of the hosts, or an empty one."""
    from .passfile import find_password  # most starts have no such file

    user = given.get("PGUSER") or login_name() or ""
    hosts, ports = host_list(given)
    addresses = zip(hosts or ["localhost"], map(str, ports) if hosts else [given.get("PGPORT", "5432")], strict=True)
    with open(passfile, encoding="utf-8", newline="") as file:
        return find_password(file.read(), addresses, given.get("PGDATABASE", user), user) or ""


def is_pem(path: str) -> bool:
    """Tell whether there is something in PEM format in a file."""
    try:
        with open(path, "rb") as file:
            return PEM in file.read()
    except OSError:
        return False


def address_problems(given: "Mapping[str, str]") -> "Iterator[str]":
    """Yield the problems of the hosts and the ports."""
    hosts, ports = given.get("PGHOST", "").split(","), given.get("PGPORT", "5432").split(",")
    if not all(map(is_port, ports)):
        yield "PGPORT: expected a port number"
    elif len(ports) not in {1, len(hosts)}:
        yield "PGPORT: expected one port, or as many as there are hosts"
    if any("@" in host for host in hosts):
        yield "PGHOST: expected a host name, without a user (PGUSER) and a password (PGPASSWORD)"
    elif not all(split_host(bracketed(host)) for host in hosts):
        yield "PGHOST: expected host names or addresses, each perhaps with a port"


def bracketed(host: str) -> str:
    """Return an IPv6 address in the brackets that set it off from a port."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith(("[", "/")) else host


def host_list(given: "Mapping[str, str]") -> tuple[list[str], list[int]]:
    """Return the hosts and their ports, in order; nothing where none is given."""
    if "PGHOST" not in given:
        return [], []
    specs = [split_host(bracketed(spec)) for spec in given["PGHOST"].split(",")]
    ports = given.get("PGPORT", "5432").split(",") * len(specs)
    found = [(spec[0], int(spec[1] or port)) for spec, port in zip(specs, ports, strict=False) if spec]
    return [host for host, _ in found], [port for _, port in found]


def target(given: "Mapping[str, str]") -> str:
    """Return host, port and database for messages; never a user or a password."""
    host = given.get("PGHOST", "localhost")
    port = "" if ":" in host else f":{given.get('PGPORT', '5432')}"
    return f"{host}{port}/{given.get('PGDATABASE', '')}"


def login_name() -> str | None:
    """Return the name of the user that this process runs as, if the system knows one."""
    if name := next(filter(None, map(os.environ.get, USER_VARIABLES)), None):
        return name
    import pwd  # in a container there may be no such file, and most have PGUSER

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None
