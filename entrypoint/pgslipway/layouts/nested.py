"""The layouts with a folder for each migration, Prisma's and Diesel's, and Drizzle's with its journal."""

from ..errors import BadMigrations, Problem, bad_file
from .entries import File, below, folders, others
from .versions import PLACES, is_number, milliseconds
from .versions import diesel as diesel_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .entries import Chosen, Visible

JOURNAL = "meta/_journal.json"
INSIDE = {"prisma": "migration.sql", "diesel": "up.sql"}
"""The file in each folder of a layout."""


def prisma(visible: "Visible") -> "Chosen":
    """Return the migration.sql of each folder; of folders with the same digits each has a place of its own."""
    chosen = {f"{name}/migration.sql": File(f"{entry.path}/migration.sql") for name, entry in folders(visible)}
    versions: dict[str, int] = {}
    equal: dict[str, list[str]] = {}
    for name in sorted(chosen):
        equal.setdefault(name.partition("/")[0].partition("_")[0], []).append(name)
    for digits, names in equal.items():
        versions.update((name, int(digits) * 10 + place) for place, name in enumerate(names) if is_number(digits))

    def version_of(name: str) -> int:
        refuse_missing(name, chosen[name])
        if name not in versions:
            raise bad_file(name, "the folder's name must begin with its version, as in 20260131120000_orders")
        if versions[name] % 10 >= PLACES:
            raise bad_file(name, f"{PLACES} folders before this one begin with the same digits; give it other ones")
        return versions[name]

    return chosen, version_of, others(visible, {name.partition("/")[0] for name in chosen} | {"migration_lock.toml"})


def diesel(visible: "Visible") -> "Chosen":
    """Return the up.sql of each folder that is not empty."""
    chosen = {
        f"{name}/up.sql": file
        for name, entry in folders(visible)
        if (file := File(f"{entry.path}/up.sql")).mode or any(True for _ in below(name, entry.path))
    }

    def version_of(name: str) -> int:
        refuse_missing(name, chosen[name])
        try:
            return diesel_number(name.partition("/")[0].partition("_")[0])
        except ValueError as error:
            raise bad_file(name, f"{error}; name the folder as in 2026-01-31-120000_orders") from error

    return chosen, version_of, others(visible, {name.partition("/")[0] for name in chosen})


def refuse_missing(name: str, file: File) -> None:
    """Raise BadMigrations where a folder lacks its file, or has another layout's."""
    if file.mode:
        return
    folder, _, wanted = name.partition("/")
    path = file.path.removesuffix(wanted)
    strangers = [f"{other} ({layout})" for layout, other in INSIDE.items() if File(path + other).is_file()]
    found = f"; it has {strangers[0]}: two layouts meet in this folder" if strangers else "; remove it, or add the file"
    raise bad_file(folder, f"this folder has no {wanted}{found}")


def drizzle(visible: "Visible") -> "Chosen":
    """Return the files that the journal names, by the moment it gives; without one, each folder's."""
    if "meta" not in visible:
        chosen = {f"{name}/migration.sql": File(f"{entry.path}/migration.sql") for name, entry in folders(visible)}

        def moment_of(name: str) -> int:
            refuse_missing(name, chosen[name])
            try:
                return milliseconds(name.partition("/")[0].partition("_")[0])
            except ValueError as error:
                raise bad_file(name, f"{error}; name the folder as in 20260131120000_orders") from error

        return chosen, moment_of, others(visible, {name.partition("/")[0] for name in chosen})
    entries = journal(visible["meta"].path)
    listed = {f"{tag}.sql": File(f"{visible['meta'].path.removesuffix('meta')}{tag}.sql") for tag in entries}

    def version_of(name: str) -> int:
        if not listed[name].mode:
            raise bad_file(JOURNAL, f"names {name}, which is not there; put the file back, or take the entry out")
        return entries[name.removesuffix(".sql")]

    return listed, version_of, others(visible, {*listed, "meta"})


def journal(folder: str) -> dict[str, int]:
    """Return the moments in Drizzle's journal, by tag. Raises BadMigrations."""
    import json

    try:
        with open(f"{folder}/_journal.json", "rb") as file:
            entries = json.load(file)["entries"]
        found = [(str(entry["tag"]), int(entry["when"])) for entry in entries]
    except OSError as error:
        raise bad_file(JOURNAL, f"cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise bad_file(JOURNAL, f"not JSON: {error.msg}", error.lineno) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise bad_file(JOURNAL, "expected a list of entries, each with tag and when, as Drizzle writes it") from error
    problems: list[Problem] = []
    for place, (tag, when) in enumerate(found):
        if "/" in tag or tag in {"", ".", ".."} or not tag.isprintable() or when < 0:
            problems += bad_file(JOURNAL, f"entry {place}: {tag!r} is no name of a file in this folder").problems
        elif tag in dict(found[:place]):
            problems += bad_file(JOURNAL, f"entry {place}: {tag} is there twice").problems
    if problems:
        raise BadMigrations(*problems)
    return dict(found)
