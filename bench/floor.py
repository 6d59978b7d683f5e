"""The two ways of psql that are the floor for all tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.native import DEBIAN, REAL_PSQL, stems, write_plain
from bench.peer import Invocation, Migration, Peer, Target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PSQL = ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
FLOOR = "The floor: no history, no checks, no lock; it applies every file each time, so it has no run without work."


def _psql_per_file(folder: Path, target: Target) -> Invocation:
    return Invocation(["psql-per-file", str(folder)], target.environ)


def _write_session(folder: Path, migrations: Sequence[Migration]) -> None:
    """Write the files, and in a folder of its own the script that includes each in a transaction."""
    write_plain(folder, migrations)
    steps = [f"BEGIN;\n\\ir ../{stem}.sql\nCOMMIT;\n" for stem in stems(migrations)]
    (folder / "session").mkdir()
    (folder / "session/all.sql").write_text("".join(steps))


def _psql_one_session(folder: Path, target: Target) -> Invocation:
    return Invocation([*PSQL, f"--file={folder}/session/all.sql"], target.environ)


PSQL_PER_FILE = Peer(
    name="psql-per-file",
    version=Invocation(["psql", "--version"]),
    lock="none",
    transaction="file",
    history=frozenset(),
    write=write_plain,
    up=_psql_per_file,
    dockerfile=DEBIAN.format(packages="postgresql-client")
    + REAL_PSQL
    + "COPY bin/psql-per-file /usr/local/bin/psql-per-file\n",
    note=f"{FLOOR} A process and a connection for each file.",
)
PSQL_ONE_SESSION = Peer(
    name="psql-one-session",
    version=Invocation(["psql", "--version"]),
    lock="none",
    transaction="file",
    history=frozenset(),
    write=_write_session,
    up=_psql_one_session,
    dockerfile=DEBIAN.format(packages="postgresql-client") + REAL_PSQL,
    note=f"{FLOOR} One process and one connection for all files.",
)

PEERS = [PSQL_ONE_SESSION, PSQL_PER_FILE]
