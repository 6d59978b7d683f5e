"""Random sequences of runs, kills, edits, new files and resolves, compared with a model of what must have happened.

Each statement of a file has an effect that can be counted: a row in `log`. The model knows the files and which of
their rows are there once nothing is pending; the invariants are looked at after every step.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from conftest import DOCUMENTED_CODES, Slipway
from servers import until

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Process
    from servers import Cluster, Database

pytestmark = pytest.mark.faults

KINDS = ["insert", "index", "vacuum", "commits", "index", "commits", "refused"]
EXAMPLES, STEPS = 15, 12
REFUSED = "SELECT 1 / 0"
COMMITS = "DO $$ BEGIN INSERT INTO log VALUES ({}); COMMIT; PERFORM pg_sleep(0.3); INSERT INTO log VALUES ({}); END $$"
LOOK_LOG = "SELECT what FROM log"
LOOK_HISTORY = "SELECT version FROM schema_migrations ORDER BY version"
LOOK_JOURNAL = "SELECT version, step, done_at IS NOT NULL AS done, statement FROM schema_migrations_steps"
LOOK_INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
MILLISECONDS = st.integers(0, 250)


@dataclass(slots=True)
class File:
    """A migration: its statements, and the rows that they leave."""

    version: int
    transactional: bool
    statements: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    uncertain: list[int] = field(default_factory=list)
    """Rows of a block that commits inside: it may have been done in part, and again, when it was interrupted."""

    @property
    def name(self) -> str:
        return f"{self.version:03}_a.sql"

    @property
    def text(self) -> str:
        head = "" if self.transactional else "-- no-transaction\n"
        return head + "".join(f"{statement};\n" for statement in self.statements)


@seed(3)
class Model(RuleBasedStateMachine):
    """One fresh database and one folder; every run is a process."""

    cluster: ClassVar[Cluster]
    folder: ClassVar[Path]
    seen: ClassVar[Counter[str]]
    """What the examples came across, for the report."""

    @initialize()
    def begin(self) -> None:
        name = f"model_{secrets.token_hex(4)}"
        self.database: Database = self.cluster.server.database(name)
        asyncio.run(self.cluster.database.execute(f"CREATE DATABASE {name} TEMPLATE template0"))
        self.home = self.folder / name
        self.migrations = self.home / "migrations"
        self.migrations.mkdir(parents=True)
        self.slipway = Slipway(self.home / "runs")
        self.numbers = itertools.count(1)
        self.files: list[File] = []
        self.add("CREATE TABLE log (what int); CREATE TABLE big AS SELECT n FROM generate_series(1, 5000) AS n")

    def teardown(self) -> None:
        self.slipway.close()
        asyncio.run(self.cluster.database.execute(f"DROP DATABASE {self.database.name} WITH (FORCE)"))

    # --- what happens -----------------------------------------------------------------------------------------------

    @rule()
    def add_transactional_file(self) -> None:
        file = self.add()
        self.insert_into(file)
        self.write(file)

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    def add_non_transactional_file(self, kinds: list[str]) -> None:
        file = self.add(transactional=False)
        for kind in kinds:
            self.append(file, kind)
        self.write(file)

    @precondition(lambda self: any(entry["done"] for entry in self.journal()))
    @rule()
    def edit_what_was_done(self) -> None:
        """Another statement in the place of one that is done is a person's call; put back, the file goes on."""
        version = next(entry["version"] for entry in self.journal() if entry["done"])
        file = self.file(version)
        (self.migrations / file.name).write_text(file.text.replace("\n", "\nSELECT 'edited';\n", 1))
        finished = self.run()
        assert finished.code == 25, finished
        self.seen["exit 25 for an edit"] += 1
        self.write(file)

    @precondition(lambda self: self.pending())
    @rule(how=st.sampled_from(["in flight", "once", "after", "two", "in flight"]), after=MILLISECONDS)
    def run_it(self, how: str, after: int) -> None:
        """To its end; two at once; or killed, as soon as a statement is in flight or some time after it connected."""
        processes = [self.start() for _ in range(1 + (how == "two"))]
        if how == "in flight":
            until(lambda: self.in_flight() or not processes[0].is_running(), "a statement to be in flight")
            self.kill(processes[0])
        elif how == "after":
            until(lambda: "connected" in processes[0].log or not processes[0].is_running(), "it to connect")
            asyncio.run(asyncio.sleep(after / 1000))
            self.kill(processes[0])
        else:
            for finished in [process.finish() for process in processes]:
                self.check_end(finished)

    def kill(self, process: Process) -> None:
        self.seen["killed" if process.is_running() else "too late to kill"] += 1
        process.kill()
        self.wait_until_alone()
        self.seen["left a statement in flight"] += len(self.in_flight())

    @precondition(lambda self: self.undecided())
    @rule(answer=st.sampled_from(["--done", "--retry"]))
    def resolve(self, answer: str) -> None:
        """Answer truthfully or not: what the block did stands as it is, or the block runs again."""
        (entry,) = self.undecided()
        finished = self.slipway("resolve", str(entry["version"]), answer, env=self.database.environ)
        assert finished.code == 0, finished
        assert not self.in_flight()
        self.seen[f"resolve {answer}"] += 1

    # --- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def each_effect_happened_at_most_once(self) -> None:
        rows = self.logged()
        certain = {row for file in self.files for row in file.rows}
        assert all(rows[row] <= 1 for row in certain), rows
        assert set(rows) <= certain | {row for file in self.files for row in file.uncertain}

    @invariant()
    def history_and_journal_exclude_each_other(self) -> None:
        history = self.history()
        assert history == [file.version for file in self.files][: len(history)]
        assert not {entry["version"] for entry in self.journal()} & set(history)
        assert len(self.in_flight()) <= 1
        rows = self.logged()
        for file in self.files:
            if file.version in history:
                assert all(rows[row] == 1 for row in file.rows), (file, rows)

    def check_end(self, finished: Finished) -> None:
        """Compare the code with the state: success means that everything is there and nothing is left over."""
        assert finished.code in DOCUMENTED_CODES - {70}, finished
        self.seen[f"exit {finished.code}"] += 1
        if finished.code == 0:
            assert self.history() == [file.version for file in self.files], finished
            assert self.journal() == []
            assert self.fetch(LOOK_INVALID) == []
        elif finished.code == 25:
            assert self.undecided(), finished
            assert "--retry" in finished.err
        else:
            assert finished.code == 24, finished
            assert "division by zero" in finished.err, finished
            self.correct_what_was_refused()

    # --- the files --------------------------------------------------------------------------------------------------

    def add(self, *statements: str, transactional: bool = True) -> File:
        file = File(len(self.files) + 1, transactional, list(statements))
        self.files.append(file)
        self.write(file)
        return file

    def correct_what_was_refused(self) -> None:
        for file in self.pending():
            file.statements = [statement for statement in file.statements if statement != REFUSED]
            self.write(file)

    def append(self, file: File, kind: str) -> None:
        match kind:
            case "insert":
                self.insert_into(file)
            case "index":
                number = next(self.numbers)
                file.statements.append(f"CREATE INDEX CONCURRENTLY big_{number} ON big (n)")
            case "vacuum":
                file.statements.append("VACUUM log")
            case "refused":
                file.statements.append(REFUSED)
            case "commits":
                file.uncertain += (rows := [next(self.numbers), next(self.numbers)])
                file.statements.append(COMMITS.format(*rows))

    def insert_into(self, file: File) -> None:
        file.rows.append(number := next(self.numbers))
        file.statements.append(f"INSERT INTO log VALUES ({number})")

    def write(self, file: File) -> None:
        (self.migrations / file.name).write_text(file.text)

    def file(self, version: int) -> File:
        return self.files[version - 1]

    def pending(self) -> list[File]:
        return self.files[len(self.history()) :]

    # --- the program and the database -------------------------------------------------------------------------------

    def start(self) -> Process:
        return self.slipway.start(env=self.database.environ, migrations=self.migrations)

    def run(self) -> Finished:
        return self.start().finish()

    def fetch(self, query: str) -> list[dict[str, Any]]:
        """The rows, none where a table is not there yet."""
        table = query.partition(" FROM ")[2].split()[0]
        if not asyncio.run(self.database.fetch("SELECT WHERE to_regclass($1) IS NOT NULL", table)):
            return []
        return [dict(row) for row in asyncio.run(self.database.fetch(query))]

    def logged(self) -> Counter[int]:
        return Counter(row["what"] for row in self.fetch(LOOK_LOG))

    def history(self) -> list[int]:
        return [row["version"] for row in self.fetch(LOOK_HISTORY)]

    def journal(self) -> list[dict[str, Any]]:
        return self.fetch(LOOK_JOURNAL)

    def in_flight(self) -> list[dict[str, Any]]:
        return [entry for entry in self.journal() if not entry["done"]]

    def undecided(self) -> list[dict[str, Any]]:
        """What is in flight and only a person can tell the end of."""
        return [entry for entry in self.in_flight() if "DO $$" in (entry["statement"] or "")]

    def wait_until_alone(self) -> None:
        """Block until the server has noticed that a killed client is gone."""
        others = "SELECT FROM pg_stat_activity WHERE application_name = 'pgslipway' AND datname = current_database()"
        until(lambda: not asyncio.run(self.database.fetch(others)), "the killed run's session to end")


def test_random_histories_agree_with_the_model(cluster: Cluster, tmp_path: Path) -> None:
    Model.cluster, Model.folder, Model.seen = cluster, tmp_path, Counter()
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"\n{EXAMPLES} examples of up to {STEPS} steps: {dict(sorted(Model.seen.items()))}")
