"""The environment and the flags, as one value; the only place that knows the names of the settings."""

import getpass
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

LIBPQ = (
    "DATABASE_URL",
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
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGKRBSRVNAME",
    "PGGSSLIB",
)
"""The settings that say where Postgres is; asyncpg reads all but the first from the environment by itself."""
CHOICES = {
    "PGSSLMODE": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "PGSSLNEGOTIATION": ("postgres", "direct"),
    "PGTARGETSESSIONATTRS": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
FILES = {"PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"}
LONGEST = 24 * 24 * 3600.0
"""Seconds; Postgres keeps its timeouts as milliseconds in a signed 32-bit number."""
NAME_BYTES = 63
"""Postgres cuts a longer name, NAMEDATALEN."""
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]]*)(:[0-9]{1,5})?")


def duration(text: str) -> float:
    """Return seconds for "500ms", "5s", "10m", "1.5h" or "0". Raises ValueError with the expected form."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h)|0", text)
    seconds = float(match[1]) * UNITS[match[2]] if match and match[1] else 0.0
    if not match or seconds > LONGEST:
        raise ValueError("a duration such as 500ms, 5s or 10m, at most 24 days, or 0")
    return seconds


def choice(*values: str) -> Callable[[str], str]:
    """Return a parser that takes one of `values`."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(" or ".join(values))
        return text

    return parse


def name(suffix: str = "") -> Callable[[str], str]:
    """Return a parser for a Postgres name that leaves room for `suffix`."""
    longest = NAME_BYTES - len(suffix)

    def parse(text: str) -> str:
        if len(text.encode()) > longest:
            raise ValueError(f"a name of at most {longest} bytes")
        return text

    return parse


