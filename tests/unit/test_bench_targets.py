"""The benchmark of many tenants: the ways to run a tool over them, what is checked afterwards, what is reported."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bench import sitting, target_tables, tenants
from bench.measure import Bench, Samples
from bench.ours import ROOT
from bench.peer import Invocation, Target
from bench.report import targets
from bench.results import APPLY, NOTHING, Results
from bench.run import Ran
from bench.server import BenchServer
from bench.target_goals import target_goals
from bench.target_ways import OURS, WAYS, Job, loop, xargs
from bench.targets import Cell, clone_histories, note
from bench.tenants import DATABASE, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.target_ways import Way
    from bench.tenants import Tenants
    from servers import Cluster

HISTORY = "{}.history"
SQLX, SQLX_XARGS, TERN, DBMATE = WAYS[2], WAYS[3], WAYS[4], WAYS[6]

# --- the ways ---------------------------------------------------------------------------------------------------


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names"
    path.write_text("a\nb\nc\n")
    return path


def said(words: list[str], limit: float = 10) -> tuple[int, list[str]]:
    """Run a command line; its exit code and its lines."""
    ended = subprocess.run(words, capture_output=True, text=True, timeout=limit, check=False)
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.parametrize("many", [loop, xargs])
def test_a_tool_is_started_for_each_tenant_with_its_words_as_they_are(many: Any, names: Path) -> None:
    code, lines = said(many(["printf", "%s\n", "-u={}&x='$y'-{}"], names))

    assert (code, sorted(lines)) == (0, [f"-u={name}&x='$y'-{name}" for name in "abc"])


def test_loop_ends_at_the_first_failure(names: Path) -> None:
    assert said(loop(["sh", "-c", "echo {}; test {} != b"], names)) == (1, ["a", "b"])


def test_xargs_runs_four_at_once(tmp_path: Path) -> None:
    """Each of them waits until all four are there."""
    names = tmp_path / "names"
    names.write_text("1\n2\n3\n4\n")
    meet = f"touch {tmp_path}/at-{{}}; until [ -e {tmp_path}/at-4 ]; do sleep 0.01; done"

    assert said(xargs(["sh", "-c", meet], names)) == (0, [])


def invoked(way: Way, kind: str, folder: Path) -> Invocation:
    """How a way is started on the tenants that a file of this folder names."""
    target = Target(port=1, password="x", database="shop")
    return way.run(Job(folder=folder, kind=kind, names=folder / "names", target=target))


def told(way: Way, kind: str, folder: Path) -> str:
    """All that a peer's way is told, by its words, by a shell's or by its project file."""
    words = invoked(way, kind, folder).argv
    return " ".join([*words, *(path.read_text() for path in folder.glob("*.hcl"))])


PEERS_WAYS = [way for way in WAYS if way not in OURS and not way.needs]


@pytest.mark.parametrize("way", PEERS_WAYS, ids=lambda way: way.name)
def test_a_peer_is_told_the_schema_of_one_database_or_another_database(way: Way, tmp_path: Path) -> None:
    one = "${each.value}" if "atlas" in way.name else "{}" if "xargs" in way.name else '"$t"'

    of_schema, of_database = (told(way, kind, tmp_path).replace("'", "") for kind in (SCHEMA, DATABASE))

    assert "/names" in of_schema
    assert f"@127.0.0.1:1/shop?sslmode=disable&{'options=-c%20' if 'sqlx' in way.name else ''}search_path" in of_schema
    assert re.search(f"search_path(=|%3D){re.escape(one)}", of_schema)
    assert f"@127.0.0.1:1/{one}?sslmode=disable" in of_database


@pytest.mark.parametrize("kind", [SCHEMA, DATABASE])
def test_ours_is_told_the_kind_and_the_list_as_its_root_has_it(kind: str) -> None:
    usual, eight = (invoked(way, kind, ROOT / "tmp").environ for way in OURS)

    assert {name: value for name, value in usual.items() if name.startswith("MIGRATE_")} == {
        "MIGRATE_DIR": "/tmp",
        "MIGRATE_TARGETS_FILE": "/tmp/names",
        "MIGRATE_TARGET_KIND": kind,
    }
    assert usual["PGDATABASE"] == "shop"
    assert eight == {**usual, "MIGRATE_PARALLEL": "8"}


def test_tern_is_told_to_have_a_history_for_each_tenant(tmp_path: Path) -> None:
    assert '--version-table "$t".schema_version' in told(TERN, SCHEMA, tmp_path).replace("''", "")
    assert "--version-table public.schema_version" in told(TERN, DATABASE, tmp_path)


# --- tenants ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bench_server(cluster: Cluster) -> BenchServer:
    return BenchServer(cluster, cluster.database, None)


@pytest.fixture(params=[SCHEMA, DATABASE])
def made(request: pytest.FixtureRequest, bench_server: BenchServer) -> Iterator[Tenants]:
    """Three tenants that have had their ten files."""
    made = tenants.make(bench_server, request.param, 3)
    for name in made.names:
        apply(made, name)
    yield made
    made.drop()


def apply(made: Tenants, name: str) -> None:
    """Do to one tenant what a tool does."""
    statements = [migration.sql for migration in tenants.migrations()]
    execute(made, name, "CREATE TABLE history AS SELECT * FROM generate_series(1, 10) AS version")
    execute(made, name, " ".join(statements))


def execute(made: Tenants, name: str, sql: str) -> None:
    """Run SQL in one tenant."""
    schema, database = (name, made.database) if made.kind == SCHEMA else ("public", name)
    made.server.execute(f"SET search_path = {schema}; {sql}", database)


def test_tenants_with_ten_tables_and_a_history_are_right(made: Tenants) -> None:
    assert made.wrong(HISTORY) == ""


@pytest.mark.parametrize(
    ("sql", "wrong"),
    [
        ("DROP TABLE events", "of 3 tenants: 1 not right"),
        ("DELETE FROM history WHERE version = 10", "of 3 tenants: 1 not right"),
        ("DELETE FROM history", "of 3 tenants: 1 not right"),
        ("DROP TABLE history", "a history is missing: relation "),
    ],
    ids=["table", "last", "none", "history"],
)
def test_what_one_tenant_lacks_is_seen(made: Tenants, sql: str, wrong: str) -> None:
    execute(made, made.names[1], sql)

    assert made.wrong(HISTORY).startswith(wrong)


def test_history_that_all_schemas_share_is_wrong(bench_server: BenchServer) -> None:
    made = tenants.make(bench_server, SCHEMA, 2)
    apply(made, made.names[0])
    execute(made, made.names[1], " ".join(tenants.FILES))

    assert made.wrong(HISTORY) == 'a history is missing: relation "tenant_00002.history" does not exist'


@pytest.mark.parametrize("kind", [SCHEMA, DATABASE])
def test_dropped_tenants_leave_nothing(kind: str, bench_server: BenchServer) -> None:
    names = "SELECT datname FROM pg_database ORDER BY 1"
    before = bench_server.fetch(names)

    made = tenants.make(bench_server, kind, 3)
    assert bench_server.fetch(names) != before
    made.drop()

    assert bench_server.fetch(names) == before


def test_every_schema_gets_the_history_of_the_first(bench_server: BenchServer) -> None:
    made = tenants.make(bench_server, SCHEMA, 3)
    made.server.execute(
        "CREATE TABLE tenant_00001.schema_migrations (version int PRIMARY KEY);"
        "INSERT INTO tenant_00001.schema_migrations VALUES (1), (2)",
        made.database,
    )

    clone_histories(made)

    for name in made.names:
        rows = made.server.fetch(f"SELECT version FROM {name}.schema_migrations ORDER BY 1", made.database)
        assert [row["version"] for row in rows] == [1, 2]
    assert len(made.server.fetch("SELECT 1 FROM pg_index WHERE indisprimary AND indrelid > 16384", made.database)) == 3


# --- how often --------------------------------------------------------------------------------------------------


@pytest.fixture
def hundred() -> Cell:
    """A hundred schemas: sqlx took 7 s in a loop and 4 s with xargs, tern 9.5 s in a loop, and dbmate 10.5 s."""
    bench = Bench(Any, [], 10, {}, save=lambda: None, say=lambda _: None)  # type: ignore[arg-type]
    seconds = {SQLX.name: 7.0, SQLX_XARGS.name: 4.0, TERN.name: 9.5, DBMATE.name: 10.5, OURS[0].name: 30.0}
    return Cell(bench, SCHEMA, 100, None, apply={name: Samples([took]) for name, took in seconds.items()})


def test_what_would_take_long_is_not_tried_unless_it_is_ours_or_a_tools_quickest(hundred: Cell) -> None:
    thousand = replace(hundred, number=1000, before=hundred, apply={})

    due = [way.name for way in WAYS if thousand.is_due(way, 0)]

    assert due == [*(way.name for way in OURS), SQLX_XARGS.name, TERN.name]


def test_a_further_turn_is_for_who_is_near_or_quick_and_got_there(hundred: Cell) -> None:
    hundred.apply[OURS[0].name] = Samples([9.0])
    hundred.apply[OURS[1].name] = Samples([], problem="exit 1")

    due = [way.name for way in WAYS if hundred.is_due(way, 1)]

    assert due == [OURS[0].name, SQLX_XARGS.name]


def test_a_run_that_went_wrong_is_no_time() -> None:
    samples: dict[str, Samples] = {}

    note(samples, SQLX, Ran(1.5, 0.0), "")
    note(samples, TERN, Ran(0.5, 0.0), "of 10 tenants: 1 not right")

    assert (samples[SQLX.name].seconds, samples[SQLX.name].problem) == ([1.5], "")
    assert (samples[TERN.name].seconds, samples[TERN.name].problem) == ([], "of 10 tenants: 1 not right")


# --- sittings and the report ------------------------------------------------------------------------------------


def test_part_that_is_compared_with_no_other_may_be_of_another_image() -> None:
    earlier = {"image": "sha256:1", "date": "2026-01-01"}

    assert sitting.continued(earlier, {"image": "sha256:2"}, ["targets"]) == earlier
    with pytest.raises(ValueError, match="differs in machine, postgres, image, tools"):
        sitting.continued(earlier, dict.fromkeys(sitting.SAME, "other"), ["targets", "nothing"])


def cell(kind: str, work: str, number: int, ways: dict[str, list[float]]) -> dict[str, Any]:
    samples = {
        name: Samples(seconds, problem="" if seconds else "exit 1: `no`").plain() for name, seconds in ways.items()
    }
    return {"kind": kind, "work": work, "number": number, "ways": samples}


@pytest.fixture
def results() -> Results:
    """What somebody made up."""
    about = {
        "date": "2026-01-02",
        "machine": {"cpu": "some", "cores": 2, "memory_gib": 4, "system": "Debian"},
        "postgres": "17.0",
        "commit_ms": 0.5,
        "tools": {"sqlx": {"version": "0.9"}, "tern": {"version": "2.3"}},
    }
    cells = [
        cell(SCHEMA, NOTHING, 100, {"pgslipway": [0.2], "sqlx, loop": [1.5], "flyway, a program": [9.0]}),
        cell(
            SCHEMA,
            NOTHING,
            1000,
            {"pgslipway": [0.9], "sqlx, loop": [10.0], "tern, loop": [], "tern, xargs -P 4": [0.5]},
        ),
        cell(DATABASE, NOTHING, 1000, {"pgslipway": [6.0], "sqlx, loop": [10.0], "tern, loop": [11.0]}),
        cell(SCHEMA, APPLY, 1000, {"pgslipway": [40.0], "sqlx, xargs -P 4": [40.0], "sqlx, loop": [90.0]}),
    ]
    grown = {
        "1000": {**Samples([0.5, 0.7], 9, 1).plain(), "kibibytes": 30 * 1024},
        "10000": {**Samples([7.3], 25, 1).plain(), "kibibytes": 64 * 1024},
    }
    return Results({"tools": {}, "cells": [], "targets": {"about": about, "cells": cells, "grown": grown}})


def test_goals_compare_with_the_fastest_of_the_same_kind(results: Results) -> None:
    assert {goal.name: (goal.verdict, goal.of) for goal in target_goals(results)} == {
        "nothing to do, 1,000 schemas: at most 0.1 x the fastest loop": ("met by 10%", "0.1 x sqlx, loop"),
        "nothing to do, 1,000 databases: at most 0.5 x the fastest loop": ("missed by 20%", "0.5 x sqlx, loop"),
        "10 files, 1,000 schemas: ahead of the fastest xargs -P 4": ("missed by 0%", "sqlx, xargs -P 4"),
        "nothing to do, 1,000 schemas: under 10 round trips": ("met by 10%", ""),
        "nothing to do, 10,000 schemas: at most 12 x 1,000 schemas": ("missed by 1%", "12 x 1,000 schemas"),
        "peak memory, nothing to do, 10,000 schemas: under 128 MiB": ("met by 50%", ""),
    }


def test_goals_are_not_measured_where_nothing_was() -> None:
    assert {goal.verdict for goal in target_goals(Results({"tools": {}, "cells": []}))} == {"not measured"}


def test_table_has_ours_first_and_then_who_got_farthest(results: Results) -> None:
    assert (
        target_tables.by_number(results, SCHEMA, NOTHING)
        == """\
