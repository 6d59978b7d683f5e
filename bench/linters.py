"""Linters of migrations beside `pgslipway rehearse --locks`: who says which statement blocks a table that is in use.

For development only, by hand, where folders of other tools are as tests/real_folders.py has them:

    $ bench/install.sh squawk eugene pgfence pgsafe safemigrate
    $ PYTHONPATH=.:tests .venv/bin/python -m bench.linters ../shared/real [--write FILE]

A linter that is not in bench/.peers is left out. MigrationPilot is in no registry: somebody has to build it from its
source, and put it into bench/.peers/migrationpilot/bin. The server, for us and for Eugene's `trace`, is one of
tests/setup/postgres-versions.sh, which has the extensions that some of the folders create.

Each linter gets the up part of each file, alone. Of its rules those count that say of a statement: it keeps writers or
readers off a table while all of it is read or rewritten. What is said of statements that run while an earlier one of
the file has such a lock is counted apart (`HELD`), all else is another subject. Findings are compared by their
statement. `--write` writes them all, for a look by hand at the places where the linters differ.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from bench.linted import ROOT, Text, folders, text_of
from bench.linter import HELD, LINTERS, POSTGRES, Linter
from bench.peer import INSTALLED
from pgslipway.migrations import discover
from servers import Embedded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from servers import Server

OURS = "pgslipway"


@dataclass(slots=True)
class Results:
    """What was found, by place and linter, and what could not be linted."""

    found: dict[str, dict[tuple[str, str, int], set[str]]] = field(default_factory=dict)
    """The rules, by linter and folder, filename and number of the statement."""
    beside: dict[str, int] = field(default_factory=dict)
    """How often each linter said something on another subject."""
    failed: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    """Folder, filename and reason, by linter."""

    def unread(self, name: str) -> set[tuple[str, str]]:
        """Return the files that a linter could not read."""
        return {(folder, filename) for folder, filename, _ in self.failed.get(name, [])}

    def places(self, name: str, files: set[tuple[str, str]]) -> set[tuple[str, str, int]]:
        """Return the statements in these files that a linter finds to block."""
        return {place for place, rules in self.found.get(name, {}).items() if rules - HELD and place[:2] in files}


def lint(linter: Linter, texts: Iterable[Text], values: dict[str, str], results: Results) -> Iterator[Text]:
    """Run a linter on each text, add its findings to the results, and yield those that it cannot read."""
    found = results.found.setdefault(linter.name, {})
    failed = results.failed.setdefault(linter.name, [])
    for text in texts:
        try:
            said = [*linter.said(answer(linter, text, values), text)]
        except (ValueError, LookupError) as error:
            failed.append((text.folder, text.filename, f"{error}"))
            yield text
            continue
        for offset, rule in said:
            if rule in linter.rules:
                found.setdefault((text.folder, text.filename, text.statement_at(offset)), set()).add(rule)
            else:
                results.beside[linter.name] = results.beside.get(linter.name, 0) + 1


def answer(linter: Linter, text: Text, values: dict[str, str]) -> Any:
    """Return a linter's answer about a text, from its JSON. Raises ValueError with its complaint if it has none."""
    argv = linter.argv if text.in_transaction or not linter.outside else linter.outside
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "1_migration.sql"
        file.write_bytes(text.source)
        ended = subprocess.run(
            [INSTALLED / linter.program, *(word.format(file=file, **values) for word in argv)],
            env=os.environ | {"PGPASS": values.get("password", "")},
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
    try:
        return json.JSONDecoder().raw_decode(ended.stdout.lstrip())[0]
    except ValueError:
        raise ValueError((ended.stderr or ended.stdout).strip()) from None


async def trace(linter: Linter, texts: Iterable[Text], server: Server, results: Results) -> None:
    """Have a linter run the texts in a database; those that it fails with are applied for it, as far as they can be."""
    async with server.fresh_database() as database:
        values = {"host": database.host, "port": f"{database.port}", "user": database.user, "database": database.name}
        for text in lint(linter, texts, {**values, "password": database.password}, results):
            for start, end in text.statements:
                with suppress(asyncpg.PostgresError):
                    await database.execute(text.source[start:end].decode())


def ours(folder: str, path: Path, texts: list[Text], server: Server, results: Results) -> None:
    """Run `rehearse --locks` on a folder, and add its findings to the results."""
    found = results.found.setdefault(OURS, {})
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "pgslipway",
        "rehearse",
        "--locks",
        "--json",
        f"--on={server.database().url}",
        path,
    ]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ended.returncode:
        reason = ended.stderr.strip()
        results.failed.setdefault(OURS, []).extend((folder, text.filename, reason) for text in texts)
        return
    by_name = {text.filename: text for text in texts}
    for each in json.loads(ended.stdout):
        if each["verdict"] == "blocking" and (text := by_name.get(each["file"])):
            for line, rule in ((each["line"], "blocking"), *((line, "while") for line in each["while_lines"])):
                place = folder, text.filename, text.statement_at(text.offset(line))
                found.setdefault(place, set()).add(rule)


# --- the report -----------------------------------------------------------------------------------------------


def table(results: Results, files: set[tuple[str, str]]) -> str:
    """Return the table of linters: their findings beside ours, in those of the files that both could read."""
    lines = [
        "| linter | unread files | findings | also ours | only theirs | only ours | besides |",
        f"|---{'|---:' * 6}|",
    ]
    for name in results.found:
        unread = results.unread(name)
        mine, theirs = (results.places(one, files - unread - results.unread(OURS)) for one in (OURS, name))
        numbers = len(unread), len(theirs), len(theirs & mine), len(theirs - mine), len(mine - theirs)
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} | {results.beside.get(name, 0)} |")
    return "\n".join(lines)


def plain(results: Results, texts: Iterable[Text]) -> list[dict[str, Any]]:
    """Return every statement that anybody found something in, with who did."""
    told = []
    for text in texts:
        for number, (start, end) in enumerate(text.statements):
            place = text.folder, text.filename, number
            said = {name: sorted(found[place]) for name, found in results.found.items() if place in found}
            if said:
                sql = text.source[start:end].decode()
                where = {"folder": text.folder, "file": text.filename, "line": text.line(start), "number": number}
                told.append({**where, "statement": sql, "said": said})
    return told


def main() -> None:
    """Read the command line, run all, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.linters", description=__doc__)
    parser.add_argument("real", type=Path, help="the folder of real migrations")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write all findings, as JSON")
    given = parser.parse_args()
    results = Results()
    everything: list[Text] = []
    binaries = Embedded(ROOT / ".venv" / "postgres" / POSTGRES)
    try:
        server = binaries.cluster().start().server
        with folders(given.real) as found:
            for name, path in found.items():
                texts = [text_of(name, migration) for migration in discover(path)]
                everything += texts
                ours(name, path, texts, server, results)
                for linter in (each for each in LINTERS if (INSTALLED / each.program).exists()):
                    if "{port}" in " ".join(linter.argv):
                        asyncio.run(trace(linter, texts, server, results))
                    else:
                        deque(lint(linter, texts, {}, results), maxlen=0)
    finally:
        binaries.close()
    print(f"{len(everything)} files, {sum(len(text.statements) for text in everything)} statements\n")
    print(table(results, {(text.folder, text.filename) for text in everything}))
    if given.write:
        given.write.write_text(json.dumps({"found": plain(results, everything), "failed": results.failed}, indent=1))


if __name__ == "__main__":
    main()
