"""The layouts with a folder for each migration, Prisma's and Diesel's, and Drizzle's with its journal."""

from ..errors import BadMigrations, Problem, bad_file
from .entries import JOURNAL, File, below, folders, others
from .versions import PLACES, is_number, milliseconds
from .versions import diesel as diesel_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from .entries import Chosen, Hoped, Visible

    Look: TypeAlias = Callable[[str], File | Hoped]
    """Looks at the file at a path, or hopes for the best."""

INSIDE = {"prisma": "migration.sql", "diesel": "up.sql"}
"""The file in each folder of a layout."""
LONGEST = 100
"""Characters of a value of the journal that are shown."""


def prisma(visible: "Visible", look: "Look") -> "Chosen":
    """Return the migration.sql of each folder; of folders with the same digits each has a place of its own."""
    found = folders(visible)
    chosen = {f"{name}/migration.sql": look(f"{entry.path}/migration.sql") for name, entry in found.items()}
    versions: dict[str, int] = {}
    places: dict[str, int] = {}
    for name in sorted(found):
        digits = name.partition("_")[0]
        places[digits] = place = places.get(digits, -1) + 1
        versions[f"{name}/migration.sql"] = int(digits) * 10 + place if place < PLACES and is_number(digits) else -1

    def version_of(name: str) -> int:
        if not chosen[name].mode:
            raise missing(name, chosen[name])
        if versions[name] >= 0:
            return versions[name]
        if not is_number(name.partition("/")[0].partition("_")[0]):
            raise bad_file(name, "the folder's name must begin with its version, as in 20260131120000_orders")
        raise bad_file(name, f"{PLACES} folders before this one begin with the same digits; give it other ones")

    return chosen, version_of, others(visible, {*found, "migration_lock.toml"})


def diesel(visible: "Visible", look: "Look") -> "Chosen":
    """Return the up.sql of each folder that is not empty."""
    chosen = {
        f"{name}/up.sql": file
        for name, entry in folders(visible).items()
        if (file := look(f"{entry.path}/up.sql")).mode or file.error or any(below(name, entry.path, set()))
    }

    def version_of(name: str) -> int:
        if not chosen[name].mode:
            raise missing(name, chosen[name])
        try:
            return diesel_number(name.partition("/")[0].partition("_")[0])
        except ValueError as error:
            raise bad_file(name, f"{error}; name the folder as in 2026-01-31-120000_orders") from error

    return chosen, version_of, others(visible, {name.partition("/")[0] for name in chosen})


def missing(name: str, file: "File | Hoped") -> BadMigrations:
    """Return the failure about a folder that lacks its file, or has another layout's."""
    if file.error:
        return bad_file(name, f"cannot be read: {file.error}")
    folder, _, wanted = name.partition("/")
    path = file.path.removesuffix(wanted)
    strangers = [f"{other} ({layout})" for layout, other in INSIDE.items() if File(path + other).is_file()]
    found = f"; it has {strangers[0]}: two layouts meet in this folder" if strangers else "; remove it, or add the file"
    return bad_file(folder, f"this folder has no {wanted}{found}")


def drizzle(visible: "Visible", look: "Look") -> "Chosen":
    """Return the files that the journal names, by the moment it gives; without one, each folder's."""
    if "meta" not in visible:
        return drizzle_folders(visible, look)
    folder = visible["meta"].path.removesuffix("meta")
    moments = {f"{tag}.sql": when for tag, when in journal(f"{folder}meta").items()}
    listed = {name: look(f"{folder}{name}") for name in moments}

    def version_of(name: str) -> int:
        if listed[name].error:
            raise bad_file(name, f"cannot be read: {listed[name].error}")
        if not listed[name].mode:
            raise bad_file(JOURNAL, f"names {name}, which is not there; put the file back, or take the entry out")
        return moments[name]

    return listed, version_of, others(visible, {*listed, "meta"})


def drizzle_folders(visible: "Visible", look: "Look") -> "Chosen":
    """Return the migration.sql of each folder, by the moment that it is named for."""
    found = folders(visible)
    chosen = {f"{name}/migration.sql": look(f"{entry.path}/migration.sql") for name, entry in found.items()}

    def version_of(name: str) -> int:
        if not chosen[name].mode:
            raise missing(name, chosen[name])
        try:
            return milliseconds(name.partition("/")[0].partition("_")[0])
        except ValueError as error:
            raise bad_file(name, f"{error}; name the folder as in 20260131120000_orders") from error

    return chosen, version_of, others(visible, found)


def journal(folder: str) -> dict[str, int]:
    """Return the moments in Drizzle's journal, by tag. Raises BadMigrations."""
    moments: dict[str, int] = {}
    problems: list[Problem] = []
    for place, (tag, when) in enumerate(entries_of(File(f"{folder}/_journal.json"))):
        if wrong := wrong_entry(tag, when) or (f"{tag} is there twice" if tag in moments else ""):
            problems += bad_file(JOURNAL, f"entry {place}: {wrong}").problems
        else:
            moments[tag] = when
    if problems:
        raise BadMigrations(*problems)
    return moments


def entries_of(file: File) -> "list[tuple[Any, Any]]":
    """Return the tag and the moment of each entry of Drizzle's journal. Raises BadMigrations."""
    import json

    if file.mode and not file.is_file():
        raise bad_file(JOURNAL, "not a file; it must be a regular file or a link to one")
    try:
        with open(file.path, "rb") as source:
            entries = json.load(source)["entries"]
        return [(entries[place]["tag"], entries[place]["when"]) for place in range(len(entries))]
    except OSError as error:
        raise bad_file(JOURNAL, f"cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise bad_file(JOURNAL, f"not JSON: {error.msg}", error.lineno) from error
    except UnicodeDecodeError as error:
        raise bad_file(JOURNAL, "not UTF-8; save the file as UTF-8") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise bad_file(JOURNAL, "expected a list of entries, each with tag and when, as Drizzle writes it") from error


def wrong_entry(tag: object, when: object) -> str:
    """Say what is wrong with an entry of the journal; empty if nothing is."""
    if not isinstance(tag, str) or "/" in tag or tag in {"", ".", ".."} or not tag.isprintable():
        return f"{repr(tag)[:LONGEST]} is no name of a file in this folder"
    if type(when) is not int or when < 0:
        return f"when is {repr(when)[:LONGEST]}; it must be the whole milliseconds from 1970 on"
    return ""
