"""How messages count, list and shorten."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .migrations import Applied, Migration

LONGEST_SHOWN = 300
"""Characters of a text that are shown in a line."""


def count(number: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def few(filenames: "Sequence[str]", most: int = 5) -> str:
    """List the first few of many filenames."""
    listed = ", ".join(filenames[:most])
    return listed if len(filenames) <= most else f"{listed} and {len(filenames) - most} more"


def names(items: "Sequence[Migration | Applied]") -> str:
    """List the filenames of migrations or of rows of the history, the first few of many."""
    return few([item.filename for item in items])


def newest(migrations: "Sequence[Migration]") -> str:
    """Say how many migrations there are, and which is the newest."""
    return f"the newest of {count(len(migrations), 'migration')} is {migrations[-1].filename}"


def short(text: str) -> str:
    """Return a text in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]} …"
