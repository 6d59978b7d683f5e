"""The folders of other tools: which layout a folder has, and which of its files are migrations, with which version.

Each is read in place, by its tool's rules. No heavy import: a start with nothing to do in such a folder loads this.
"""

from ..errors import LayoutsMeet
from .entries import File, below
from .versions import is_flyway

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .entries import Chosen, Entry, Visible

JOURNAL = "meta/_journal.json"


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
    folders = [name for name in sorted(visible) if name not in files and visible[name].is_dir()]
    for name in folders:
        if sign := next(signs_inside(name, visible[name].path), None):
            yield sign
            break  # reading them tells whether all are alike
    numbered = [name for name in sorted(files) if name[0].isdecimal()]
    if numbered and not has_journal:
        yield layout_of_numbered(content_of(files[numbered[0]]), is_tern="tern.conf" in visible), numbered[0]
    for name in sorted(files):
        if is_flyway(name):
            yield "flyway", name
            break


def signs_inside(name: str, path: str) -> "Iterator[tuple[str, str]]":
    """Yield (layout, name) for what tells a layout in a folder of the folder."""
    if File(f"{path}/migration.sql").is_file():
        yield "drizzle" if File(f"{path}/snapshot.json").is_file() else "prisma", f"{name}/migration.sql"
    if File(f"{path}/up.sql").is_file():
        yield "diesel", f"{name}/up.sql"
    yield from (("flyway", file) for file in below(name, path) if is_flyway(file))


def layout_of_numbered(source: bytes, *, is_tern: bool) -> str:
    """Return the layout that the markers in the first of the numbered files tell."""
    lines = [line.strip().lower() for line in source.splitlines() if line.lstrip().startswith(b"--")]
    if any(b"+goose" in line for line in lines):
        return "goose"
    if any(line[2:].lstrip().startswith((b"migrate:up", b"migrate:down")) for line in lines):
        return "dbmate"
    is_tern = is_tern or any(line.startswith((b"---- create above / drop below", b"---- tern:")) for line in lines)
    return "tern" if is_tern else "plain"


def files_of(layout: str, visible: "Visible") -> "Chosen":
    """Return the migrations in a folder of this layout. Raises BadMigrations for what its tool would run besides."""
    if layout == "flyway":
        from .flyway import flyway

        return flyway(visible)
    if layout in {"prisma", "diesel", "drizzle"}:
        from . import nested as kind
    else:
        from . import numbered as kind  # type: ignore[no-redef]
    chosen: Chosen = getattr(kind, layout)(visible)
    return chosen
