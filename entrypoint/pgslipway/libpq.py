"""Where Postgres is: DATABASE_URL and libpq's own variables, read as one; plain functions, without a heavy import."""

from .settings import (
    bracketed,
    decoded,
    hostaddr_expected,
    is_host,
    is_port,
    name_expected,
    split_host,
    unreplaced,
)
from .system import is_file, is_pem, login_name, system_roots
from .words import instead, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

URL = "DATABASE_URL"
HONOURED = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "dbname": "PGDATABASE",
    "options": "PGOPTIONS",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "krbsrvname": "PGKRBSRVNAME",
    "gsslib": "PGGSSLIB",
}
"""libpq's parameters that are honoured, and their variables; `parameters` has all the others."""
SERVER_VARIABLES = {"PGOPTIONS": "options", "PGTZ": "timezone", "PGDATESTYLE": "datestyle", "PGGEQO": "geqo"}
"""The variables that libpq sends to the server, and the settings that they are there."""
SERVER_SETTINGS = {
    "search_path",
    "role",
    "timezone",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
    "idle_session_timeout",
}
"""The server's settings that a URL may name, besides those with a dot; libpq takes these in `options` only."""
PG_VARIABLES = tuple(dict.fromkeys([*HONOURED.values(), *SERVER_VARIABLES]))
LIBPQ = (URL, *PG_VARIABLES)
CHOICES = {
    "PGSSLMODE": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "PGSSLNEGOTIATION": ("postgres", "direct"),
    "PGSSLMINPROTOCOLVERSION": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "PGSSLMAXPROTOCOLVERSION": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "PGTARGETSESSIONATTRS": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
SYSTEM_ROOTS = ("PGSSLROOTCERT", "system")
"""Stands for the authorities that this system trusts, since libpq 16."""
DEFAULT_PORT = "5432"
APPLICATION_NAME = "pgslipway"
NO_BUNDLE = "this system has no bundle of authorities; give the path of one, or SSL_CERT_FILE"
NO_FILE = "no such file, or none that may be looked at; give the path of one"
MALFORMED_URL = (
    "expected postgresql://user@host:port/database (the value is not shown: it may hold a password); give a "
    "password with special characters as PGPASSWORD or PGPASSWORD_FILE"
)
NOT_REPLACED = "was not replaced; in Kubernetes, env has to define it further up"


def variables(environ: "Mapping[str, str]") -> tuple[str, ...]:
    """Return the names of the variables about the connection that `environ` may hold, by themselves or as _FILE."""
    others = {name.removesuffix("_FILE") for name in environ if name.startswith("PG")}.difference(PG_VARIABLES)
    if not others:
        return LIBPQ
    from .parameters import VARIABLES  # most starts have none of these

    return (*LIBPQ, *sorted(others & VARIABLES.keys()))


def locate(
    values: "Mapping[str, str]", hidden: "Collection[str]" = ()
) -> tuple[dict[str, str], dict[str, str], list[str], list[str]]:
    """Return the PG* variables, the settings for the server, what has no meaning here, and everything that is wrong.

    What the URL says is among the variables, and goes before them. No value of those `hidden` is shown.
    """
    given = {variable: value for variable, value in values.items() if variable in PG_VARIABLES}
    try:
        url = url_parameters(values[URL].strip()) if URL in values else {}
        found = []
    except ValueError as problem:
        url, found = {}, [f"{URL}: {problem}"]
        given["PGUSER"] = "unknown"  # nobody can tell what such a URL says of it
    taken = {HONOURED[name]: name for name in url if name in HONOURED}
    given |= {variable: url[name] for variable, name in taken.items()}
    sent = {name: url[name] for name in url if name.lower() in SERVER_SETTINGS or "." in name}
    settings = {name: given[variable] for variable, name in SERVER_VARIABLES.items() if variable in given}
    settings |= {name: value for name, value in sent.items() if value}
    others = [("", variable, value) for variable, value in values.items() if variable not in LIBPQ]
    others += [(f"{URL}: ", name, url[name]) for name in url.keys() - HONOURED.keys() - sent.keys()]
    ignored: list[str] = []
    if others:
        from .parameters import judge

        ignored, refused = judge(sorted(others), [*HONOURED, *SERVER_SETTINGS], are_shown="password" not in url)
        found += refused
    secret = {*hidden, "PGUSER" if "password" in url else ""}
    for variable, expected, value in problems(given):
        label = f"{URL}: {taken[variable]}" if variable in taken else variable
        found.append(f"{label}: {expected}{'' if variable in secret else instead(value)}")
    if not found:
        try:
            given = complete(given)
        except (OSError, UnicodeDecodeError) as error:
            found.append(f"PGPASSFILE: {given['PGPASSFILE']}: {getattr(error, 'strerror', 'not UTF-8 text')}")
    return given, settings, ignored, found


def url_parameters(url: str) -> dict[str, str]:
    """Return the parts of `url` by the names of libpq's parameters; one after the ? wins. Raises ValueError."""
    scheme, separator, rest = url.partition("://")
    if "=" in scheme:
        from .parameters import keywords  # libpq's other form, which few use

        named = keywords(url, HONOURED)
    else:
        named = uri(rest) if separator and scheme.lower() in {"postgres", "postgresql"} else None
    if reference := unreplaced(url):
        is_shown = unreplaced(url.rpartition("@")[2]) and "password" not in url
        raise ValueError(f"{reference if is_shown else 'a variable such as $(NAME)'} {NOT_REPLACED}; a $ is %24 here")
    if named is None:
        raise ValueError(MALFORMED_URL)
    if named.get("ssl") == "true":  # JDBC's, which libpq knows as well
        named = {"sslmode": "require"} | {name: value for name, value in named.items() if name != "ssl"}
    if "database" in named:
        named["dbname"] = named.pop("database")
    return {name: value for name, value in named.items() if value or name not in HONOURED}


def uri(text: str) -> dict[str, str] | None:
    """Return the parts of a URL behind its scheme by the names of libpq's parameters; None for a malformed one."""
    before, _, query = text.partition("?")
    authority, _, database = before.partition("/")
    login, _, hosts = authority.rpartition("@")
    addresses = [split_host(host) for host in hosts.split(",")]
    pairs = [pair.partition("=") for pair in query.removesuffix("&").split("&")] if query else []
    is_sound = (
        "#" not in text and "%00" not in text and "@" not in login + database + query and min(text, default=" ") >= " "
    )
    if not (is_sound and all(addresses) and all(pair[1] for pair in pairs)):
        return None
    user, _, password = login.partition(":")
    names, ports = zip(*filter(None, addresses), strict=True)
    path = {
        "host": ",".join(map(bracketed, names)),
        "port": ",".join(ports),
        "user": user,
        "password": password,
        "dbname": database,
    }
    named = {name: decoded(value) for name, value in path.items() if value}
    return named | {decoded(name): decoded(value) for name, _, value in pairs}


def problems(given: "Mapping[str, str]") -> "Iterator[tuple[str, str, str]]":
    """Yield everything that is wrong with the merged variables: which, why, and the value where that may be shown."""
    yield from address_problems(given)
    yield from authority_problems(given)
    for variable, choices in CHOICES.items():
        if given.get(variable, choices[0]) not in choices:
            yield variable, f"expected {' or '.join(choices)}", given[variable]
    yield from file_problems(given)
    for variable in ("PGUSER", "PGDATABASE"):
        if "://" in given.get(variable, ""):
            yield variable, f"expected a name, not a URL; give that as {URL}", ""
        elif expected := name_expected(given.get(variable, "")):
            yield variable, f"expected {expected}", given[variable]
    if unreplaced(given.get("PGPASSWORD", "")) == given.get("PGPASSWORD"):
        yield "PGPASSWORD", f"a variable such as $(NAME) {NOT_REPLACED}", ""
    if "PGUSER" not in given and not login_name():
        yield "PGUSER", f"not set, and this process's user id has no name; give PGUSER or the user in {URL}", ""


def file_problems(given: "Mapping[str, str]") -> "Iterator[tuple[str, str, str]]":
    """Yield the problems of the files that the variables name, without their contents."""
    for variable in ("PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL", "PGPASSFILE"):
        path = given.get(variable)
        if path is None or (variable, path) == SYSTEM_ROOTS:
            continue
        if not is_file(path):
            yield variable, f"{shown(path)} {NO_FILE}".strip(), ""
        elif variable != "PGPASSFILE" and not is_pem(path):
            yield variable, f"{path}: nothing in PEM format in this file, or it may not be read", ""


def authority_problems(given: "Mapping[str, str]") -> "Iterator[tuple[str, str, str]]":
    """Yield the problems of `PGSSLROOTCERT=system`: the authorities that this system trusts."""
    if SYSTEM_ROOTS in given.items():
        if given.get("PGSSLMODE", "verify-full") != "verify-full":
            only = "PGSSLROOTCERT=system goes with verify-full only: anybody can have a public certificate"
            yield "PGSSLMODE", only, ""
        if not system_roots():
            yield "PGSSLROOTCERT", NO_BUNDLE, ""


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
    addresses = zip(hosts or ["localhost"], map(str, ports), strict=True)
    with open(passfile, encoding="utf-8", newline="") as file:
        return find_password(file.read(), addresses, given.get("PGDATABASE", user), user) or ""


def address_problems(given: "Mapping[str, str]") -> "Iterator[tuple[str, str, str]]":
    """Yield the problems of the hosts, their addresses and the ports."""
    hosts, ports = given.get("PGHOST", "").split(","), given.get("PGPORT", DEFAULT_PORT).split(",")
    addresses = given.get("PGHOSTADDR", "").split(",")
    count = max(len(hosts), len(addresses))
    if not all(map(is_port, filter(None, ports))):
        yield "PGPORT", "expected a port number", given["PGPORT"]
    elif len(ports) not in {1, count}:
        yield "PGPORT", "expected one port, or as many as there are hosts", ""
    if any("@" in host for host in hosts):
        yield "PGHOST", "expected a host name, without a user (PGUSER) and a password (PGPASSWORD)", ""
    for host in hosts:
        if "@" not in host and not ((spec := split_host(bracketed(host))) and is_host(spec[0])):
            yield "PGHOST", "expected host names or addresses, each perhaps with a port", host
    if expected := hostaddr_expected(hosts if "PGHOST" in given else [], addresses):
        yield "PGHOSTADDR", f"expected {expected}", given["PGHOSTADDR"]


def host_list(given: "Mapping[str, str]") -> tuple[list[str], list[int]]:
    """Return the hosts and their ports, in order; no host and one port where none is given."""
    specs = [split_host(bracketed(spec)) for spec in (given.get("PGHOST") or given.get("PGHOSTADDR", "")).split(",")]
    ports = given.get("PGPORT", DEFAULT_PORT).split(",")
    each = ports if len(ports) == len(specs) else ports * len(specs)
    found = [(spec[0], int(spec[1] or port or DEFAULT_PORT)) for spec, port in zip(specs, each, strict=False) if spec]
    return [host for host, _ in found] if specs != [("", "")] else [], [port for _, port in found]


def target(given: "Mapping[str, str]") -> str:
    """Return host, port and database for messages; never a user or a password."""
    host, port = given.get("PGHOST") or given.get("PGHOSTADDR", "localhost"), given.get("PGPORT", DEFAULT_PORT)
    if "," in port:
        pairs = zip(host.split(","), port.split(","), strict=False)
        host = ",".join(f"{bracketed(one)}:{number or DEFAULT_PORT}" for one, number in pairs)
    return f"{host}{'' if ':' in host.rpartition(']')[2] else f':{port}'}/{given.get('PGDATABASE', '')}"