def setting(parse: Callable[[str], Any], default: str | None, meaning: str) -> Any:
    """Declare a setting: how it is read, its default as one would write it, and its line in --help."""
    value = None if default is None else parse(default)
    return field(default=value, metadata={"parse": parse, "default": default, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings. Durations are seconds, 0 for no limit. `problems` says what could not be read."""

    dir: Path = setting(Path, "/migrations", "the folder of migrations")
    schema: str = setting(name(), "public", "schema of the history table")
    table: str = setting(name("_steps"), "schema_migrations", "name of the history table")
    role: str | None = setting(name(), None, "become this role before the history is touched")
    wait_timeout: float = setting(duration, "60s", "how long Postgres may take to answer its first query")
    lock_timeout: float = setting(duration, "10m", "how long another runner may take")
    lock: str = setting(choice("auto", "session", "transaction"), "auto", "auto, session or transaction")
    ddl_lock_timeout: float = setting(duration, "500ms", "how long one attempt may queue for a table's lock")
    ddl_retry: float = setting(duration, "5m", "how long a file is retried while its tables are busy")
    statement_timeout: float = setting(duration, "0", "the server's statement_timeout for migrations")
    ahead: str | None = setting(choice("allow", "refuse"), None, "when the database is newer: allow or refuse")
    out_of_order: str = setting(choice("allow", "refuse"), "allow", "a late, lower version: allow or refuse")
    edited: str = setting(choice("refuse", "warn"), "refuse", "an applied file was edited: refuse or warn")
    log_format: str = setting(choice("auto", "text", "json"), "auto", "auto, text or json")
    termination_log: Path | None = setting(Path, None, "file for the outcome as JSON")
    libpq: Mapping[str, str] = field(default_factory=dict, repr=False)
    in_kubernetes: bool = False
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


SETTINGS = {f"MIGRATE_{field.name.upper()}": field for field in fields(Config) if "parse" in field.metadata}


def from_environ(
    environ: Mapping[str, str], flags: Mapping[str, str], *, wait_timeout: float = 60.0, needs_database: bool = True
) -> Config:
    """Return the settings in `environ`, or in `flags` where they are there too; both by variable name.

    Never raises: what cannot be read is in the result's `problems`, all of it, and has its default instead.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for variable in (*SETTINGS, *(LIBPQ if needs_database else ())):
        try:
            if value := flags.get(variable) or read(variable, environ):
                shown = variable in flags or bool(environ.get(variable))
                values[variable] = parse(variable, value, shown=shown)
        except ValueError as problem:
            problems.append(str(problem))
    libpq = {variable: values.pop(variable) for variable in LIBPQ if variable in values}
    if needs_database:
        problems += check_libpq(libpq)
    return Config(
        **{"wait_timeout": wait_timeout} | {SETTINGS[variable].name: value for variable, value in values.items()},
        libpq=libpq,
        in_kubernetes="KUBERNETES_SERVICE_HOST" in environ,
        problems=tuple(problems),
        warnings=tuple(misspelt(environ)),
    )


def read(variable: str, environ: Mapping[str, str]) -> str | None:
    """Return the value of `variable`, or of the file that `<variable>_FILE` names, or None. Raises ValueError."""
    value, file = environ.get(variable), environ.get(f"{variable}_FILE")
    if value and file:
        raise ValueError(f"{variable} and {variable}_FILE are both set; keep one of them")
    if file:
        try:
            value = Path(file).read_bytes().decode().removesuffix("\n").removesuffix("\r")
        except OSError as error:
            raise ValueError(f"{variable}_FILE: {file}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{variable}_FILE: {file} is not UTF-8 text") from error
    if value and ("\0" in value or has_surrogates(value)):
        raise ValueError(f"{variable}: the value holds a NUL or bytes that are not UTF-8")
    return value or None


def has_surrogates(text: str) -> bool:
    """Tell whether `text` stands for bytes that are not UTF-8 (PEP 383)."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def parse(variable: str, value: str, *, shown: bool) -> Any:
    """Return the typed value of a setting. Raises ValueError; a value from a file is not `shown`: it may be secret."""
    if variable not in SETTINGS:
        return value.rstrip("\r\n") if variable == "DATABASE_URL" else value
    try:
        return SETTINGS[variable].metadata["parse"](value)
    except ValueError as expected:
        instead = f", not {redact(value[:100])!r}" if shown else ""
        raise ValueError(f"{variable}: expected {expected}{instead}") from expected


def redact(text: str) -> str:
    """Return `text` without what stands before the host in a URL, for messages about misplaced ones."""
    return re.sub(r"://.*@", "://…@", text, flags=re.DOTALL)


def check_libpq(libpq: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the connection settings; a URL that cannot be used is taken out of `libpq`."""
    url_problems = list(check_url(libpq.get("DATABASE_URL")))
    if url_problems:
        del libpq["DATABASE_URL"]
        yield from url_problems
    given = libpq | url_parameters(libpq.get("DATABASE_URL"))
    yield from check_hosts(given)
    for variable, values in CHOICES.items():
        if variable in given and given[variable] not in values:
            yield f"{variable}: expected {' or '.join(values)}"
    for variable in FILES & given.keys():
        if not Path(given[variable]).is_file():
            yield f"{variable}: {given[variable]}: no such file"
    if not url_problems and not {"PGUSER", "PGSERVICE"} & given.keys() and not login_name():
        yield "PGUSER: not set, and this process's user id has no name; give PGUSER or the user in DATABASE_URL"


def check_hosts(given: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the hosts and ports."""
    if not all(map(is_port, given.get("PGPORT", "5432").split(","))):
        yield "PGPORT: expected a port number"
    if "@" in given.get("PGHOST", ""):
        yield "PGHOST: expected a host name, without a user (PGUSER) and a password (PGPASSWORD)"
    if given.get("PGPORT", "").count(",") not in {0, given.get("PGHOST", "").count(",")}:
        yield "PGPORT: expected one port, or as many as there are hosts"


def check_url(url: str | None) -> Iterator[str]:
    """Yield what is wrong with a DATABASE_URL, without showing any of it."""
    expected = (
        "DATABASE_URL: expected postgresql://user@host:port/database (the value is not shown: it may hold a "
        "password); give a password with special characters as PGPASSWORD or PGPASSWORD_FILE"
    )
    if url is None:
        return
    try:
        parts = urlsplit(url)
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        yield expected
        return
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if (
        parts.scheme not in {"postgres", "postgresql"}
        or parts.netloc.count("@") > 1
        or "@" in parts.path + parts.query + parts.fragment
        or parts.fragment
        or not all((match := HOST.fullmatch(host)) and is_port((match[2] or ":1")[1:]) for host in hosts)
        or any(character < " " for character in url)
    ):
        yield expected


def is_port(text: str) -> bool:
    """Tell whether `text` is the number of a TCP port."""
    return text.isdecimal() and text.isascii() and 0 < int(text) < 65536


def url_parameters(url: str | None) -> dict[str, str]:
    """Return what a valid DATABASE_URL says, by the names of libpq's environment variables."""
    parts = urlsplit(url or "")
    user, _, hosts = parts.netloc.rpartition("@")
    named = {"host": hosts, "user": user.partition(":")[0], "database": parts.path.removeprefix("/")}
    named = {key: unquote(value) for key, value in named.items() if value} | dict(parse_qsl(parts.query))
    named["database"] = named.get("dbname") or named.get("database", "")
    return {f"PG{key.upper().replace('_', '')}": value for key, value in named.items() if value}


def target(libpq: Mapping[str, str]) -> str:
    """Return host, port and database for messages; never a user or a password."""
    given = dict(libpq) | url_parameters(libpq.get("DATABASE_URL"))
    host = given.get("PGHOST", "localhost")
    port = "" if ":" in host else f":{given.get('PGPORT', '5432')}"
    return f"{host}{port}/{given.get('PGDATABASE', '')}"


def host_list(libpq: Mapping[str, str]) -> tuple[list[str], list[int]]:
    """Return the hosts and their ports where several are given, else nothing: then asyncpg reads them by itself."""
    given = dict(libpq) | url_parameters(libpq.get("DATABASE_URL"))
    specs = [HOST.fullmatch(spec) for spec in given.get("PGHOST", "").split(",")]
    ports = given.get("PGPORT", "5432").split(",") * len(specs)
    found = [
        (spec[1].strip("[]"), int((spec[2] or "")[1:] or port))
        for spec, port in zip(specs, ports, strict=False)
        if spec
    ]
    return ([host for host, _ in found], [port for _, port in found]) if len(found) > 1 else ([], [])


def login_name() -> str | None:
    """Return the name of the user that this process runs as, if the system knows one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable that looks like one of ours but is not."""
    known = {*SETTINGS, *(f"{variable}_FILE" for variable in SETTINGS)}
    unknown = [variable for variable in environ if variable.startswith("MIGRATE_") and variable not in known]
    if unknown:
        from difflib import get_close_matches

        for variable in unknown:
            for meant in get_close_matches(variable, known, 1, 0.8):
                yield f"{variable} is not a setting; did you mean {meant}?"
