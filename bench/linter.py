"""The linters: how each is run, how its answer is read, and which of its rules are about a table that is blocked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.linted import Text

    Said = Iterator[tuple[int, str]]
    """The byte of a text and the rule, of each finding."""

POSTGRES = "18"
"""The version that they are told."""
HELD = {"E4", "MP008", "while"}
"""The rules about a statement that runs while an earlier one of its file has a lock; the last is ours."""

SQUAWK = {
    "adding-field-with-default", "adding-foreign-key-constraint", "adding-not-nullable-field",
    "adding-serial-primary-key-field", "changing-column-type", "constraint-missing-not-valid",
    "disallowed-unique-constraint", "prefer-repack", "require-concurrent-index-creation", "require-concurrent-reindex",
}  # fmt: skip
PGSAFE = {
    "add-check-without-not-valid", "add-column-generated-stored", "add-column-identity", "add-column-serial",
    "add-column-volatile-default", "add-exclusion-constraint", "add-fk-without-not-valid", "add-index-non-concurrent",
    "add-primary-key-without-index", "add-unique-constraint", "alter-column-type", "attach-partition",
    "refresh-matview-non-concurrent", "reindex-non-concurrent", "set-access-method", "set-logged-unlogged",
    "set-not-null", "vacuum-full-cluster",
}  # fmt: skip
PGFENCE = {
    "add-column-non-constant-default", "add-column-serial", "add-column-stored-generated",
    "add-constraint-check-no-not-valid", "add-constraint-exclude", "add-constraint-fk-no-not-valid",
    "add-constraint-unique", "add-pk-without-using-index", "alter-column-set-not-null", "alter-column-type",
    "create-index-not-concurrent", "vacuum-full",
}  # fmt: skip
SAFEMIGRATE = {
    "access-method-change-rewrites", "column-type-change-rewrites-table", "concurrent-index-create-required",
    "concurrent-reindex-required", "constraint-not-valid-required", "identity-column-add-rewrites",
    "nullable-to-non-nullable-may-fail", "pk-constraint-exclusive-lock", "refresh-matview-blocks-reads",
    "stored-generated-column-rewrites", "table-logging-mode-rewrites", "unique-constraint-exclusive-lock",
    "volatile-default-rewrites-table",
}  # fmt: skip
EUGENE = {"E1", "E2", "E4", "E5", "E6", "E7", "E8", "E10", "E11"}
MIGRATIONPILOT = {
    f"MP{number:03}" for number in (1, 2, 3, 5, 6, 7, 8, 15, 18, 21, 27, 30, 31, 32, 33, 47, 62, 72, 89, 92, 94, 95)
}


@dataclass(frozen=True, slots=True)
class Linter:
    """A program, how it is run on the file `{file}`, how its answer is read, and its rules about locks."""

    name: str
    program: str
    argv: tuple[str, ...]
    said: Callable[[Any, Text], Said]
    rules: set[str]
    outside: tuple[str, ...] = ()
    """The arguments for a file without a transaction, where they differ."""


def squawk(answer: Any, text: Text) -> Said:
    """Read Squawk's, whose lines count from 0."""
    for each in answer:
        yield text.offset(each["line"] + 1, each["column"]), each["rule_name"]


def safemigrate(answer: Any, text: Text) -> Said:
    """Read SafeMigrate's."""
    for each in answer:
        yield text.offset(each["line"]), each["rule_id"]


def migrationpilot(answer: Any, text: Text) -> Said:
    """Read MigrationPilot's."""
    for each in answer["violations"]:
        yield text.offset(each["line"]), each["ruleId"]


def pgfence(answer: Any, text: Text) -> Said:
    """Read pgfence's, which repeats the statement, with the comments above it; low risks are those it calls safe."""
    for each in answer["results"][0]["checks"]:
        if each["risk"] != "LOW":
            yield text.source.index(each["statement"].encode()), each["ruleId"]


def pgsafe(answer: Any, _: Text) -> Said:
    """Read pgsafe's."""
    for each in answer["files"][0]["findings"]:
        yield each["location"]["byte"], each["rule_id"]


def eugene(answer: Any, text: Text) -> Said:
    """Read Eugene's, of its linter and of its trace."""
    for statement in answer["statements"]:
        for rule in statement["triggered_rules"]:
            yield text.offset(statement["line_number"]), rule["id"]


LINTERS = [
    Linter(
        "squawk", "squawk/bin/squawk",
        ("--reporter=json", f"--pg-version={POSTGRES}.0", "--assume-in-transaction", "{file}"), squawk, SQUAWK,
        ("--reporter=json", f"--pg-version={POSTGRES}.0", "{file}"),
    ),
    Linter("eugene lint", "eugene/bin/eugene", ("lint", "--format=json", "{file}"), eugene, EUGENE),
    Linter(
        "eugene trace", "eugene/bin/eugene",
        ("trace", "--format=json", "--disable-temporary", "--commit", "--host={host}", "--port={port}",
         "--user={user}", "--database={database}", "{file}"), eugene, EUGENE,
    ),
    Linter(
        "pgfence", "pgfence/bin/pgfence",
        ("analyze", "--output=json", "--format=sql", f"--min-pg-version={POSTGRES}", "{file}"), pgfence, PGFENCE,
    ),
    Linter(
        "migrationpilot", "migrationpilot/bin/migrationpilot",
        ("analyze", "--format=json", "--offline", "--no-config", f"--pg-version={POSTGRES}", "{file}"),
        migrationpilot, MIGRATIONPILOT,
    ),
    Linter(
        "pgsafe", "pgsafe/bin/pgsafe", ("--format=json", "--no-config", "--in-transaction", "{file}"), pgsafe, PGSAFE,
        ("--format=json", "--no-config", "{file}"),
    ),
    Linter("safemigrate", "safemigrate/bin/safemigrate-lint", ("--format=json", "{file}"), safemigrate, SAFEMIGRATE),
]  # fmt: skip
