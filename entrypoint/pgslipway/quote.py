"""Values as SQL: names, literals, arrays, durations; every value in our own statements goes through here."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def quote_name(name: str) -> str:
    """Return `name` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return `text` as a string literal that means the same whatever standard_conforming_strings is."""
    quoted = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
    return f" E{quoted}" if "\\" in text else quoted


def quote_array(texts: "Iterable[str]") -> str:
    """Return `texts` as the literal of an array of text."""
    escaped = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return quote_literal("{" + ",".join(f'"{text}"' for text in escaped) + "}")


def milliseconds(seconds: float) -> int:
    """Return `seconds` as Postgres's timeouts take them: whole milliseconds, 0 for no limit."""
    return max(1, round(seconds * 1000)) if seconds else 0
