"""The folders of other tools: which layout a folder has, and which of its files are migrations, with which version.

Each is read in place, by its tool's rules. No heavy import: a start with nothing to do in such a folder loads this.
"""

from ..errors import BadMigrations, LayoutsMeet
from .entries import JOURNAL, File, Hoped, below, is_folder
from .versions import is_flyway

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .entries import Chosen, Entry, Visible


def recognise(visible: "Visible", files: "Visible", content_of: "Callable[[Entry], bytes]") -> tuple[str, str]:
    """Return the layout of a folder and the name that told it. Raises LayoutsMeet.

    `files` are the .sql files among the entries.
    """
    found: dict[str, str] = {}
    for layout, name in signs(visible, files, content_of):
        found.setdefault(layout, name)
    if len(found) > 1:
        examples = " and ".join(f"{name} ({layout})" for layout, name in found.items())
        raise LayoutsMeet(
            f"two layouts meet in this folder: {examples}; keep the files of one of them, or say which one it is with "
            "MIGRATE_LAYOUT, and the others are not read",
            found,
        )
    return next(iter(found.items()), ("plain", ""))


def signs(visible: "Visible", files: "Visible", content_of: "Callable[[Entry], bytes]") -> "Iterator[tuple[str, str]]":
    """Yield (layout, name) for what tells a layout; of many alike the first."""
    has_journal = "meta" in visible and File(f"{visible['meta'].path}/_journal.json").is_file()
    if has_journal:
        yield "drizzle", JOURNAL
    for name in sorted(visible.keys() - files.keys()):
        if is_folder(visible[name]) and (found := signs_inside(name, visible[name].path)):
            yield from found
            break  # reading them tells whether all are alike
    numbered = min((name for name in files if name[0].isdecimal()), default="")
    if numbered and not has_journal:
        layout = layout_of_numbered(content_of(files[numbered]))
        yield ("tern", "tern.conf") if layout == "plain" and "tern.conf" in visible else (layout, numbered)
    for name in sorted(name for name in files if name[0] in "VU"):
        if is_flyway(name):
            yield "flyway", name
            break


def signs_inside(name: str, path: str) -> list[tuple[str, str]]:
    """Return (layout, name) for each layout that a folder of the folder tells."""
    found = []
    if File(f"{path}/migration.sql").is_file():
        found.append(("drizzle" if File(f"{path}/snapshot.json").is_file() else "prisma", f"{name}/migration.sql"))
    if File(f"{path}/up.sql").is_file():
        found.append(("diesel", f"{name}/up.sql"))
    if not found:
        try:
            found += [("flyway", file) for file, _ in below(name, path, set()) if is_flyway(file)][:1]
        except BadMigrations:
            return []  # it cannot be read, and need not be unless the layout is Flyway's
    return found


def layout_of_numbered(source: bytes) -> str:
    """Return the layout that the markers in the first of the numbered files tell."""
    lines = [line.strip().lower() for line in source.splitlines() if line.lstrip().startswith(b"--")]
    if any(b"+goose" in line for line in lines):
        return "goose"
    if any(line[2:].lstrip().startswith((b"migrate:up", b"migrate:down")) for line in lines):
        return "dbmate"
    is_tern = any(line.startswith((b"---- create above / drop below", b"---- tern:")) for line in lines)
    return "tern" if is_tern else "plain"


def files_of(layout: str, visible: "Visible", *, is_hopeful: bool = False) -> "Chosen":
    """Return the migrations in a folder of this layout. Raises BadMigrations for what its tool would run besides.

    Hopefully it looks for no file in a folder of the folder; then one that cannot be opened may not be a migration.
    """
    if layout == "flyway":
        from .flyway import flyway

        return flyway(visible)
    if layout in {"prisma", "diesel", "drizzle"}:
        from . import nested

        in_folders: Chosen = getattr(nested, layout)(visible, Hoped if is_hopeful else File)
        return in_folders
    from . import numbered

    chosen: Chosen = getattr(numbered, layout)(visible)
    return chosen
