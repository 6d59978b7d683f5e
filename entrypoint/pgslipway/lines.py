"""A line of the log as text or as JSON, and JSON itself; no heavy import.

`json` and `logging` would be half of a start with nothing to do. The encoder is the one that `json` uses, written in C.
"""

import sys
from time import gmtime, strftime, time

from .words import ESCAPED_IN_JSON, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeAlias

    from .config import Config

    Log: TypeAlias = Callable[[str, str, Mapping[str, Any]], None]
    """Writes a line: its level, its message, and the fields that ride along in JSON."""

NO_CHECK_FOR_CIRCLES = None
NO_INDENT = None


def to_json(value: "Any") -> str:
    """Return a value as JSON, as `json.dumps(value, ensure_ascii=False, default=str)` does."""
    from _json import encode_basestring, make_encoder

    encode = make_encoder(NO_CHECK_FOR_CIRCLES, str, encode_basestring, NO_INDENT, ": ", ", ", False, False, True)
    return "".join(encode(value, 0))


def text_line(seconds: float, level: str, message: str) -> str:
    """Return a line for people: the time in UTC, the level where it matters, the message."""
    shown = "" if level in {"debug", "info"} else f"{level}: "
    return visible(f"{strftime('%H:%M:%S', gmtime(seconds))} {shown}{message}")


def json_line(seconds: float, level: str, message: str, fields: "Mapping[str, Any]") -> str:
    """Return a line as one JSON object; `seconds` are those since 1970."""
    stamp = f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{int(seconds * 1000) % 1000:03d}Z"
    return to_json({"time": stamp, "level": level, "message": message} | dict(fields)).translate(ESCAPED_IN_JSON)


def is_json(config: "Config") -> bool:
    """Tell whether the log is JSON: where that was asked for, or where Kubernetes collects it."""
    return config.log_format == "json" or (
        config.log_format == "auto" and config.in_kubernetes and not sys.stderr.isatty()
    )


def to_stderr(config: "Config") -> "Log":
    """Return a function that writes lines to stderr; never fails."""

    def write(level: str, message: str, fields: "Mapping[str, Any]") -> None:
        line = json_line(time(), level, message, fields) if is_json(config) else text_line(time(), level, message)
        try:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # closed, or nobody reads it: no reason to stop
            return

    return write
