"""The environment and the flags, as one value: all settings, and where Postgres is. No heavy import."""

import posix

from . import libpq
from .settings import DECLARED, SETTINGS, given, misspelt, path_in
from .system import exists, login_name
from .words import redact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from mmap import mmap
    from os import PathLike
    from typing import Any, Self

SOCKETS = ("/run/postgresql", "/var/run/postgresql", "/tmp", "/private/tmp")  # noqa: S108
"""The folders in which a server's socket may be."""


class Location:
    """Where Postgres is, as an environment says it: a mounted Secret, and so a password, changes while we wait."""

    __slots__ = ("environ", "ignored", "libpq", "name", "only", "problems", "server_settings", "waited")

    def __init__(self, environ: "Mapping[str, str]", name: str = "", database: str = "") -> None:
        """Read `environ`; messages call the server `name`, or by host, port and database.

        With a `database` it is that one of the server.
        """
        self.environ = environ
        self.only = {"PGDATABASE": database} if database else {}
        self.libpq: dict[str, str] = {}
        """The PG* variables."""
        self.server_settings: dict[str, str] = {}
        self.ignored: list[str] = []
        """The names of what has no meaning here."""
        self.problems: list[str] = []
        self.waited = 0.0
        """The seconds that were spent already of the next MIGRATE_WAIT_TIMEOUT."""
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
        self.libpq |= self.only
        self.problems = [*problems, *found]
        return before != (self.libpq, self.server_settings, self.problems)

    @property
    def user(self) -> str:
        """The name to log in by."""
        return self.libpq.get("PGUSER") or login_name() or ""

    @property
    def database(self) -> str:
        """The name of the database."""
        return self.libpq.get("PGDATABASE", self.user)

    @property
    def sslmode(self) -> str:
        """How TLS is to be used; never over a socket of this machine."""
        hosts, _ = libpq.host_list(self.libpq)
        has_network = not hosts or any(not host.startswith("/") for host in hosts)
        return self.libpq.get("PGSSLMODE", "prefer" if has_network else "disable")

    def places(self) -> list[tuple[str, str, int]]:
        """Return each host, the name or address to reach it by, and its port; without a host, where libpq looks."""
        hosts, ports = libpq.host_list(self.libpq)
        if not hosts:
            sockets = [folder for folder in SOCKETS if exists(f"{folder}/.s.PGSQL.{ports[0]}")]
            hosts, ports = [*sockets, "localhost"], ports * (len(sockets) + 1)
        names = self.libpq["PGHOSTADDR"].split(",") if "PGHOSTADDR" in self.libpq else hosts
        return [(host, name or host, port) for host, name, port in zip(hosts, names, ports, strict=True)]


VARIABLE = "MIGRATE_VAR_"
"""The beginning of the settings that are values for the variables of files."""


class Variables:
    """The values for the variables of files, each read when a file first needs it. None is ever shown."""

    __slots__ = ("environ", "known")

    def __init__(self, environ: "Mapping[str, str]") -> None:
        """Take the settings that begin with VARIABLE."""
        self.environ = {name: value for name, value in environ.items() if name.startswith(VARIABLE)}
        self.known: dict[str, str] = {}
        """The values so far."""

    def value(self, name: str) -> str | None:
        """Return the value of the variable `name`, or None. Raises ValueError for one that cannot be read."""
        name = name.lower()
        if name not in self.known and (value := given(f"{VARIABLE}{name.upper()}", self.environ)):
            self.known[name] = value
        return self.known.get(name)


def may_have_variables(source: "bytes | mmap", layout: str) -> bool:
    """Tell whether a file may have the directive for variables, or one of Flyway's; a large one may in any case."""
    if not isinstance(source, bytes):
        return True
    return b"variables:" in source.lower() or (layout == "flyway" and b"${" in source)


OF_TARGETS = {"target_kind", "target_path", "parallel", "canaries", "max_failures", "shards"}
"""The settings that go with targets."""
LONELY = "{} goes with MIGRATE_TARGETS or MIGRATE_TARGETS_QUERY, and neither is set, or it is empty"


