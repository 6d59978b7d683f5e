"""What the outside gets to see: log lines, and the outcome as one JSON object."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgslipway import __version__
from pgslipway.errors import Problem
from pgslipway.log import JsonFormatter, TextFormatter
from pgslipway.outcome import Outcome
from pgslipway.report import write_outcome

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Slipway

LIMIT = 4096
TEXT = st.text(st.characters() | st.sampled_from('\n\r\t\0"\\\x1b😀é\ud800\udfff\u2028'))
LONG = st.builds(lambda text, times: text * times, TEXT, st.integers(1, 5000))
NAMES = st.lists(TEXT, max_size=50) | st.builds(lambda names, times: names * times, st.lists(TEXT), st.integers(1, 500))


def parsed(outcome: Outcome) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(outcome.to_json())
    return read


@settings(deadline=None)
@given(TEXT | LONG, NAMES)
def test_outcome_is_valid_json_of_at_most_4096_bytes(message: str, names: list[str]) -> None:
    outcome = Outcome(exit_code=24, result="migration failed", message=message, applied=names, seconds=1.23456)

    encoded = outcome.to_json()

    assert len(encoded) <= LIMIT
    read = json.loads(encoded)
    assert (read["exit_code"], read["applied_count"], read["seconds"]) == (24, len(names), 1.235)
    assert len(read["applied"]) <= len(names)


@given(st.text(max_size=500), st.lists(st.text(max_size=20), max_size=5))
def test_short_outcome_is_not_cut(message: str, names: list[str]) -> None:
    outcome = Outcome(exit_code=0, result="up to date", message=message, applied=names, seconds=2.0)

    read = parsed(outcome)

    assert read == {
        "exit_code": 0,
        "result": "up to date",
        "message": message,
        "problems": [],
        "applied": names,
        "seconds": 2.0,
        "applied_count": len(names),
        "pgslipway": __version__,
    }


CUT = {"ascii": "a" * 5000, "emoji": "😀" * 5000, "escapes": '"\\\n' * 5000, "control": "\x01" * 5000}


@pytest.mark.parametrize("message", CUT.values(), ids=CUT)
def test_long_message_is_cut_and_says_so(message: str) -> None:
    outcome = Outcome(exit_code=24, result="migration failed", message=message)

    encoded = outcome.to_json()

    kept = parsed(outcome)["message"].removesuffix(" …")
    assert LIMIT // 2 < len(encoded) <= LIMIT
    assert message.startswith(kept.rstrip(" …"))
    assert parsed(outcome)["message"].count("…") == 1


def test_filenames_are_cut_before_the_message() -> None:
    names = [f"{number:03}_some_migration.sql" for number in range(1000)]
    outcome = Outcome(exit_code=24, result="migration failed", message="m" * 1000, applied=names)

    read = parsed(outcome)

    assert read["message"] == "m" * 1000
    assert read["applied"] == names[: len(read["applied"])]
    assert 10 < len(read["applied"]) < 1000
    assert read["applied_count"] == 1000


def test_problems_have_file_line_and_their_first_line() -> None:
    problems = [Problem("no\n  3 | SELECT no", "1_a.sql", 3), Problem("no such database")]
    outcome = Outcome(exit_code=24, result="migration failed", message="m", problems=problems)

    assert parsed(outcome)["problems"] == [
        {"file": "1_a.sql", "line": 3, "text": "no"},
        {"file": None, "line": None, "text": "no such database"},
    ]


def test_problems_are_cut_before_the_message() -> None:
    problems = [Problem("no", f"{number:03}_a.sql", 1) for number in range(1000)]
    outcome = Outcome(exit_code=21, result="bad migration files", message="m" * 1000, problems=problems)

    read = parsed(outcome)

    assert read["message"] == "m" * 1000
    assert [problem["file"] for problem in read["problems"]] == [problem.file for problem in problems][
        : len(read["problems"])
    ]
    assert 10 < len(read["problems"]) < 1000


def test_failure_says_what_is_kept() -> None:
    names = [f"{number}_a.sql" for number in range(1, 8)]

    outcome = Outcome(exit_code=24, result="migration failed", message="no", applied=names)

    kept = "applied in this run and kept: 1_a.sql, 2_a.sql, 3_a.sql, 4_a.sql, 5_a.sql and 2 more"
    assert outcome.text == f"no\n{kept}"


def test_outcome_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    logged: list[tuple[str, str]] = []
    outcome = Outcome(exit_code=0, result="up to date", message="done")

    write_outcome(outcome, str(tmp_path), lambda level, message, _: logged.append((level, message)))

    assert logged == [("warning", f"{tmp_path}: Is a directory; the outcome was not written there")]


# --- log lines ---------------------------------------------------------------------------------------------------


def record(message: str, level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"levelno": level, "levelname": logging.getLevelName(level), "msg": message, **fields})
    made.created, made.msecs = 1769860800.25, 250.0
    return made


@given(TEXT, st.dictionaries(st.sampled_from(["cause", "attempt", "filename_"]), TEXT | st.integers() | st.none()))
def test_json_line_is_one_line_and_parses(message: str, fields: dict[str, Any]) -> None:
    made = record(message.replace("%", ""), **fields)

    line = JsonFormatter().format(made)

    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-01-31T12:00:00.250Z",
        "level": "info",
        "message": message.replace("%", ""),
        **fields,
    }


def test_json_line_has_what_json_has_not_as_text(tmp_path: Path) -> None:
    made = record("m", path=tmp_path)

    read = json.loads(JsonFormatter().format(made))

    assert read["path"] == str(tmp_path)


def test_json_line_has_the_traceback() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        made = record("m", logging.ERROR, exc_info=sys.exc_info())

    read = json.loads(JsonFormatter().format(made))

    assert (read["level"], read["traceback"].splitlines()[-2:]) == ("error", ["ValueError: a", "b"])


LINES = {
    "info": (logging.INFO, "12:00:00 m"),
    "warning": (logging.WARNING, "12:00:00 warning: m"),
    "error": (logging.ERROR, "12:00:00 error: m"),
}


@pytest.mark.parametrize(("level", "expected"), LINES.values(), ids=LINES)
def test_text_line_has_the_time_in_utc_and_the_level_where_it_matters(level: int, expected: str) -> None:
    line = TextFormatter().format(record("m", level, cause="not shown"))

    assert line == expected


FORMATS: dict[str, tuple[dict[str, str], str]] = {
    "default": ({}, "text"),
    "in-kubernetes": ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "json"),
    "auto-in-kubernetes": ({"MIGRATE_LOG_FORMAT": "auto", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "json"),
    "text-in-kubernetes": ({"MIGRATE_LOG_FORMAT": "text", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "text"),
    "json": ({"MIGRATE_LOG_FORMAT": "json"}, "json"),
    "text": ({"MIGRATE_LOG_FORMAT": "text"}, "text"),
}


@pytest.mark.parametrize("content", ["SELECT 1", "SELECT '"], ids=["success", "failure"])
@pytest.mark.parametrize(("environ", "expected"), FORMATS.values(), ids=FORMATS)
def test_log_format_is_chosen(
    folder: Folder, slipway: Slipway, environ: dict[str, str], expected: str, content: str
) -> None:
    migrations = folder({"1_a.sql": content})

    finished = slipway("check", env=environ, migrations=migrations)

    lines = finished.err.splitlines()
    if expected == "json":
        last = json.loads(lines[0])
        assert (last["exit_code"], last["message"]) == (finished.code, (finished.outcome or {})["message"])
        assert all(set(json.loads(line)) >= {"time", "level", "message"} for line in lines)
    else:
        assert re.match(r"[0-9]{2}:[0-9]{2}:[0-9]{2} ", lines[0])


def test_flag_chooses_the_log_format(folder: Folder, slipway: Slipway) -> None:
    finished = slipway("check", "--log-format", "json", env={}, migrations=folder({"1_a.sql": ""}))

    assert json.loads(finished.err)["message"] == "checked 1 migration: nothing wrong"


def test_malformed_arguments_are_logged_in_the_chosen_format(slipway: Slipway) -> None:
    finished = slipway("--nonsense", env={}, log_format="json")

    assert [json.loads(line)["level"] for line in finished.err.splitlines()] == ["error", "error"]
    assert finished.code == 20


CONTROLS = [chr(number) for number in [*range(0x20), *range(0x7F, 0xA0)]]


def test_line_of_text_shows_every_control_character_and_obeys_none() -> None:
    line = TextFormatter().format(record(f"a\r\nb\tc{''.join(CONTROLS)}é"))

    shown = "".join(character if character in "\t\n" else f"\\x{ord(character):02x}" for character in CONTROLS)
    assert line.partition(" ")[2] == f"a\nb\tc{shown}é"


def test_line_of_json_holds_no_control_character() -> None:
    text = f"a{''.join(CONTROLS)}é"

    line = JsonFormatter().format(record(text))

    assert not {*CONTROLS} & {*line}
    assert json.loads(line)["message"] == text
