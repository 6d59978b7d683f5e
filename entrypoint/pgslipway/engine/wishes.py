"""The requests of a pending file, or of a file beside it, to the tool of its layout: no transaction, or what we refuse.

It is asked of pending files only: what is applied may have needed anything.
"""

import re
import tomllib
from collections.abc import Callable, Iterator
from mmap import ACCESS_READ, mmap

from ..files import BOM, Source
from ..migrations import Migration

FIRST = rb"^(?:" + re.escape(BOM) + rb")?"
"""The start of a line, or of the file's text."""
GOOSE_NO_TRANSACTION = re.compile(FIRST + rb"--[ \t]*\+goose\s+no\s+transaction\s*$", re.IGNORECASE | re.MULTILINE)
GOOSE_VARIABLES = re.compile(FIRST + rb"--[ \t]*\+goose\s+envsub\s+on\s*$", re.IGNORECASE | re.MULTILINE)
GOOSE_MISSPELT = re.compile(
    rb"^[ \t]*--(?![ \t]*\+goose)[ \t+]*go{1,3}s{0,2}e?[ \t:]+(up|down)\b", re.IGNORECASE | re.MULTILINE
)
DBMATE_NO_TRANSACTION = re.compile(
    FIRST + rb"--[ \t]*migrate:up[ \t](?:.*[ \t])?transaction:false(?=\s|\Z)", re.MULTILINE
)
TERN_NO_TRANSACTION = re.compile(FIRST + rb"---- tern: disable-tx ----\s*$", re.MULTILINE)
TERN_MISSPELT = re.compile(
    rb"^[ \t]*--(?!-- tern: disable-tx ----\s*$)[ \t-]*(\w+\s+above\s*/|above\s*/\s*drop\b|tern\s*:\s*disable)",
    re.IGNORECASE | re.MULTILINE,
)
FLYWAY_SETTING = re.compile(r"(executeInTransaction|placeholderReplacement)\s*[=:]\s*(true|false)", re.IGNORECASE)
FLYWAY_HARMLESS = re.compile(r"([#!].*|encoding\s*[=:]\s*UTF-?8)?", re.IGNORECASE)
GOOSE_MARKERS = "goose takes this for a comment, and goes on; its markers are `-- +goose Up` and `-- +goose Down`"
TERN_MARKERS = (
    "tern takes this for a comment, and goes on; its markers are `---- create above / drop below ----` and "
    "`---- tern: disable-tx ----`"
)
TEMPLATE = re.compile(rb"\{\{")

Refusal = tuple[int, str]
"""A byte of the file and the reason."""


def wishes(migration: Migration, source: Source) -> tuple[bool, list[Refusal]]:
    """Return whether the file asks for no transaction, and what it asks for that pgslipway does not do."""
    if not migration.is_sql:
        text = f"a migration in code, which pgslipway does not run; apply it with {tool_of(migration)}, or make it SQL"
        return False, [(0, text)]
    look = LOOKS.get(migration.layout)
    return look(migration, source) if look else (False, [])


def tool_of(migration: Migration) -> str:
    """Return the name of the tool that runs a migration in code."""
    return "refinery" if migration.filename.endswith(".rs") else migration.layout


def goose(migration: Migration, source: Source) -> tuple[bool, list[Refusal]]:
    """Look for goose's marks; the one against the transaction counts wherever it stands, in the down part, too."""
    refused = [
        *refusals(GOOSE_VARIABLES, source, "ENVSUB: goose would put variables in here; write their values"),
        *refusals(GOOSE_MISSPELT, source, GOOSE_MARKERS),
    ]
    return found_in_file(GOOSE_NO_TRANSACTION, migration.path), refused


def found_in_file(pattern: re.Pattern[bytes], path: str) -> bool:
    """Tell whether the whole of a file has the pattern; it need not be in memory, nor UTF-8."""
    try:
        with open(path, "rb") as file:
            return pattern.search(mmap(file.fileno(), 0, access=ACCESS_READ)) is not None
    except (OSError, ValueError):  # gone meanwhile, or empty: the next reading of it will tell
        return False


def dbmate(_: Migration, source: Source) -> tuple[bool, list[Refusal]]:
    """Look for the option behind dbmate's marker."""
    return DBMATE_NO_TRANSACTION.search(source) is not None, []


def tern(_: Migration, source: Source) -> tuple[bool, list[Refusal]]:
    """Look for tern's mark, and for templates."""
    refused = [
        *refusals(TEMPLATE, source, "a template of tern's, which pgslipway does not fill in; write what it becomes"),
        *refusals(TERN_MISSPELT, source, TERN_MARKERS),
    ]
    return TERN_NO_TRANSACTION.search(source) is not None, refused


def flyway(migration: Migration, _: Source) -> tuple[bool, list[Refusal]]:
    """Look for settings in the .conf file beside it."""
    settings, refused = flyway_settings(migration)
    return settings.get("executeintransaction") == "false", refused


def replaces_placeholders(migration: Migration) -> bool:
    """Tell whether Flyway would put values into a file."""
    return flyway_settings(migration)[0].get("placeholderreplacement") != "false"


def flyway_settings(migration: Migration) -> tuple[dict[str, str], list[Refusal]]:
    """Return the settings in the .conf file beside a file of Flyway's, in lower case, and what it asks for in vain."""
    refused: list[Refusal] = []
    settings: dict[str, str] = {}
    text = beside(f"{migration.path}.conf", refused).removeprefix(BOM).decode(errors="replace")
    for line in map(str.strip, text.splitlines()):
        if match := FLYWAY_SETTING.fullmatch(line):
            settings[match[1].lower()] = match[2].lower()
        elif not FLYWAY_HARMLESS.fullmatch(line):
            refused.append((0, f"{migration.filename}.conf asks for {line}, which has no effect here"))
    return settings, refused


def diesel(migration: Migration, _: Source) -> tuple[bool, list[Refusal]]:
    """Look into the metadata beside it."""
    refused: list[Refusal] = []
    text = beside(migration.path.rpartition("/")[0] + "/metadata.toml", refused)
    try:
        wanted = tomllib.loads(text.decode()).get("run_in_transaction", True)
    except (ValueError, RecursionError) as error:
        return False, [(0, f"metadata.toml beside it is not TOML: {error}")]
    if not isinstance(wanted, bool):
        refused.append((0, "metadata.toml beside it: run_in_transaction must be true or false"))
    return wanted is False, refused


LOOKS: dict[str, Callable[[Migration, Source], tuple[bool, list[Refusal]]]] = {
    "goose": goose, "dbmate": dbmate, "tern": tern, "flyway": flyway, "diesel": diesel,
}  # fmt: skip


def refusals(pattern: re.Pattern[bytes], source: Source, reason: str) -> Iterator[Refusal]:
    """Yield the first place of a pattern, with the reason to refuse it."""
    if match := pattern.search(source):
        yield match.start(), reason


def beside(path: str, refused: list[Refusal]) -> bytes:
    """Return the contents of a file that may be there; one that cannot be read is refused."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        refused.append((0, f"{path.rpartition('/')[2]} beside it cannot be read: {error.strerror}"))
        return b""
