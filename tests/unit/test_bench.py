"""The benchmark itself: its proxy, the files that it writes for each tool, how often it runs them, what it reports."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bench import floor, interpreted, native, run, sitting, tables
from bench.far import far
from bench.goals import Goal, ahead, goals, within
from bench.measure import Bench, Cell, Samples, differences, due
from bench.ours import PGSLIPWAY, WORK
from bench.parts import thousand
from bench.peer import INSTALLED, Invocation, Migration, Peer, Target
from bench.readiness import groups
from bench.report import PAGE, fill, page
from bench.results import Results, fastest_peer
from bench.run import reason
from bench.sets import small
from bench.turns import turns
from servers import until

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Database

PEERS = [PGSLIPWAY, *floor.PEERS, *native.PEERS, *interpreted.PEERS]
EMPTY = Migration(11, "nothing", "")


# --- the proxy --------------------------------------------------------------------------------------------------


async def seconds_of_queries(database: Database, port: int, number: int) -> float:
    """Connect to this port and ask so many questions; the seconds that the questions took."""
    near = replace(database, server=replace(database.server, port=port))
    async with near.connection() as connection:
        began = time.monotonic()
        for _ in range(number):
            await connection.execute("SELECT 1")
        return time.monotonic() - began


async def test_proxy_adds_its_time_to_each_round_trip(database: Database) -> None:
    with far(database.port, 20) as line:
        assert await seconds_of_queries(database, line.port, 5) >= 5 * 0.020


async def test_proxy_counts_connections_and_round_trips_since_the_last_time(database: Database) -> None:
    with far(database.port, 1) as line:
        await seconds_of_queries(database, line.port, 1)
        _, of_one = line.counted()
        await seconds_of_queries(database, line.port, 6)
        connections, of_six = line.counted()

        assert connections == 1
        assert of_six - of_one == 5
        assert line.counted() == (0, 0)


async def test_proxy_counts_a_connection_for_each_client(database: Database) -> None:
    with far(database.port, 1) as line:
        for _ in range(3):
            await seconds_of_queries(database, line.port, 1)

        assert line.counted()[0] == 3


# --- the files --------------------------------------------------------------------------------------------------


def written(peer: Peer, folder: Path, number: int) -> list[str]:
    """Write so many migrations; the names of the files that hold one, in the order of names."""
    migrations = small(number)
    peer.write(folder, migrations)
    holds = re.compile(r"CREATE TABLE table_(\d+) ")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    versions = {path.name: holds.findall(path.read_text()) for path in paths}
    return [name for name, found in versions.items() if len(found) == 1]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_tool_gets_a_file_for_each_migration_in_order(peer: Peer, tmp_path: Path) -> None:
    names = written(peer, tmp_path, 12)

    numbers = [int(re.sub(r"\D+", "", name)) for name in names]
    assert sorted(numbers) == list(range(1, 13))
    assert numbers == list(range(1, 13)) or peer.name in {"flyway", "refinery"}, "these two sort by number"


@pytest.mark.parametrize(
    ("peer", "shape"),
    [
        (native.GOOSE, "-- +goose Up\n{sql}"),
        (native.DBMATE, "-- migrate:up\n{sql}\n-- migrate:down\n"),
        (native.SQITCH, "BEGIN;\n\n{sql};\nCOMMIT;\n"),
        (interpreted.POGO, "-- small\n-- depends:\n\n-- migrate: apply\n\n{sql}\n\n-- migrate: rollback\n"),
        (interpreted.NODE_PG_MIGRATE, "-- Up Migration\n{sql}\n"),
        (
            interpreted.LIQUIBASE,
            "--liquibase formatted sql\n--changeset bench:1 splitStatements:false\n{sql}\n",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Peer) else "",
)
def test_a_file_has_its_tools_own_format(peer: Peer, shape: str, tmp_path: Path) -> None:
    (migration,) = small(1)
    peer.write(tmp_path, [migration])

    (path,) = (path for path in tmp_path.rglob("*.sql") if migration.sql in path.read_text())
    assert path.read_text() == shape.format(sql=migration.sql)


def test_pogo_names_the_file_before(tmp_path: Path) -> None:
    interpreted.POGO.write(tmp_path, small(2))

    assert "\n-- depends: 00001_small\n" in (tmp_path / "00002_small.sql").read_text()


@pytest.mark.parametrize("peer", [native.TERN, interpreted.LIQUIBASE], ids=lambda peer: peer.name)
def test_who_refuses_an_empty_file_gets_a_statement(peer: Peer, tmp_path: Path) -> None:
    peer.write(tmp_path, [EMPTY])

    (path,) = tmp_path.glob("*.sql")
    assert path.read_text().strip().endswith("SELECT 1;")


def test_sqitch_ends_a_statement_before_it_commits(tmp_path: Path) -> None:
    native.SQITCH.write(tmp_path, [Migration(1, "unended", "SELECT 1 -- no semicolon")])

    (path,) = (tmp_path / "deploy").iterdir()
    assert path.read_text() == "BEGIN;\n\nSELECT 1 -- no semicolon\n;\nCOMMIT;\n"


# --- how often, and what went wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "ours", "once", "expected"),
    [
        (0.2, False, False, 10),
        (1.3, False, False, 10),
        (1.4, False, False, 3),
        (4.9, False, False, 3),
        (5.0, False, False, 1),
        (9.9, True, False, 10),
        (10.0, True, False, 3),
        (0.2, False, True, 1),
        (0.2, True, True, 3),
    ],
    ids=["quick", "near", "behind", "far", "slow", "ours", "ours_long", "once", "ours_once"],
)
def test_turns_are_fewer_for_who_is_slow(seconds: float, ours: bool, once: bool, expected: int) -> None:
    assert turns(seconds, fastest=1.0, runs=10, ours=ours, once=once) == expected


def test_turns_are_never_more_than_asked_for() -> None:
    assert turns(4.0, fastest=1.0, runs=2, ours=False) == 2


def test_who_failed_or_has_its_runs_is_not_due() -> None:
    peers = [PGSLIPWAY, native.GOOSE, native.TERN, native.DBMATE, floor.PSQL_ONE_SESSION]
    samples = {
        "pgslipway": Samples([2.0, 2.0, 2.0]),
        "goose": Samples([1.0, 1.0, 1.0]),
        "tern": Samples([4.0, 4.0, 4.0]),
        "dbmate": Samples([], problem="exit 1"),
        "psql-one-session": Samples([0.5]),
    }

    assert [peer.name for peer in due(peers, samples, 10)] == ["pgslipway", "goose", "psql-one-session"]
    assert due(peers, samples, 1) == []


@pytest.fixture
def _anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tools are run in a folder that the image's files need not be in."""
    monkeypatch.setattr(run, "WORK", tmp_path)


