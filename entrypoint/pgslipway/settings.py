"""The text of a setting, from a variable or a file, and its value: plain functions, without a heavy import."""

from .system import contents
from .words import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

LONGEST = 24 * 24 * 3600.0
"""Seconds; Postgres keeps its timeouts as milliseconds in a signed 32-bit number."""
NAME_BYTES = 63
"""Postgres cuts a longer name, NAMEDATALEN."""
ADOPTED = (
    "golang-migrate", "goose", "dbmate", "flyway", "sqlx", "prisma",
    "drizzle", "diesel", "refinery", "tern", "supabase",
)  # fmt: skip
"""The tools whose history can be taken over."""
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
IPV6 = set("0123456789abcdefABCDEF:.%")
HOST_SIGNS = set("-_.:%")
"""The characters in the names and addresses of hosts, besides letters and digits."""


def duration(text: str) -> float:
    """Return seconds for "500ms", "5s", "10m", "1.5h" or "0". Raises ValueError with the expected form."""
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    number = text.removesuffix(unit)
    whole, point, fraction = number.partition(".")
    is_duration = bool(unit) and is_digits(whole, 12) and (is_digits(fraction, 9) or not point)
    seconds = float(number) * UNITS[unit] if is_duration else 0.0
    if not (is_duration or text == "0") or seconds > LONGEST:
        raise ValueError("a duration such as 500ms, 5s or 10m, at most 24 days, or 0")
    return seconds


def is_digits(text: str, most: int) -> bool:
    """Tell whether `text` is a decimal number of at most so many digits."""
    return text.isdecimal() and text.isascii() and len(text) <= most


def anything(text: str) -> str:
    """Return `text`, which is looked at where its meaning is known."""
    return text


def whole_number(least: int, most: int) -> "Callable[[str], int]":
    """Return a function that takes a number between these, and raises ValueError for any other text."""

    def number(text: str) -> int:
        if not is_digits(text, len(str(most))) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return number


def choice(*values: str) -> "Callable[[str], str]":
    """Return a function that takes one of `values` and raises ValueError for any other text."""

    def one_of(text: str) -> str:
        if text not in values:
            raise ValueError(" or ".join(values))
        return text

    return one_of


def name(suffix: str = "") -> "Callable[[str], str]":
    """Return a function that takes a Postgres name which leaves room for `suffix`; else it raises ValueError."""
    longest = NAME_BYTES - len(suffix)

    def fitting(text: str) -> str:
        if not text or "\0" in text or len(text.encode()) > longest:
            raise ValueError(f"a name of at most {longest} bytes")
        if expected := name_expected(text):
            raise ValueError(expected)
        return text

    return fitting


def name_expected(text: str) -> str:
    """Return the form of a name that was expected instead of `text`; empty where it may be one.

    Postgres would take any text; but nobody sees a line end or a blank at the end, and then there are two names.
    """
    if unreplaced(text):
        return "a name in which every variable was replaced"
    if not text.isprintable() or text != text.strip():
        return "a name without white space around it and without control characters"
    return ""


def path_text(text: str) -> str:
    """Return `text` if it may be a path. Raises ValueError for what nobody means to be a part of one."""
    if expected := name_expected(text):
        raise ValueError(expected.replace("name", "path", 1))
    return text


def unreplaced(text: str) -> str:
    """Return the first $(NAME) or ${NAME} in `text`, which Kubernetes or Compose left as it was; empty without one."""
    for opening, closing in ("$(", ")"), ("${", "}"):
        for part in text.split(opening)[1:]:
            variable, end, _ = part.partition(closing)
            if end and variable.isidentifier():
                return f"{opening}{variable}{closing}"
    return ""


