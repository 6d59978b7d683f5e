"""The text of a setting, from a variable or a file, and its value: plain functions, without a heavy import."""

import posix
from _stat import S_ISREG

from .system import environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LONGEST = 24 * 24 * 3600.0
"""Seconds; Postgres keeps its timeouts as milliseconds in a signed 32-bit number."""
NAME_BYTES = 63
"""Postgres cuts a longer name, NAMEDATALEN."""
PEM = b"-----BEGIN"
ADOPTED = (
    "golang-migrate", "goose", "dbmate", "flyway", "sqlx", "prisma",
    "drizzle", "diesel", "refinery", "tern", "supabase",
)  # fmt: skip
"""The tools whose history can be taken over."""
USER_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where the name of the user is looked for, before the user id, as in Python's getpass."""
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
IPV6 = set("0123456789abcdefABCDEF:.%")
HOST_SIGNS = set("-_.:%")
"""The characters in the names and addresses of hosts, besides letters and digits."""
LONGEST_SHOWN = 100
"""Characters of a value in a message; a longer one was not meant for its place, and may be a secret."""
FROM_PIPES: dict[str, bytes] = {}
"""The contents of pipes, by path: a pipe gives them only once."""


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


def contents(path: str) -> bytes:
    """Return the contents of a file now, or of a pipe such as /dev/stdin or a shell's <(…). Raises OSError."""
    if path in FROM_PIPES:
        return FROM_PIPES[path]
    with open(path, "rb") as file:
        content = file.read()
        if not S_ISREG(posix.fstat(file.fileno()).st_mode):
            FROM_PIPES[path] = content
    return content


def shown(path: str) -> str:
    """Return a path for a message; nothing of a text that may be the secret itself instead of its file's path."""
    folder = path.lstrip(".")
    is_path = len(path) - len(folder) <= 2 and folder.startswith("/") and 2 <= len(folder) <= 201
    return f" {path}:" if is_path and ":" not in path and path.split() == [path] else ""


def redact(text: str) -> str:
    """Return `text` without the login of a URL, for messages about misplaced ones."""
    start, end = text.find("://"), text.rfind("@")
    return f"{text[:start]}://…{text[end:]}" if 0 <= start < end else text


def instead(text: str) -> str:
    """Return the end of "expected …" that shows the value; empty for one that may be a secret in a wrong place."""
    return f", not {text!r}" if text and len(text) <= LONGEST_SHOWN and "@" not in text else ""


def is_pem(path: str) -> bool:
    """Tell whether there is something in PEM format in a file."""
    try:
        with open(path, "rb") as file:
            return PEM in file.read()
    except OSError:
        return False


def system_roots() -> str:
    """Return the path of the bundle of authorities that this system trusts; empty without one."""
    import ssl  # most starts do not ask

    return ssl.get_default_verify_paths().cafile or ""


def login_name() -> str | None:
    """Return the name of the user that this process runs as, if the system knows one."""
    if name := next(filter(None, map(environment().get, USER_VARIABLES)), None):
        return name
    import pwd  # in a container there may be no such file, and most have PGUSER

    try:
        return pwd.getpwuid(posix.getuid()).pw_name
    except KeyError:
        return None