class Config:
    """All settings, not changed once made. Durations are seconds, 0 for no limit."""

    dir: str
    layout: str
    schema: str
    table: str
    role: str | None
    wait_timeout: float
    lock_timeout: float
    lock: str
    ddl_lock_timeout: float
    ddl_retry: float
    statement_timeout: float
    ahead: str | None
    out_of_order: str
    edited: str
    adopt: str | None
    create_database: str
    """"no"; "yes", which becomes "expect" where somebody else creates it."""
    targets: str | None
    """The text of the list; None without one, empty for a file without any."""
    targets_query: str | None
    target_kind: str
    target_path: str | None
    parallel: int
    canaries: int
    max_failures: int
    shards: int | None
    completion_index: str | None = None
    """The number of this pod in an Indexed Job."""
    search_path: str = ""
    """The search_path of a target that is a schema, as SQL; empty where there is none."""
    shared: "Any" = None
    """The connections that the targets of one database share (`targets.shared`)."""
    log_format: str
    termination_log: str | None
    location: Location | None = None
    """Where Postgres is; None without a database, and where the caller gives the one connection that there is."""
    variables: Variables = Variables({})
    in_kubernetes = False
    github_workspace: str | None = None
    """Where GitHub Actions has the checkout, which a container need not be told; None elsewhere."""
    github_step_summary: str | None = None
    """The file that GitHub Actions shows below a job, in Markdown."""
    problems: "tuple[str, ...]" = ()
    """The settings that could not be read, each with the reason."""
    warnings: "tuple[str, ...]" = ()

    def __init__(self, **values: "Any") -> None:
        """Take values by the names above; what is not among them has its default."""
        vars(self).update({setting.name: setting.value for setting in DECLARED} | values)

    def but(self, **values: "Any") -> "Self":
        """Return the same settings, but for these."""
        return type(self)(**(vars(self) | values))

    @property
    def has_targets(self) -> bool:
        """Tell whether one run is over many schemas or databases."""
        return self.targets is not None or self.targets_query is not None

    @property
    def libpq(self) -> "Mapping[str, str]":
        """The PG* variables."""
        return self.location.libpq if self.location else {}


def from_environ(
    environ: "Mapping[str, str]",
    flags: "Mapping[str, str]",
    *,
    defaults: "Mapping[str, str] | None" = None,
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
    if "targets" not in values and environ.get("MIGRATE_TARGETS_FILE"):
        values["targets"] = ""  # an empty file is an empty list
    if values.keys().isdisjoint({"targets", "targets_query"}):
        problems += [LONELY.format(f"MIGRATE_{name.upper()}") for name in values if name in OF_TARGETS]
    location = Location(dict(environ)) if needs_database else None
    return Config(
        **values,
        location=location,
        variables=Variables(environ),
        completion_index=environ.get("JOB_COMPLETION_INDEX"),
        in_kubernetes="KUBERNETES_SERVICE_HOST" in environ,
        github_workspace=path_in(environ, "GITHUB_WORKSPACE", "/") if environ.get("GITHUB_ACTIONS") == "true" else None,
        github_step_summary=path_in(environ, "GITHUB_STEP_SUMMARY"),
        problems=(*problems, *(location.problems if location else ())),
        warnings=tuple(misspelt(environ, SETTINGS, VARIABLE)),
    )


def from_keywords(
    folder: "str | PathLike[str]", *, variables: "Mapping[str, str] | None" = None, **keywords: "Any"
) -> Config:
    """Return the settings given as keywords, timeouts as numbers of seconds. Raises ValueError for a bad one."""
    for key, value in keywords.items():
        text = f"{value:.9f}s" if isinstance(value, int | float) else value
        if text is not None:
            converted(f"MIGRATE_{key.upper()}", text, is_shown=True)
    values = {f"{VARIABLE}{name.upper()}": value for name, value in (variables or {}).items()}
    if others := [name for name, value in values.items() if not isinstance(value, str)]:
        raise ValueError(f"variables: each value must be a string; not so: {', '.join(others)}")
    return Config(dir=posix.fspath(folder), variables=Variables(values), **keywords)


def converted(variable: str, value: str, *, is_shown: bool) -> "Any":
    """Return the typed value of a setting. Raises ValueError; a value from a file is not shown: it may be secret."""
    try:
        return SETTINGS[variable].convert(value)
    except ValueError as expected:
        instead = f", not {redact(value[:100])!r}" if is_shown else ""
        raise ValueError(f"{variable}: expected {expected}{instead}") from expected
