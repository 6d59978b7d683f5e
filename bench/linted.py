"""What linters are compared on: the up parts of real folders of migrations, and of those in this repository."""

from __future__ import annotations

import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pages import PAGES, blocks
from pgslipway import files
from pgslipway.engine.sql import statements
from pgslipway.engine.wishes import wishes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgslipway.migrations import Migration

ROOT = Path(__file__).parent.parent
NO_TRANSACTION = re.compile(rb"^-- no-transaction\s*$", re.MULTILINE)
NAMED = re.compile(r"-- (\w+\.sql)\n")
MOVING = (
    "goose/e2b-infra", "atlas/ncps", "flyway/kestra", "prisma/hoppscotch", "sqlx/docs.rs", "drizzle/zero",
    "tern/discord-signup-bot",
)  # fmt: skip
"""The real folders in tools' own layouts. That of tern/tpr is left out: its files are templates, and no SQL."""


@dataclass(frozen=True)
class Text:
    """The up part of a migration, on the lines where it is in the file."""

    folder: str
    filename: str
    source: bytes
    in_transaction: bool

    @cached_property
    def statements(self) -> list[tuple[int, int]]:
        """The first byte of each statement and the one after it."""
        return [(each.start, each.end) for each in statements(self.source)]

    def statement_at(self, offset: int) -> int:
        """Return the number of the statement at a byte, or of the next one."""
        ends = [end for _, end in self.statements]
        return next((number for number, end in enumerate(ends) if offset <= end), len(ends) - 1)

    def line(self, offset: int) -> int:
        """Return the number of the line that a byte is in, counted from 1."""
        return self.source.count(b"\n", 0, offset) + 1

    def offset(self, line: int, column: int = 0) -> int:
        """Return the byte at a line, counted from 1, and a column; without one, where its text begins."""
        above = self.source.splitlines(keepends=True)[:line]
        here = above.pop() if len(above) == line else b""
        return sum(map(len, above)) + (column or len(here) - len(here.lstrip()))


def text_of(folder: str, migration: Migration) -> Text:
    """Return the up part of a migration; blank lines stand for what is above it."""
    part = files.part_of(migration.layout)
    source = bytes(migration.read())
    start = part(Path(migration.path).read_bytes())[0] if part else 0
    outside, _ = wishes(migration, source)
    above = re.sub(rb"[^\n]", b"", source[:start])
    in_transaction = not (outside or NO_TRANSACTION.search(source))
    return Text(folder, migration.filename, above + source[start:].replace(b"\r\n", b"\n"), in_transaction)


@contextmanager
def pages() -> Iterator[dict[str, Path]]:
    """Give folders of the migrations in README.md and docs/, without those that are shown to be refused."""
    with tempfile.TemporaryDirectory() as home:
        folders: dict[str, Path] = {}
        for page in PAGES:
            for block in blocks(page):
                name = NAMED.match(block.text)
                if block.language == "sql" and name and not (block.note.startswith("refused") or "${" in block.text):
                    folders[page] = Path(home) / page
                    folders[page].mkdir(parents=True, exist_ok=True)
                    (folders[page] / name[1]).write_text(block.text)
        yield folders


@contextmanager
def folders(real: Path) -> Iterator[dict[str, Path]]:
    """Give the folders of migrations by name, the real ones first."""
    with tempfile.TemporaryDirectory() as home, pages() as documented:
        concourse = Path(home) / "concourse"
        concourse.mkdir()
        for path in (real / "concourse").glob("*.up.sql"):
            name = path.name.replace("1626194317_add_pipeline_pauses", "1626194318_add_pipeline_pauses")
            (concourse / name).write_bytes(path.read_bytes())
        yield {
            "concourse": concourse,
            **{name: real / "moving" / name for name in MOVING},
            **documented,
            "migrations": ROOT / "migrations",
            "examples/webshop": ROOT / "examples/webshop",
        }
