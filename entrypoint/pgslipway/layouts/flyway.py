"""The layout of Flyway and refinery: V<version>__<description>.sql in any depth."""

from ..errors import BadMigrations, bad_file
from .entries import File, below
from .versions import flyway as number
from .versions import flyway_text, is_flyway

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .entries import Chosen, Visible

EVENTS = ("before", "after", "createSchema")
"""How the names of Flyway's callbacks begin."""
LATER = "a repeatable migration, which pgslipway does not run yet; leave it to the tool that does, or give it a version"
NOTHING_UNDONE = "no V file has this version, so it is nothing that undoes one; refinery's U files may become V files"
HOW_TO_NAME = "name it V<version>__<description>.sql, such as V1.2__orders.sql"


def flyway(visible: "Visible") -> "Chosen":
    """Return the V….sql files in any depth. Raises BadMigrations for callbacks, baselines and repeatable ones."""
    paths = dict(walk(visible))
    named = [name for name in sorted(paths) if name.lower().endswith(".sql")]
    chosen = {name: File(paths[name]) for name in named if is_flyway(name) and base_of(name).startswith("V")}
    undo = [name for name in named if is_flyway(name) and base_of(name).startswith("U")]
    versions = {flyway_text(name) for name in chosen}
    refused = [(name, NOTHING_UNDONE) for name in undo if flyway_text(f"V{base_of(name)[1:]}") not in versions]
    refused += [(name, refusal) for name in named if (refusal := flyway_refusal(base_of(name)))]
    if refused:
        raise BadMigrations(*(bad_file(name, refusal).problems[0] for name, refusal in sorted(refused)))
    ignored = [name for name in sorted(paths) if name not in {*chosen, *undo} and not name.endswith(".conf")]
    return chosen, flyway_version, ignored


def base_of(name: str) -> str:
    """Return a filename without its folder."""
    return name.rpartition("/")[2]


def flyway_refusal(base: str) -> str:
    """Say why a file that Flyway would run is refused; empty for one that it would not run."""
    if base.startswith("R__"):
        return LATER
    if base.startswith("B") and base[1:2].isdecimal() and "__" in base:
        return "a baseline migration of Flyway's, which pgslipway does not run; make a V file of it"
    event = base.rpartition(".")[0].partition("__")[0]
    if event == EVENTS[2] or any(
        event.startswith(when) and event[len(when) :][:1].isupper() and event.isalpha() for when in EVENTS[:2]
    ):
        return "a callback of Flyway's, which pgslipway does not run; put its SQL into the migrations"
    return ""


def flyway_version(name: str) -> int:
    """Return the version in a filename of Flyway's, or raise BadMigrations."""
    version = base_of(name).rpartition(".")[0][1:].partition("__")[0]
    if not name.isprintable():
        raise bad_file(name, f"not a migration's name; {HOW_TO_NAME}")
    try:
        return number(version)
    except ValueError as error:
        raise bad_file(name, f"{error}; {HOW_TO_NAME}") from error


def walk(visible: "Visible") -> "Iterator[tuple[str, str]]":
    """Yield (name, path) of all files in any depth."""
    for name, entry in visible.items():
        if entry.is_dir():
            yield from ((file, f"{entry.path}{file.removeprefix(name)}") for file in below(name, entry.path))
        else:
            yield name, entry.path
