"""The comparison of linters: what is linted, how their answers are read, how findings are counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench import linter
from bench.linted import Text, text_of
from bench.linters import Results, plain, table
from pgslipway.migrations import discover

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SQL = b"""-- two tables
CREATE TABLE a (b int);

-- an index
CREATE INDEX a_b
    ON a (b);  UPDATE c SET b = 1;
"""
TEXT = Text("shop", "001_a.sql", SQL, True)
CREATE_INDEX, UPDATE = 1, 2


@pytest.mark.parametrize(
    ("line", "column", "number"),
    [(1, 0, 0), (2, 0, 0), (4, 0, 1), (5, 0, 1), (6, 0, 1), (6, 15, 2), (7, 0, 2), (99, 0, 2)],
)
def test_place_is_in_a_statement(line: int, column: int, number: int) -> None:
    assert TEXT.statement_at(TEXT.offset(line, column)) == number


def test_up_part_stays_on_its_lines(tmp_path: Path) -> None:
    (tmp_path / "001_a.sql").write_text("-- +goose Up\nSELECT 1;\n-- +goose Down\nSELECT 2;\n")

    (text,) = (text_of("shop", migration) for migration in discover(tmp_path))

    assert text.source == b"\nSELECT 1;\n"
    assert text.in_transaction


@pytest.mark.parametrize(
    ("name", "written"),
    [("001_a.sql", "-- no-transaction\nSELECT 1;"), ("001_a.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nSELECT 1;")],
    ids=["ours", "goose"],
)
def test_file_may_be_without_a_transaction(name: str, written: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(written)

    (text,) = (text_of("shop", migration) for migration in discover(tmp_path))

    assert not text.in_transaction


PGFENCE = {"statement": "-- an index\nCREATE INDEX a_b\n    ON a (b)", "risk": "MEDIUM", "ruleId": "rule"}


@pytest.mark.parametrize(
    ("read", "answer"),
    [
        (linter.squawk, [{"line": 4, "column": 4, "rule_name": "rule"}]),
        (linter.safemigrate, [{"line": 5, "rule_id": "rule"}]),
        (linter.migrationpilot, {"violations": [{"line": 5, "ruleId": "rule"}]}),
        (linter.pgfence, {"results": [{"checks": [PGFENCE, {**PGFENCE, "risk": "LOW"}]}]}),
        (
            linter.pgsafe,
            {"files": [{"findings": [{"location": {"byte": SQL.index(b"CREATE INDEX")}, "rule_id": "rule"}]}]},
        ),
        (linter.eugene, {"statements": [{"line_number": 5, "triggered_rules": [{"id": "rule"}]}]}),
    ],
    ids=["squawk", "safemigrate", "migrationpilot", "pgfence", "pgsafe", "eugene"],
)
def test_answer_is_read(read: Callable[[object, Text], linter.Said], answer: object) -> None:
    """The answers are parts of the linters' own."""
    found = [(TEXT.statement_at(offset), rule) for offset, rule in read(json.loads(json.dumps(answer)), TEXT)]

    assert found == [(CREATE_INDEX, "rule")]


def test_squawk_counts_lines_from_0() -> None:
    (found,) = linter.squawk([{"line": 5, "column": 15, "rule_name": "rule"}], TEXT)

    assert TEXT.statement_at(found[0]) == UPDATE


def test_rules_about_other_subjects_are_no_locks() -> None:
    everybody = set().union(*(each.rules for each in linter.LINTERS))

    assert not everybody & {"ban-drop-column", "prefer-bigint-over-int", "require-lock-timeout", "E9", "E15", "MP004"}


def results() -> Results:
    """We find the index, and name the UPDATE that runs meanwhile; they find both, each in a way of its own."""
    index, update = ("shop", "001_a.sql", CREATE_INDEX), ("shop", "001_a.sql", UPDATE)
    return Results(
        found={"pgslipway": {index: {"blocking"}, update: {"while"}}, "theirs": {index: {"E6"}, update: {"E4", "E5"}}},
        beside={"theirs": 7},
    )


def test_findings_are_counted_beside_ours() -> None:
    assert table(results(), {("shop", "001_a.sql")}).splitlines()[2:] == [
        "| pgslipway | 0 | 1 | 1 | 0 | 0 | 0 |",
        "| theirs | 0 | 2 | 1 | 1 | 0 | 7 |",
    ]


@pytest.mark.parametrize(
    ("name", "row"),
    [("theirs", "| theirs | 1 | 0 | 0 | 0 | 0 | 7 |"), ("pgslipway", "| theirs | 0 | 0 | 0 | 0 | 0 | 7 |")],
)
def test_file_that_one_cannot_read_is_no_difference(name: str, row: str) -> None:
    unread = results()
    unread.found[name] = {}
    unread.failed[name] = [("shop", "001_a.sql", "syntax error")]

    assert table(unread, {("shop", "001_a.sql")}).splitlines()[3] == row


def test_all_findings_are_written_with_their_statements() -> None:
    index, update = plain(results(), [TEXT])

    assert index == {
        "folder": "shop", "file": "001_a.sql", "line": 5, "number": 1, "statement": "CREATE INDEX a_b\n    ON a (b)",
        "said": {"pgslipway": ["blocking"], "theirs": ["E6"]},
    }  # fmt: skip
    assert update["said"] == {"pgslipway": ["while"], "theirs": ["E4", "E5"]}
