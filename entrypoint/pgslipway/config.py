"""The environment and the flags, as one value; the only place that knows the names of the settings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from . import libpq
from .settings import choice, duration, given, login_name, name, path_text, redact

SOCKETS = ("/run/postgresql", "/var/run/postgresql", "/tmp", "/private/tmp")  # noqa: S108
"""The folders in which a server's socket may be."""
TLS_FILES = (
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
"""The parameters that asyncpg takes in a URL only."""


class Location:
    """Where Postgres is, as an environment says it: a mounted Secret, and so a password, changes while we wait."""

    __slots__ = ("environ", "ignored", "libpq", "name", "problems", "server_settings")

    def __init__(self, environ: Mapping[str, str], name: str = "") -> None:
        """Read `environ`; messages call the server `name`, or by host, port and database."""
        self.environ = environ
        self.libpq: dict[str, str] = {}
        """The PG* variables."""
        self.server_settings: dict[str, str] = {}
        self.ignored: list[str] = []
        """The names of what has no meaning here."""
        self.problems: list[str] = []
        self.read_again()
        self.name = name or libpq.target(self.libpq)

    def read_again(self) -> bool:
        """Read the environment and its files as they are now; tell whether that says anything new."""
        before = (self.libpq, self.server_settings, self.problems)
        values, problems = {}, []
        for variable in libpq.variables(self.environ):
            try:
                if value := given(variable, self.environ):
                    values[variable] = value
            except ValueError as problem:
                problems.append(str(problem))
        hidden = [variable for variable in values if not self.environ.get(variable)]  # they come from files
        self.libpq, self.server_settings, self.ignored, found = libpq.locate(values, hidden)
        self.problems = [*problems, *found]
        return before != (self.libpq, self.server_settings, self.problems)

    def places(self) -> list[tuple[str, str, int]]:
        """Return each host, the name or address to reach it by, and its port; without a host, where libpq looks."""
        hosts, ports = libpq.host_list(self.libpq)
        if not hosts:
            sockets = [folder for folder in SOCKETS if Path(folder, f".s.PGSQL.{ports[0]}").exists()]
            hosts, ports = [*sockets, "localhost"], ports * (len(sockets) + 1)
        names = self.libpq["PGHOSTADDR"].split(",") if "PGHOSTADDR" in self.libpq else hosts
        return [(host, name or host, port) for host, name, port in zip(hosts, names, ports, strict=True)]

    def driver_arguments(self) -> dict[str, Any]:
        """Return asyncpg's arguments, but for the address: all of them, or it reads the others from `os.environ`."""
        hosts, _ = libpq.host_list(self.libpq)
        user = self.libpq.get("PGUSER") or login_name()
        has_network = not hosts or any(not host.startswith("/") for host in hosts)
        files = {name: self.libpq[variable] for name in TLS_FILES if (variable := libpq.HONOURED[name]) in self.libpq}
        return {
            "dsn": f"postgresql://?{urlencode(files)}" if files else None,
            "user": user,
            "password": self.libpq.get("PGPASSWORD"),
            "database": self.libpq.get("PGDATABASE", user),
            "ssl": self.libpq.get("PGSSLMODE", "prefer" if has_network else "disable"),
            "direct_tls": self.libpq.get("PGSSLNEGOTIATION") == "direct",
            "krbsrvname": self.libpq.get("PGKRBSRVNAME"),
            "gsslib": self.libpq.get("PGGSSLIB", "gssapi"),
        }


def setting(convert: Callable[[str], Any], default: str | None, meaning: str) -> Any:
    """Declare a setting: how its text is taken, its default as one would write it, and its line in --help."""
    value = None if default is None else convert(default)
    return field(default=value, metadata={"convert": convert, "default": default, "meaning": meaning})


def as_path(text: str) -> Path:
    """Return a path. Raises ValueError with the expected form."""
    return Path(path_text(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings. Durations are seconds, 0 for no limit. `problems` names the settings that could not be read."""

    dir: Path = setting(as_path, "/migrations", "the folder of migrations")
    schema: str = setting(name(), "public", "schema of the history table")
    table: str = setting(name("_steps"), "schema_migrations", "name of the history table")
    role: str | None = setting(name(), None, "become this role before the history is touched")
    wait_timeout: float = setting(
        duration, "60s", "how long Postgres may take to answer its first query; `wait`: the schema to be there [10m]"
    )
    lock_timeout: float = setting(duration, "10m", "how long to wait for another runner to finish")
    lock: str = setting(choice("auto", "session", "transaction"), "auto", "auto, session or transaction")
    ddl_lock_timeout: float = setting(duration, "500ms", "how long one attempt may queue for a table's lock")
    ddl_retry: float = setting(duration, "5m", "how long a file is retried while its tables are busy")
    statement_timeout: float = setting(duration, "0", "the server's statement_timeout for migrations")
    ahead: str | None = setting(choice("allow", "refuse"), None, "when the database is newer: allow or refuse")
    out_of_order: str = setting(choice("allow", "refuse"), "allow", "a late, lower version: allow or refuse")
    edited: str = setting(choice("refuse", "warn"), "refuse", "an applied file was edited: refuse or warn")
    log_format: str = setting(choice("auto", "text", "json"), "auto", "auto, text or json")
    termination_log: Path | None = setting(as_path, None, "file for the outcome as JSON")
    location: Location | None = field(default=None, repr=False)
    """Where Postgres is; None without a database, and where the caller gives the one connection that there is."""
    in_kubernetes: bool = False
    github_workspace: Path | None = None
    """Where GitHub Actions has the checkout, which a container need not be told; None elsewhere."""
    github_step_summary: Path | None = None
    """The file that GitHub Actions shows below a job, in Markdown."""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def libpq(self) -> Mapping[str, str]:
        """The PG* variables."""
        return self.location.libpq if self.location else {}


SETTINGS = {f"MIGRATE_{field.name.upper()}": field for field in fields(Config) if "convert" in field.metadata}


def from_environ(
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    *,
    defaults: Mapping[str, str] | None = None,
    needs_database: bool = True,
) -> Config:
    """Return the settings in `environ`, or in `flags` where they are there too; both by variable name.

    `defaults` go before those of the settings. Never raises: each setting that cannot be read is in the result's
    `problems`, and has its default instead.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for variable, setting in SETTINGS.items():
        try:
            if value := flags.get(variable) or given(variable, environ) or (defaults or {}).get(variable):
                is_shown = variable in flags or bool(environ.get(variable))
                values[setting.name] = converted(variable, value, is_shown=is_shown)
        except ValueError as problem:
            problems.append(str(problem))
    location = Location(dict(environ)) if needs_database else None
    return Config(
        **values,
        location=location,
        in_kubernetes="KUBERNETES_SERVICE_HOST" in environ,
        github_workspace=path_in(environ, "GITHUB_WORKSPACE", "/") if environ.get("GITHUB_ACTIONS") == "true" else None,
        github_step_summary=path_in(environ, "GITHUB_STEP_SUMMARY"),
        problems=(*problems, *(location.problems if location else ())),
        warnings=tuple(misspelt(environ)),
    )


def path_in(environ: Mapping[str, str], variable: str, default: str = "") -> Path | None:
    """Return a path that somebody else's variable holds, or the default one; None without either."""
    return Path(path) if (path := environ.get(variable) or default) else None


def from_keywords(**keywords: Any) -> Config:
    """Return the settings given as keywords, timeouts as numbers of seconds. Raises ValueError for a bad one."""
    for key, value in keywords.items():
        text = f"{value:.9f}s" if isinstance(value, int | float) else value
        if text is not None and not isinstance(text, Path):
            converted(f"MIGRATE_{key.upper()}", text, is_shown=True)
    return Config(**keywords)


def converted(variable: str, value: str, *, is_shown: bool) -> Any:
    """Return the typed value of a setting. Raises ValueError; a value from a file is not shown: it may be secret."""
    try:
        return SETTINGS[variable].metadata["convert"](value)
    except ValueError as expected:
        instead = f", not {redact(value[:100])!r}" if is_shown else ""
        raise ValueError(f"{variable}: expected {expected}{instead}") from expected


def misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable that looks like one of ours but is not."""
    known = {*SETTINGS, *(f"{variable}_FILE" for variable in SETTINGS)}
    unknown = [variable for variable in environ if variable.startswith("MIGRATE_") and variable not in known]
    if unknown:
        from difflib import get_close_matches

        for variable in unknown:
            for meant in get_close_matches(variable, known, 1, 0.8):
                yield f"{variable} is not a setting; did you mean {meant}?"
