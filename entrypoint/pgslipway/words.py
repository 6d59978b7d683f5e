"""How messages count, list and shorten."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .migrations import Applied, Migration

LONGEST_SHOWN = 300
"""Characters of a text that are shown in a line."""
LONGEST_VALUE = 100
"""Characters of a value in a message; a longer one was not meant for its place, and may be a secret."""

CONTROLS = [character for character in map(chr, range(0xA0)) if not character.isprintable()]
"""C0, DEL and C1: a terminal obeys them, whoever wrote them into a name or a NOTICE."""
ESCAPED = str.maketrans({character: f"\\x{ord(character):02x}" for character in CONTROLS if character not in "\t\n"})
ESCAPED_IN_JSON = str.maketrans({character: f"\\u{ord(character):04x}" for character in CONTROLS})


def count(number: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def both(migrations: int, repeatable: int) -> str:
    """Return "2 migrations", "1 repeatable file", or both."""
    counted = [count(migrations, "migration")] if migrations or not repeatable else []
    counted += [count(repeatable, "repeatable file")] if repeatable else []
    return " and ".join(counted)


def few(filenames: "Sequence[str]", most: int = 5) -> str:
    """List the first few of many filenames."""
    listed = ", ".join(filenames[:most])
    return listed if len(filenames) <= most else f"{listed} and {len(filenames) - most} more"


def names(items: "Sequence[Migration | Applied]") -> str:
    """List the filenames of migrations or of rows of the history, the first few of many."""
    return few([item.filename for item in items])


def newest(filenames: "Sequence[str]") -> str:
    """Say how many migrations there are, and which is the newest, by their names in order."""
    return f"the newest of {count(len(filenames), 'migration')} is {filenames[-1]}"


def visible(text: str) -> str:
    """Return a text, perhaps of several lines, with every other control character as its number."""
    return text.replace("\r\n", "\n").translate(ESCAPED)


def short(text: str) -> str:
    """Return a text in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]} …"


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
    return f", not {text!r}" if text and len(text) <= LONGEST_VALUE and "@" not in text else ""