@pytest.mark.usefixtures("_anywhere")
def test_time_limit_of_a_run_begins_with_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LIMIT", 0.1)

    process = run.start(PGSLIPWAY, Invocation(["sleep", "120"]))

    until(lambda: process.popen.poll() is not None, "a run to be given up that nobody waits for")
    assert process.end().problem == "took more than 0.1 s"


@pytest.mark.usefixtures("_anywhere")
def test_a_run_that_ended_in_time_may_be_waited_for_later() -> None:
    process = run.start(PGSLIPWAY, Invocation(["sh", "-c", "echo error: no; exit 3"]))
    os.waitid(os.P_PID, process.popen.pid, os.WEXITED | os.WNOWAIT)

    process.give_up()

    assert process.end().problem == "exit 3: error: no"


def test_a_schema_is_compared_in_both_directions() -> None:
    assert differences({("a",), ("b",)}, {("a",), ("b",)}) == ""
    assert differences({("a",), ("b",)}, {("a",), ("c",)}) == "columns and indexes: 1 missing, 1 nobody else's"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("#####\n## banner ##\nStarting at 06:34\nUnexpected error running it:\n  no sql\n",
         "Unexpected error running it: no sql"),
        ("+ 1_add_error_column .. ok\npsql: ERROR:  syntax error\nDeploy failed\n",
         "psql: ERROR:  syntax error Deploy failed"),
        ("one\ntwo\n\nthree\nfour\n", "two three four"),
        ("", ""),
    ],
    ids=["banner", "name_with_error", "no_error", "silent"],
)  # fmt: skip
def test_reason_starts_where_a_tool_tells_of_an_error(log: str, expected: str) -> None:
    assert reason(log) == expected


