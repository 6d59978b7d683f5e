"""The layouts whose files begin with their version: plain, goose, dbmate and tern."""

from ..errors import bad_file
from .entries import is_folder, others
from .versions import is_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .entries import Chosen, Visible

HOW_TO_NAME = "not a migration's name; it begins with its version, as in 007_add_orders.sql"


def plain(visible: "Visible") -> "Chosen":
    """Return all .sql files but those that undo a change; of the rest only folders may hold what somebody misses."""
    named = {name: visible[name] for name in visible if name.lower().endswith(".sql")}
    chosen = {name: entry for name, entry in named.items() if not name.lower().endswith(".down.sql")}
    return chosen, None, [name for name in others(visible, named) if name.endswith("/")]


def goose(visible: "Visible") -> "Chosen":
    """Return all .sql files, and those in Go: their versions may be applied."""
    chosen = {name: visible[name] for name in visible if name.endswith(".sql") or is_go(name)}
    return chosen, goose_version, others(visible, chosen)


def goose_version(name: str) -> int:
    """Return the number before the first underscore, from 1 on, or raise BadMigrations."""
    digits, underscore, _ = name.partition("_")
    if not underscore or not is_number(digits):
        raise bad_file(name, HOW_TO_NAME)
    if not (version := int(digits)):
        raise bad_file(name, "goose's versions begin with 1, and 0 stands for none; give it another one")
    return version


def is_go(name: str) -> bool:
    """Tell whether a file is a migration of goose's in Go."""
    return name.endswith(".go") and "_" in name and is_number(name.partition("_")[0]) and not name.endswith("_test.go")


def dbmate(visible: "Visible") -> "Chosen":
    """Return the .sql files that begin with a digit."""
    chosen = {name: entry for name, entry in visible.items() if "0" <= name[0] <= "9" and name.endswith(".sql")}
    return chosen, leading_number, others(visible, chosen)


def leading_number(name: str) -> int:
    """Return the digits that a name begins with."""
    return int(name[: len(name) - len(name.lstrip("0123456789"))])


def tern(visible: "Visible") -> "Chosen":
    """Return the .sql files that begin with a number, an underscore and something more; folders have templates."""
    chosen = {name: entry for name, entry in visible.items() if is_tern(name) and not is_folder(entry)}
    return chosen, tern_version, others(visible, chosen)


def is_tern(name: str) -> bool:
    """Tell whether a name is that of a migration of tern's."""
    digits, _, rest = name.partition("_")
    return rest.endswith(".sql") and rest != ".sql" and is_number(digits)


def tern_version(name: str) -> int:
    """Return the number before the first underscore."""
    return int(name.partition("_")[0])
