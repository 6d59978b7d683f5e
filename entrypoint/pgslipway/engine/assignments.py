"""The settings that a statement gives a constant value, in any spelling, and the values that no file may give them."""

import re
from collections.abc import Iterator

from ..files import Source
from .sql import BLANK, Statement, folded, tokens

ENCODING, STRINGS = "client_encoding", "standard_conforming_strings"
ISOLATION, READ_ONLY = "transaction_isolation", "transaction_read_only"
DEFERRABLE, SNAPSHOT = "transaction_deferrable", "transaction_snapshot"
LEVELS = {"serializable", "repeatable read", "read committed", "read uncommitted"}
MODES = {
    **{f"ISOLATION LEVEL {level.upper()}": (ISOLATION, level) for level in LEVELS},
    "READ ONLY": (READ_ONLY, "on"),
    "READ WRITE": (READ_ONLY, "off"),
    "NOT DEFERRABLE": (DEFERRABLE, "off"),
    "DEFERRABLE": (DEFERRABLE, "on"),
    "SNAPSHOT": (SNAPSHOT, ""),
}
"""The modes of a transaction, as the settings that they are."""
MODE = re.compile("|".join(MODES))
CHARACTERISTICS = "SET SESSION CHARACTERISTICS AS TRANSACTION "
MODES_FOLLOW = re.compile(rf"BEGIN|START TRANSACTION|SET ((SESSION|LOCAL) )?TRANSACTION\b|{CHARACTERISTICS}")
CALLS = {"SELECT", "WITH", "VALUES", "CALL", "DO"}
"""The statements that are searched for a call of set_config; an INSERT of 20 MB is not."""
SET_CONFIG = re.compile(
    rb"\bset_config\s*\(\s*(?:\w+\s*[=:][>=]\s*)?E?'+([^']+)'+(?:::\w+)?\s*,\s*(?:\w+\s*[=:][>=]\s*)?E?'+([^']*)'",
    re.IGNORECASE,
)
SET_IN_BODY = re.compile(
    rb"\bSET\s+(?:(?:SESSION|LOCAL)\s+)?(?:NAMES|(\w+)\s*(?:=|\bTO\b))\s*'*([\w-]+)", re.IGNORECASE
)
STRING_EDGES = re.compile(r"^[eE]?['\"]|['\"]$")
UTF8, ON, OFF = ("utf8", "utf-8", "unicode"), ("on", "true", "yes", "1"), ("off", "false", "no", "0")
REFUSED = {
    ENCODING: (UTF8, f"the file is read and sent with {ENCODING} = utf8; remove this line"),
    STRINGS: (ON, f"the file is read and sent with {STRINGS} = on; remove this line"),
    READ_ONLY: (OFF, "the transaction of a file writes its history row, so it cannot be READ ONLY; remove this"),
    DEFERRABLE: (OFF, "the transaction of a file writes, so DEFERRABLE has no effect in it; remove this"),
    SNAPSHOT: ((), "the transaction of a file has taken its own snapshot already; remove this line"),
}
"""The settings with which no file could be applied: the values that they may have, and the message for any other."""


def assignments(statement: Statement, source: Source) -> list[tuple[str, str]]:
    """Return (setting, value), in lower case, for each constant value that a statement gives a setting."""
    first = statement.words[0] if statement.words else ""
    if first in {"BEGIN", "START", "SET"} and MODES_FOLLOW.match(text := statement.text):
        prefix = "default_" if text.startswith(CHARACTERISTICS) else ""
        return [(prefix + name, value) for name, value in (MODES[mode[0]] for mode in MODE.finditer(text))]
    if first == "SET":
        return list(of_set(source[statement.start : statement.end]))
    return list(of_body(statement, source)) if first in CALLS else []


def of_set(statement: bytes) -> Iterator[tuple[str, str]]:
    """Yield the setting of a SET statement; nothing for SET ROLE, SET CONSTRAINTS and their like."""
    parts = [statement[start:end].decode() for kind, start, end in tokens(statement) if kind not in BLANK][1:]
    if parts and parts[0].upper() in {"SESSION", "LOCAL"}:
        parts = parts[1:]
    name, *value = parts or [""]
    if name.upper() == "NAMES":
        yield ENCODING, constant(value)
    elif value and value[0].upper() in {"=", "TO"}:
        yield folded(name).lower(), constant(value[1:])


def of_body(statement: Statement, source: Source) -> Iterator[tuple[str, str]]:
    """Yield the settings of a statement's calls of set_config, and of the SETs in the body of a DO."""
    for match in SET_CONFIG.finditer(source, statement.start, statement.end):
        yield match[1].decode().lower(), match[2].decode().lower()
    if statement.words[0] == "DO":
        for match in SET_IN_BODY.finditer(source, statement.start, statement.end):
            yield (match[1] or ENCODING.encode()).decode().lower(), match[2].decode().lower()


def constant(tokens: list[str]) -> str:
    """Return the value that the rest of a SET statement is, in lower case and without quotes."""
    return STRING_EDGES.sub("", "".join(tokens)).lower()


def refused(setting: str, value: str) -> str | None:
    """Say why no file may give `setting` this value, or None."""
    allowed, message = REFUSED.get(setting, ((value,), ""))
    return None if value in allowed else message
