"""What the tool of another layout is told by a pending file, or by a file beside it: no transaction, or what we refuse.

It is asked of pending files only: what is applied may have needed anything.
"""

import re
import tomllib
from collections.abc import Callable, Iterator

from .. import files
from ..files import Source
from ..migrations import Migration

GOOSE_NO_TRANSACTION = re.compile(rb"^--\s*\+goose\s+no\s+transaction\s*$", re.IGNORECASE | re.MULTILINE)
GOOSE_VARIABLES = re.compile(rb"^--\s*\+goose\s+envsub\s+on\s*$", re.IGNORECASE | re.MULTILINE)
DBMATE_NO_TRANSACTION = re.compile(rb"^--\s*migrate:up\b.*\btransaction:false\b", re.MULTILINE)
TERN_NO_TRANSACTION = re.compile(rb"^---- tern: disable-tx ----\s*$", re.MULTILINE)
FLYWAY_NO_TRANSACTION = re.compile(rb"^\s*executeInTransaction\s*=\s*false\s*$", re.IGNORECASE | re.MULTILINE)
FLYWAY_HARMLESS = re.compile(rb"^\s*(#.*|executeInTransaction\s*=.*|encoding\s*=\s*UTF-?8\s*)?$", re.IGNORECASE)
TEMPLATE, VARIABLE = re.compile(rb"\{\{"), re.compile(rb"\$\{")

Refusal = tuple[int, str]
"""A byte of the file and the reason."""


def wishes(migration: Migration, source: Source) -> tuple[bool, list[Refusal]]:
    """Return whether the file asks for no transaction, and what it asks for that pgslipway does not do."""
    if not migration.is_sql:
        return False, [(0, "a migration in Go, which pgslipway does not run; apply it with goose, or write it as SQL")]
    look = LOOKS.get(migration.layout)
    return look(migration, source) if look else (False, [])


def goose(migration: Migration, source: Source) -> tuple[bool, list[Refusal]]:
    """Look for goose's marks; the one against the transaction counts wherever it stands."""
    whole, _ = files.read(migration.path)
    refused = refusals(GOOSE_VARIABLES, source, "ENVSUB: goose would put variables in here; write their values")
    return GOOSE_NO_TRANSACTION.search(whole) is not None, [*refused]


def dbmate(_: Migration, source: Source) -> tuple[bool, list[Refusal]]:
    """Look for the option behind dbmate's marker."""
    return DBMATE_NO_TRANSACTION.search(source) is not None, []


def tern(_: Migration, source: Source) -> tuple[bool, list[Refusal]]:
    """Look for tern's mark, and for templates."""
    refused = refusals(
        TEMPLATE, source, "a template of tern's, which pgslipway does not fill in; write what it becomes"
    )
    return TERN_NO_TRANSACTION.search(source) is not None, [*refused]


def flyway(migration: Migration, source: Source) -> tuple[bool, list[Refusal]]:
    """Look for placeholders, and for settings in the .conf file beside it."""
    refused = refusals(
        VARIABLE, source, "a placeholder of Flyway's, which pgslipway does not fill in yet; write its value"
    )
    settings = beside(f"{migration.path}.conf")
    unknown = [line for line in settings.splitlines() if not FLYWAY_HARMLESS.match(line)]
    if unknown:
        wish = unknown[0].decode(errors="replace").strip()
        text = f"{migration.filename}.conf asks for {wish}, which has no effect here"
        return False, [*refused, (0, text)]
    return FLYWAY_NO_TRANSACTION.search(settings) is not None, [*refused]


def diesel(migration: Migration, _: Source) -> tuple[bool, list[Refusal]]:
    """Look into the metadata beside it."""
    try:
        settings = tomllib.loads(beside(migration.path.removesuffix("up.sql") + "metadata.toml").decode())
    except ValueError as error:
        return False, [(0, f"metadata.toml beside it is not TOML: {error}")]
    return settings.get("run_in_transaction") is False, []


LOOKS: dict[str, Callable[[Migration, Source], tuple[bool, list[Refusal]]]] = {
    "goose": goose, "dbmate": dbmate, "tern": tern, "flyway": flyway, "diesel": diesel,
}  # fmt: skip


def refusals(pattern: re.Pattern[bytes], source: Source, reason: str) -> Iterator[Refusal]:
    """Yield the first place of a pattern, with the reason to refuse it."""
    if match := pattern.search(source):
        yield match.start(), reason


def beside(path: str) -> bytes:
    """Return the contents of a file that may be there."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
