"""The layout of Flyway and refinery: V<version>__<description>.sql in any depth."""

from ..errors import BadMigrations, Problem, bad_file
from .entries import below, must_be_folder
from .versions import flyway as number
from .versions import flyway_text, is_flyway

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .entries import Chosen, Entry, Visible

EVENTS = ("before", "after", "createSchema")
"""How the names of Flyway's callbacks begin."""
CODE = (".rs", ".java", ".kt", ".py", ".sh", ".bash", ".ps1", ".bat", ".cmd")
"""The ends of the names of migrations that are no SQL."""
BASELINE = "a baseline migration of Flyway's, which pgslipway does not run; make a V file of it"
CALLBACK = "a callback of Flyway's, which pgslipway does not run; put its SQL into the migrations"
NOTHING_UNDONE = "no V file has this version, so it is nothing that undoes one; refinery's U files may become V files"
HOW_TO_NAME = "name it V<version>__<description>.sql, such as V1.2__orders.sql"


def flyway(visible: "Visible") -> "Chosen":
    """Return the V….sql files in any depth, and the R….sql files in the folders. Raises BadMigrations.

    That is for callbacks and baselines.
    """
    chosen: dict[str, Entry] = {}
    code: dict[str, Entry] = {}
    undo: dict[str, Entry] = {}
    repeatable: dict[str, Entry] = {}
    ignored: list[str] = []
    refused: list[Problem] = []
    for name, entry in walk(visible):
        base = name.rpartition("/")[2]
        if base[0] == "V" and base[1:2].isdecimal() and base.endswith(".sql"):  # nearly all of them
            chosen[name] = entry
        elif is_flyway(base):
            (chosen if base[0] == "V" else undo)[name] = entry
        elif base[:2] in {"R_", "r_"} and base.lower().endswith(".sql"):
            repeatable[name] = entry
        elif base.endswith(CODE) and flyway_text(base):
            code[name] = entry
        elif refusal := flyway_refusal(base):
            refused += bad_file(name, refusal).problems
        else:
            ignored.append(name)
    refused += nothing_undone(undo, chosen)
    if refused:
        raise BadMigrations(*sorted(refused, key=lambda problem: problem.file))
    chosen |= without_sql(code, chosen)
    ignored += code.keys() - chosen.keys()
    chosen |= repeatable
    return chosen, flyway_version, sorted(name for name in ignored if not is_setting(name, chosen))


def without_sql(code: "Mapping[str, Entry]", chosen: "Mapping[str, Entry]") -> "dict[str, Entry]":
    """Return the migrations in code whose version no file with SQL has: such a one stands for what was applied."""
    versions = {number_of(name) for name in chosen} if code else ()
    return {name: entry for name, entry in code.items() if number_of(name) not in versions}


def is_setting(name: str, chosen: "Mapping[str, Entry]") -> bool:
    """Tell whether a file has the settings of a migration."""
    return name.endswith(".conf") and name.removesuffix(".conf") in chosen


def walk(visible: "Visible") -> "Iterator[tuple[str, Entry]]":
    """Yield (name, entry) for all files in any depth, and each folder once. Raises BadMigrations."""
    seen: set[tuple[int, int]] = set()
    folders = []
    for name, entry in visible.items():
        try:
            is_file = entry.is_file()
        except OSError:  # a link that leads back to itself
            is_file = False
        if is_file or not must_be_folder(name, entry):
            yield name, entry
        else:
            folders.append(name)
    for name in sorted(folders):
        yield from below(name, visible[name].path, seen)


def flyway_refusal(base: str) -> str:
    """Say why a file that Flyway would run is refused; empty for one that it would not run."""
    if not base.lower().endswith(".sql"):
        return ""
    if base.startswith("B") and flyway_text(f"V{base[1:]}"):
        return BASELINE
    event = base.rpartition(".")[0].partition("__")[0]
    if event == EVENTS[2] or any(
        event.startswith(when) and event[len(when) :][:1].isupper() and event.isalpha() for when in EVENTS[:2]
    ):
        return CALLBACK
    return ""


def nothing_undone(undo: "Iterable[str]", chosen: "Iterable[str]") -> "Iterator[Problem]":
    """Yield a problem for each U file without a V file of its version."""
    versions = {number_of(name) for name in chosen} if undo else ()
    for name in undo:
        if number_of(name) not in versions:
            yield from bad_file(name, NOTHING_UNDONE).problems


def number_of(name: str) -> int:
    """Return the number of the version in a filename, whatever letter comes first; -1 where there is none."""
    try:
        return number(version_text(name))
    except ValueError:
        return -1


def version_text(name: str) -> str:
    """Return the text in a filename that has to be its version."""
    text, separator, _ = name.rpartition("/")[2][1:].partition("__")
    return text if separator else text.rpartition(".")[0]


def flyway_version(name: str) -> int:
    """Return the version in a filename of Flyway's, or raise BadMigrations."""
    try:
        return number(version_text(name))
    except ValueError as error:
        raise bad_file(name, f"{error}; {HOW_TO_NAME}") from error
