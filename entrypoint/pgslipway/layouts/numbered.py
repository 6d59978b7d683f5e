"""The layouts whose files begin with their version: plain, goose, dbmate and tern."""

from ..errors import bad_file
from .entries import others
from .versions import is_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .entries import Chosen, Visible


def plain(visible: "Visible") -> "Chosen":
    """Return all .sql files but those that undo a change."""
    return (
        {
            name: visible[name]
            for name in visible
            if name.lower().endswith(".sql") and not name.lower().endswith(".down.sql")
        },
        None,
        [],
    )


def goose(visible: "Visible") -> "Chosen":
    """Return all .sql files, and those in Go: their versions may be applied."""
    chosen = {name: visible[name] for name in visible if name.lower().endswith(".sql") or is_go(name)}
    return chosen, lambda name: leading_number(name, "_"), others(visible, chosen)


def is_go(name: str) -> bool:
    """Tell whether a file is a migration of goose's in Go."""
    return name[0].isdecimal() and name.endswith(".go") and not name.endswith("_test.go")


def dbmate(visible: "Visible") -> "Chosen":
    """Return the .sql files that begin with a digit."""
    chosen = {name: entry for name, entry in visible.items() if name.endswith(".sql") and name[0].isdecimal()}
    return chosen, lambda name: leading_number(name, ""), others(visible, chosen)


def tern(visible: "Visible") -> "Chosen":
    """Return the .sql files that begin with a number and an underscore; folders have templates."""
    chosen = {
        name: entry
        for name, entry in visible.items()
        if name.endswith(".sql") and is_number(name.partition("_")[0]) and not entry.is_dir()
    }
    return chosen, lambda name: leading_number(name, "_"), others(visible, chosen)


def leading_number(name: str, after: str) -> int:
    """Return the digits that a name begins with, before `after`, or raise BadMigrations."""
    digits = name[: len(name) - len(name.lstrip("0123456789"))]
    if not digits or not name[len(digits) :].startswith(after) or not name.isprintable():
        raise bad_file(name, "not a migration's name; it begins with its version, as in 007_add_orders.sql")
    return int(digits)