def test_reason_has_no_folder_of_this_machine() -> None:
    log = f"error at {INSTALLED}/goose/bin/goose: {WORK}/goose/1/1_small.sql\n"

    assert reason(log) == "error at goose/bin/goose: goose/1/1_small.sql"


def test_reason_is_short() -> None:
    assert len(reason("error: " + "x" * 1000)) == 160


# --- sittings and parts -----------------------------------------------------------------------------------------

ABOUT = {
    "date": "2026-01-01",
    "machine": {"cpu": "some"},
    "postgres": "17.0",
    "commit_ms": 0.5,
    "image": "sha256:1",
    "tools": {"tern": {"version": "2.0"}},
    "missing": {},
}


def test_a_later_sitting_adds_to_what_was_measured() -> None:
    earlier = {**sitting.begun(ABOUT), "cells": ["some"], "minutes": 40}

    for _ in range(2):
        earlier = sitting.continued(earlier, {**ABOUT, "date": "2026-01-02", "missing": {"flyway": "no java"}}, ["tls"])

    assert earlier == {
        **ABOUT,
        "date": "2026-01-01 and 2026-01-02",
        "missing": {"flyway": "no java"},
        "cells": ["some"],
        "minutes": 40,
    }


@pytest.mark.parametrize("name", ["machine", "postgres", "image", "tools"])
def test_numbers_of_something_else_are_not_added_to(name: str) -> None:
    with pytest.raises(ValueError, match=f"what was measured before differs in {name}$"):
        sitting.continued(sitting.begun(ABOUT), {**ABOUT, name: "other"}, ["tls"])


def test_results_before_images_were_noted_are_not_added_to() -> None:
    earlier = {name: value for name, value in sitting.begun(ABOUT).items() if name != "image"}

    with pytest.raises(ValueError, match=r"differs in image$"):
        sitting.continued(earlier, ABOUT, ["tls"])


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"

    sitting.write(path, sitting.begun(ABOUT))

    assert sitting.read(path) == sitting.begun(ABOUT)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def bench() -> Bench:
    """A bench without a server, which has measured one cell."""
    results = {"cells": [cell("nothing", 1, 5, {"tern": [0.5]}), cell("apply", 1000, 0, {"tern": [2.0, 1.5]})]}
    return Bench(Any, PEERS, 10, results, save=lambda: None, say=lambda _: None)  # type: ignore[arg-type]


def test_a_cell_takes_the_place_of_an_earlier_sittings(bench: Bench) -> None:
    bench.add(Cell("nothing", 1, 5), {"tern": Samples([0.25])})
    bench.add(Cell("nothing with TLS", 1, 5), {"tern": Samples([0.75])})

    results = Results({"tools": {}, **bench.results})
    assert len(bench.results["cells"]) == 3
    assert results.medians("nothing", 1, 5) == {"tern": 0.25}
    assert results.medians("nothing with TLS", 1, 5) == {"tern": 0.75}


def test_who_gets_many_files_is_known_from_an_earlier_sitting(bench: Bench) -> None:
    assert thousand(bench.results, native.TERN) == 1.5
    assert thousand(bench.results, native.GOOSE) == float("inf")


def test_who_could_not_be_prepared_is_not_tried_again(bench: Bench) -> None:
    for peer in bench.tools:
        bench.prepared[peer.name, 1000] = "some"
    del bench.prepared["sqitch", 1000]
    bench.problems["sqitch", 1000] = "took more than 120 s"

    assert native.SQITCH not in bench.able(1000)
    assert bench.nothing(native.SQITCH, 1000).problem == "took more than 120 s"


def test_psql_has_no_part_in_what_takes_a_history(bench: Bench) -> None:
    assert {peer.name for peer in bench.peers} - {peer.name for peer in bench.tools} == {
        "psql-one-session", "psql-per-file",
    }  # fmt: skip


def test_each_tool_waits_in_one_group_and_never_with_all_others(bench: Bench) -> None:
    made = groups(bench.tools)

    assert sorted(peer.name for group in made for peer in group) == sorted(peer.name for peer in bench.tools)
    assert max(map(len, made)) <= 6
    assert groups([PGSLIPWAY]) == [[PGSLIPWAY]]