| way | 1 | 10 | 100 | 1,000 | of ours, 1,000 |
|---|---:|---:|---:|---:|---:|
| **pgslipway** | - | - | 200 ms, 1 run | 900 ms, 1 run | 1.00 |
| tern, xargs -P 4 | - | - | - | 500 ms, 1 run | 0.56 |
| sqlx, loop | - | - | 1.50 s, 1 run | 10.0 s, 1 run | 11.11 |
| flyway, a program | - | - | 9.00 s, 1 run | - | - |
| tern, loop | - | - | - | fails | - |

| way | fails at | and says |
|---|---|---|
| tern, loop | 1,000 | `exit 1: 'no'` |"""
    )


def test_page_says_when_the_part_was_measured_and_with_what(results: Results) -> None:
    parts = targets(results)

    assert parts["targets-where"].startswith("Measured on 2026-01-02: 2 cores of some, 4 GiB,")
    assert parts["targets-versions"] == "sqlx 0.9, tern 2.3."
    assert "| 10,000 | 7.30 s, 1 run | 25 | 1 | 64.0 MiB |" in parts["targets-grown"]
    assert "| nothing to do, 1,000 schemas: under 10 round trips | 9 | 10 | met by 10% |" in parts["targets-goals"]
    assert set(targets(Results({"tools": {}, "cells": []})).values()) >= {"Not measured yet."}
