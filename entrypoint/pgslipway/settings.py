"""The text of a setting, from a variable or a file, and its value: plain functions, without a heavy import."""

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LONGEST = 24 * 24 * 3600.0
"""Seconds; Postgres keeps its timeouts as milliseconds in a signed 32-bit number."""
NAME_BYTES = 63
"""Postgres cuts a longer name, NAMEDATALEN."""
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
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

    def short_enough(text: str) -> str:
        if not text or "\0" in text or len(text.encode()) > longest:
            raise ValueError(f"a name of at most {longest} bytes")
        return text

    return short_enough


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
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
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