@pytest.mark.parametrize(
    ("certificate", "sslmode"), [(None, "disable"), (WORK / "server.crt", "require")], ids=["plain", "tls"]
)
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_tool_is_told_whether_to_use_tls(peer: Peer, certificate: Path | None, sslmode: str) -> None:
    invocation = peer.up(WORK, Target(port=1, password="x", certificate=certificate))

    told = " ".join([*invocation.argv, *invocation.environ.values()])
    assert f"sslmode={sslmode}" in told or invocation.environ["PGSSLMODE"] == sslmode


# --- the report -------------------------------------------------------------------------------------------------


def cell(work: str, files: int | str, milliseconds: int, tools: dict[str, list[float]]) -> dict[str, Any]:
    """A cell as results.json has it."""
    samples = {
        name: {
            "seconds": seconds,
            "round_trips": 7 if milliseconds else None,
            "problem": "" if seconds else "exit 1: `no`",
        }
        for name, seconds in tools.items()
    }
    return {"work": work, "files": files, "milliseconds": milliseconds, "tools": samples}


@pytest.fixture
def results() -> Results:
    """A run of four tools that somebody made up."""
    names = ("pgslipway", "dbmate", "tern", "psql-per-file", "psql-one-session")
    fact = {"version": "1.0", "lock": "none", "transaction": "file", "waits": "by itself", "note": ""}
    return Results({
        "date": "2026-01-01",
        "machine": {"cpu": "some", "cores": 2, "memory_gib": 4, "system": "Debian"},
        "postgres": "17.0",
        "commit_ms": 0.5,
        "tools": dict.fromkeys(names, fact),
        "missing": {"flyway": "no java"},
        "cells": [
            cell("nothing", 1, 0, {"pgslipway": [0.09, 0.06, 0.07], "dbmate": [0.02] * 10, "tern": []}),
            cell("nothing", 1, 5, {"pgslipway": [0.10], "dbmate": [0.14], "tern": []}),
            cell("nothing", 1000, 0, {"pgslipway": [0.10]}),
            cell("nothing", 10_000, 0, {"pgslipway": [0.20]}),
            cell("nothing with TLS", 1, 0, {"pgslipway": [0.08], "tern": []}),
            cell("nothing in a container", 1, 0, {"pgslipway": [0.2], "dbmate": [0.25], "tern": [0.3]}),
            cell("apply", 1000, 0, {
                "pgslipway": [2.0], "dbmate": [1.0], "tern": [4.0], "psql-per-file": [0.5], "psql-one-session": [1.5],
            }),
        ],
        "image_bytes": {"pgslipway": 12_000_000, "dbmate": 16_000_000, "psql-per-file": 1_000_000},
        "kibibytes": {"pgslipway": {"apply": 41 * 1024, "nothing": 30 * 1024}},
        "readiness": {"pgslipway": {"seconds": [0.1, 0.3, 0.1]}, "dbmate": {"seconds": [0.6]}},
    })  # fmt: skip


def test_fastest_peer_is_neither_ours_nor_the_floor(results: Results) -> None:
    assert fastest_peer(results.medians("apply", 1000)) == "dbmate"
    assert fastest_peer({}) == ""


def test_table_shows_medians_spread_ratios_and_why_one_failed(results: Results) -> None:
    assert (
        tables.work(results, "nothing", 1)
        == """\
| tool | +0 ms | of ours | of the fastest | +1 ms | +5 ms | +20 ms | round trips |
|---|---:|---:|---:|---:|---:|---:|---:|
| **pgslipway** | 70 ms (60 ms to 90 ms), 3 runs | 1.00 | 3.50 | - | 100 ms, 1 run | - | - |
| dbmate | 20 ms (20 ms to 20 ms) | 0.29 | 1.00 | - | 140 ms, 1 run | - | - |
| tern | fails | - | - | - | fails | - | - |

| tool | fails at | and says |
|---|---|---|
| tern | +0, +5 ms | `exit 1: 'no'` |"""
    )


