"""The environment and the flags, as one value; the only place that knows the names of the settings."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from . import libpq

LONGEST = 24 * 24 * 3600.0
"""Seconds; Postgres keeps its timeouts as milliseconds in a signed 32-bit number."""
NAME_BYTES = 63
"""Postgres cuts a longer name, NAMEDATALEN."""
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


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
        if not text or "\0" in text or len(text.encode()) > longest:
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
    wait_timeout: float = setting(
        duration, "60s", "how long Postgres may take to answer its first query; `wait`: the schema to be there [10m]"
    )
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
    """Where Postgres is, as PG* variables."""
    server_settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    environ: Mapping[str, str] | None = field(default=None, repr=False)
    """Where `libpq` and `server_settings` were read from, if they were."""
    in_kubernetes: bool = False
    github_workspace: Path | None = None
    """Where GitHub Actions has the checkout, which a container need not be told; None elsewhere."""
    github_step_summary: Path | None = None
    """The file that GitHub Actions shows below a job, in Markdown."""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


SETTINGS = {f"MIGRATE_{field.name.upper()}": field for field in fields(Config) if "parse" in field.metadata}


def from_environ(
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    *,
    defaults: Mapping[str, str] | None = None,
    needs_database: bool = True,
) -> Config:
    """Return the settings in `environ`, or in `flags` where they are there too; both by variable name.

    `defaults` go before those of the settings. Never raises: what cannot be read is in the result's `problems`, all
    of it, and has its default instead.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for variable, setting in SETTINGS.items():
        try:
            if value := flags.get(variable) or read(variable, environ) or (defaults or {}).get(variable):
                shown = variable in flags or bool(environ.get(variable))
                values[setting.name] = parse(variable, value, shown=shown)
        except ValueError as problem:
            problems.append(str(problem))
    config = Config(
        **values,
        in_kubernetes="KUBERNETES_SERVICE_HOST" in environ,
        github_workspace=path_in(environ, "GITHUB_WORKSPACE", "/") if environ.get("GITHUB_ACTIONS") == "true" else None,
        github_step_summary=path_in(environ, "GITHUB_STEP_SUMMARY"),
        problems=tuple(problems),
        warnings=tuple(misspelt(environ)),
    )
    return locate(replace(config, environ=dict(environ))) if needs_database else config


def path_in(environ: Mapping[str, str], variable: str, default: str = "") -> Path | None:
    """Return a path that somebody else's variable holds, or the default one; None without either."""
    return Path(path) if (path := environ.get(variable) or default) else None


def locate(config: Config) -> Config:
    """Return `config` with where Postgres is now: a mounted Secret, and so a password, changes while we wait for it.

    Never raises, as `from_environ`; settings that were not read from an environment stay as they are.
    """
    if config.environ is None:
        return config
    given: dict[str, str] = {}
    problems: list[str] = []
    for variable in libpq.LIBPQ:
        try:
            if value := read(variable, config.environ):
                given[variable] = value
        except ValueError as problem:
            problems.append(str(problem))
    where, server_settings, found = libpq.locate(given)
    problems += found
    problems += [f"{name}: not supported; give PGHOST and so on" for name in libpq.SERVICE if config.environ.get(name)]
    return replace(config, libpq=where, server_settings=server_settings, problems=(*config.problems, *problems))


def from_keywords(**keywords: Any) -> Config:
    """Return the settings given as keywords, timeouts as numbers of seconds. Raises ValueError for a bad one."""
    for name, value in keywords.items():
        text = f"{value:.9f}s" if isinstance(value, int | float) else value
        if text is not None and not isinstance(text, Path):
            parse(f"MIGRATE_{name.upper()}", text, shown=True)
    return Config(**keywords)


def read(variable: str, environ: Mapping[str, str]) -> str | None:
    """Return the value of `variable`, or of the file that `<variable>_FILE` names, or None. Raises ValueError."""
    value, file = environ.get(variable), environ.get(f"{variable}_FILE")
    if value and file:
        raise ValueError(f"{variable} and {variable}_FILE are both set; keep one of them")
    if file:
        try:
            value = contents(Path(file)).decode().removesuffix("\n").removesuffix("\r")
        except OSError as error:
            raise ValueError(f"{variable}_FILE:{libpq.shown(file)} {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{variable}_FILE: {file} is not UTF-8 text") from error
    if value and ("\0" in value or has_surrogates(value)):
        raise ValueError(f"{variable}: the value holds a NUL or bytes that are not UTF-8")
    return value or None


def contents(path: Path) -> bytes:
    """Return what is in a file now, or what came out of a pipe. Raises OSError."""
    return path.read_bytes() if path.is_file() else read_once(path)


@cache
def read_once(path: Path) -> bytes:
    """Return what comes out of a pipe, such as /dev/stdin or a shell's <(…), which gives it only once."""
    return path.read_bytes()


def has_surrogates(text: str) -> bool:
    """Tell whether `text` stands for bytes that are not UTF-8 (PEP 383)."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def parse(variable: str, value: str, *, shown: bool) -> Any:
    """Return the typed value of a setting. Raises ValueError; a value from a file is not `shown`: it may be secret."""
    try:
        return SETTINGS[variable].metadata["parse"](value)
    except ValueError as expected:
        instead = f", not {redact(value[:100])!r}" if shown else ""
        raise ValueError(f"{variable}: expected {expected}{instead}") from expected


def redact(text: str) -> str:
    """Return `text` without what stands before the host in a URL, for messages about misplaced ones."""
    return re.sub(r"://.*@", "://…@", text, flags=re.DOTALL)


def misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable that looks like one of ours but is not."""
    known = {*SETTINGS, *(f"{variable}_FILE" for variable in SETTINGS)}
    unknown = [variable for variable in environ if variable.startswith("MIGRATE_") and variable not in known]
    if unknown:
        from difflib import get_close_matches

        for variable in unknown:
            for meant in get_close_matches(variable, known, 1, 0.8):
                yield f"{variable} is not a setting; did you mean {meant}?"