def adoption(text: str) -> str:
    """Return a value of MIGRATE_ADOPT. Raises ValueError for a text that is none."""
    tool, colon, relation = text.partition(":")
    if tool == "baseline":
        version, _, relation = relation.partition("@")
        if not version or not relation:
            raise ValueError("baseline:VERSION@RELATION, such as baseline:42@public.orders")
    elif tool not in ADOPTED and text != "none":
        raise ValueError(f"none, baseline:VERSION@RELATION or one of {', '.join(ADOPTED)}")
    if colon and not relation:
        raise ValueError(f"{tool} alone, or with its table, such as {tool}:public.history")
    if expected := name_expected(text):
        raise ValueError(expected)
    return text


def is_port(text: str) -> bool:
    """Tell whether `text` is the number of a TCP port."""
    return is_digits(text, 5) and 0 < int(text) < 65536


def split_host(text: str) -> tuple[str, str] | None:
    """Return a host and its port, "" without one; None for a text that is neither.

    A socket's folder may have colons: Cloud SQL's is /cloudsql/project:region:instance.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        is_host = bool(bracket) and is_address(host) and (not rest or (colon == ":" and bool(port)))
    else:
        host, colon, port = text.rpartition(":")
        if not colon or (text.startswith("/") and not is_digits(port, len(port))):
            host, colon, port = text, "", ""
        is_host = text.startswith("/") or (not set(host) & set(":[]") and bool(port) == bool(colon))
    return (host, port) if is_host and (not port or is_port(port)) else None


def is_host(host: str) -> bool:
    """Tell whether `host` can be a name, an address, or the folder of a socket."""
    if host.startswith("/"):
        return not name_expected(host)
    return all(character.isalnum() or character in HOST_SIGNS for character in host)


def decoded(text: str) -> str:
    """Return a part of a URL without its percent-encoding; a + stands for itself there, as in libpq."""
    first, *parts = text.split("%")
    encoded = first.encode()
    for part in parts:
        is_byte = len(part) >= 2 and all(character in "0123456789abcdefABCDEF" for character in part[:2])
        encoded += bytes.fromhex(part[:2]) + part[2:].encode() if is_byte else f"%{part}".encode()
    return encoded.decode(errors="replace")


def is_address(text: str) -> bool:
    """Tell whether `text` has the form of an IP address."""
    if ":" in text:
        return set(text.partition("%")[0]) <= IPV6
    return [is_digits(part, 3) for part in text.split(".")] == [True] * 4


def hostaddr_expected(hosts: list[str], addresses: list[str]) -> str:
    """Return the form of PGHOSTADDR that was expected instead of these addresses; empty where they may be it."""
    if not all(map(is_address, filter(None, addresses))):
        return "IP addresses; a name goes into PGHOST"
    if hosts and addresses != [""] and len(hosts) != len(addresses):
        return "as many addresses as PGHOST has hosts"
    if any(host.startswith("/") and address for host, address in zip(hosts, addresses, strict=False)):
        return "no address where PGHOST has the folder of a socket"
    return ""


def bracketed(host: str) -> str:
    """Return an IPv6 address in the brackets that set it off from a port."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith(("[", "/")) else host


def given(variable: str, environ: "Mapping[str, str]") -> str | None:
    """Return the value of `variable`, or of the file that `<variable>_FILE` names, or None. Raises ValueError."""
    value, file = environ.get(variable), environ.get(f"{variable}_FILE")
    if value and file:
        raise ValueError(f"{variable} and {variable}_FILE are both set; keep one of them")
    if file:
        try:
            value = contents(file).decode().removesuffix("\n").removesuffix("\r")
        except OSError as error:
            raise ValueError(f"{variable}_FILE:{shown(file)} {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{variable}_FILE: {file} is not UTF-8 text") from error
    if value and ("\0" in value or any("\ud800" <= character <= "\udfff" for character in value)):  # PEP 383
        raise ValueError(f"{variable}: the value holds a NUL or bytes that are not UTF-8")
    return value or None


def path_in(environ: "Mapping[str, str]", variable: str, default: str = "") -> str | None:
    """Return a path that somebody else's variable holds, or the default one; None without either."""
    return environ.get(variable) or default or None


def misspelt(environ: "Mapping[str, str]", settings: "Collection[str]", but: str) -> "Iterator[str]":
    """Yield a warning for each variable that looks like one of the settings but is not, nor begins with `but`."""
    known = {*settings, *(f"{variable}_FILE" for variable in settings)}
    ours = (variable for variable in environ if variable.startswith("MIGRATE_") and not variable.startswith(but))
    unknown = [variable for variable in ours if variable not in known]
    if unknown:
        from difflib import get_close_matches

        for variable in unknown:
            for meant in get_close_matches(variable, known, 1, 0.8):
                yield f"{variable} is not a setting; did you mean {meant}?"


LAYOUTS = ("auto", "plain", "goose", "dbmate", "tern", "flyway", "prisma", "diesel", "drizzle")


class Setting:
    """A setting: its name in Config, how its text is taken, its default as one would write it, its line in --help."""

    __slots__ = ("convert", "default", "meaning", "name", "value")

    def __init__(self, name: str, convert: "Callable[[str], Any]", default: str | None, meaning: str) -> None:
        self.name = name
        self.convert = convert
        self.default = default
        self.meaning = meaning
        self.value = None if default is None else convert(default)


DECLARED = (
    Setting("dir", path_text, "/migrations", "the folder of migrations"),
    Setting("layout", choice(*LAYOUTS), "auto", "how the folder is laid out: auto, or " + ", ".join(LAYOUTS[1:])),
    Setting("schema", name(), "public", "schema of the history table"),
    Setting("table", name("_repeatable"), "schema_migrations", "name of the history table"),
    Setting("role", name(), None, "become this role before the history is touched"),
    Setting(
        "wait_timeout",
        duration,
        "60s",
        "how long Postgres may take to answer its first query; `wait`: the schema to be there [10m]",
    ),
    Setting("lock_timeout", duration, "10m", "how long to wait for another runner to finish"),
    Setting("lock", choice("auto", "session", "transaction"), "auto", "auto, session or transaction"),
    Setting("ddl_lock_timeout", duration, "500ms", "how long one attempt may queue for a table's lock"),
    Setting("ddl_retry", duration, "5m", "how long a file is retried while its tables are busy"),
    Setting("statement_timeout", duration, "0", "the server's statement_timeout for migrations"),
    Setting("ahead", choice("allow", "refuse"), None, "when the database is newer: allow or refuse"),
    Setting("out_of_order", choice("allow", "refuse"), "allow", "a late, lower version: allow or refuse"),
    Setting("edited", choice("refuse", "warn"), "refuse", "an applied file was edited: refuse or warn"),
    Setting("adopt", adoption, None, "take over what another tool has applied: its name, or baseline:VERSION@RELATION"),
    Setting("create_database", choice("no", "yes"), "no", "create a database that does not exist: no or yes"),
    Setting("targets", anything, None, "many schemas or databases in one run: their names, parted by blanks"),
    Setting("targets_query", anything, None, "SQL whose first column has their names"),
    Setting("target_kind", choice("schema", "database", "url"), "schema", "schema, database or url (name=URL)"),
    Setting("target_path", anything, None, "schemas that are searched after a target's own"),
    Setting("parallel", whole_number(1, 1000), "4", "how many targets at a time"),
    Setting("canaries", whole_number(0, 10**6), "1", "how many targets before the others, one after the other"),
    Setting("max_failures", whole_number(0, 10**6), "0", "after more failures no further target is begun"),
    Setting("shards", whole_number(1, 10**5), None, "completions of an Indexed Job: each has its share of the targets"),
    Setting("log_format", choice("auto", "text", "json"), "auto", "auto, text or json"),
    Setting("termination_log", path_text, None, "file for the outcome as JSON"),
)
SETTINGS = {f"MIGRATE_{setting.name.upper()}": setting for setting in DECLARED}
DEFAULTS = {"wait": {"MIGRATE_WAIT_TIMEOUT": "10m"}}
"""The settings whose default depends on the command."""