def test_floor_is_shown_as_multiples(results: Results) -> None:
    rows = tables.floors(results).splitlines()

    assert rows[2].startswith("| **pgslipway** | 4.00 |")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0123, "12 ms"), (1.234, "1.23 s"), (12.34, "12.3 s"), (123.4, "123 s")],
    ids=["ms", "s", "tens", "hundreds"],
)
def test_duration_has_three_digits(seconds: float, expected: str) -> None:
    assert tables.duration(seconds) == expected


def test_goals_say_by_how_much(results: Results) -> None:
    verdicts = {goal.name: goal.verdict for goal in goals(results)}

    assert verdicts == {
        "nothing to do, 1 file: at most 1 x dbmate": "missed by 250%",
        "nothing to do, 1,000 files: at most 1 x dbmate": "not measured",
        "nothing to do, 1 file, with TLS: at most 1.2 x without": "met by 5%",
        "nothing to do, 1 file, +5 ms: ahead of every peer": "met by 29%",
        "nothing to do, 1,000 files, +5 ms: ahead of every peer": "not measured",
        "nothing to do, 1 file, +20 ms: ahead of every peer": "not measured",
        "nothing to do, 1,000 files, +20 ms: ahead of every peer": "not measured",
        "nothing to do, 1,000 files: at most 1.35 x 1 file": "missed by 6%",
        "nothing to do, each file from 1,000 to 10,000: at most 10 µs": "missed by 11%",
        "1,000 files applied: at most 1.17 x psql-one-session": "missed by 14%",
        "1,000 files applied, +0 ms: ahead of every peer": "missed by 100%",
        "1,000 files applied, +1 ms: ahead of every peer": "not measured",
        "1,000 files applied, +5 ms: ahead of every peer": "not measured",
        "1,000 files applied, +20 ms: ahead of every peer": "not measured",
        "nothing to do, 1 file, in a container: at most 1.1 x the fastest peer": "met by 27%",
        "lag after a wait: ahead of every peer": "met by 83%",
        "lag after a wait: not above what it was": "met by 15%",
        "peak memory, nothing to do: at most 20 MiB": "missed by 50%",
        "image, compressed: at most 12.6 MB": "met by 5%",
    }


def test_goals_are_not_measured_in_a_run_that_was_cut_short() -> None:
    nothing = Results({"tools": {}, "cells": []})

    assert {goal.verdict for goal in goals(nothing)} == {"not measured"}


def test_a_tie_is_within_but_not_ahead() -> None:
    assert within("at most as long", 2.0, 1, 2.0, "tern").is_met
    assert not ahead("faster", {"pgslipway": 2.0, "tern": 2.0}).is_met
    assert Goal("nothing", None, 1.0).verdict == "not measured"


def test_page_has_what_was_measured_and_what_could_not_be_had(results: Results) -> None:
    parts = page(results)

    assert "- flyway: `no java`" in parts["tools"]
    assert (
        "| nothing to do, 1 file, in a container: at most 1.1 x the fastest peer | 200 ms | 275 ms (1.1 x dbmate) "
        "| met by 27% |" in parts["goals"]
    )
    assert "| nothing to do, each file from 1,000 to 10,000: at most 10 µs | 11.1 µs | 10.0 µs |" in parts["goals"]
    assert "| **pgslipway** | 80 ms, 1 run |" in parts["nothing-tls"]


def test_fill_replaces_what_is_between_the_markers_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- bench: one -->\nold\n<!-- end -->\nb\n<!-- bench: two -->\n<!-- end -->\nc\n")

    for _ in range(2):
        fill(path, {"one": "new", "two": "other"})

    assert path.read_text() == (
        "a\n<!-- bench: one -->\n\nnew\n\n<!-- end -->\nb\n<!-- bench: two -->\n\nother\n\n<!-- end -->\nc\n"
    )


def test_fill_refuses_a_page_without_the_markers(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("<!-- bench: one -->\n")

    with pytest.raises(SystemExit, match=r"page\.md: no markers for one"):
        fill(path, {"one": "new"})


def test_committed_page_has_a_place_for_each_part(results: Results, tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks.md"
    copy.write_text(PAGE.read_text())
    fill(copy, page(results))

    assert "| 70 ms (60 ms to 90 ms), 3 runs |" in copy.read_text()
