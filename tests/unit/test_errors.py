"""The contract in words: exit codes and settings, in the code, in --help, and in the README."""

from __future__ import annotations

import re
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING

import pytest

from containers import ROOT
from contract import CONTRACT
from pgslipway import errors
from pgslipway.config import VARIABLE
from pgslipway.errors import INTERNAL_ERROR, UP_TO_DATE, SlipwayError, Stopped
from pgslipway.settings import SETTINGS

if TYPE_CHECKING:
    from conftest import Slipway

README = ROOT / "README.md"
CAN_HEAL = {"DatabaseUnavailable", "Locked", "TableBusy", "ConnectionLost", "NotYet", "TargetsToRetry"}
FAILURES = [error for error in SlipwayError.__subclasses__() if error is not Stopped]


def readme_table(header: str) -> list[list[str]]:
    """The cells of the README's table that has this header, without backquotes."""
    lines = README.read_text().splitlines()
    if header not in lines:
        pytest.fail(f"README.md has no table {header}")
    rows = []
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").replace("`", "").split("|")])
    return rows


def test_every_failure_has_the_code_of_the_contract() -> None:
    codes = {UP_TO_DATE: "up to date", INTERNAL_ERROR: "internal error"}
    codes |= {stopped.exit_code: stopped.result for stopped in map(Stopped, (SIGINT, SIGTERM))}

    codes |= {failure.exit_code: failure.result for failure in FAILURES}

    assert codes == CONTRACT


def test_exit_codes_are_distinct() -> None:
    codes = [failure.exit_code for failure in FAILURES]

    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_code_says_whether_trying_again_can_help(failure: type[SlipwayError]) -> None:
    expected = range(10, 20) if failure.__name__ in CAN_HEAL else range(20, 30)

    assert failure.exit_code in expected


def test_tree_at_the_top_of_the_module_names_every_failure_with_its_code() -> None:
    drawn = re.findall(r"[├└]── (\w+)\s+([0-9, ]+?)  ", errors.__doc__ or "")

    expected = [(failure.__name__, str(failure.exit_code)) for failure in FAILURES]
    assert drawn == [*expected, ("Stopped", "130, 143")]


@pytest.mark.parametrize("signum", [SIGINT, SIGTERM])
def test_stop_names_its_signal(signum: int) -> None:
    stopped = Stopped(signum)

    assert (str(stopped), stopped.exit_code) == (f"stopped by {SIGINT.__class__(signum).name}", 128 + signum)


@pytest.mark.parametrize("arguments", [["--help"], ["up", "--help"], ["-h"]], ids=" ".join)
def test_help_lists_every_exit_code_and_setting(slipway: Slipway, arguments: list[str]) -> None:
    finished = slipway(*arguments, env={})

    assert finished.code == 0
    listed = dict(re.findall(r"^  ([0-9][0-9, ]*?) +([a-z ]+?)(?: by SIGINT, SIGTERM)?$", finished.out, re.MULTILINE))
    codes = {code: name for codes, name in listed.items() for code in map(int, codes.split(","))}
    assert codes == CONTRACT
    assert [variable for variable in SETTINGS if f" {variable}: " not in " ".join(finished.out.split())] == []


def test_version_is_printed(slipway: Slipway) -> None:
    finished = slipway("--version", env={})

    assert re.fullmatch(r"pgslipway [0-9]+\.[0-9]+\.[0-9]+\n", finished.out)
    assert (finished.code, finished.err) == (0, "")


def test_readme_lists_the_exit_codes() -> None:
    rows = readme_table("| code | name | meaning |")

    codes = {int(code): name for codes, name, _ in rows for code in codes.split(",")}
    assert codes == CONTRACT


def test_readme_lists_the_settings() -> None:
    rows = [row for row in readme_table("| setting | default | meaning |") if "MIGRATE_" in row[0]]

    listed = [variable for row in rows for variable in re.findall(r"MIGRATE_\w+", row[0])]
    assert sorted(listed) == sorted([*SETTINGS, VARIABLE])


def test_readme_says_the_defaults_of_the_settings() -> None:
    rows = {row[0]: row[1] for row in readme_table("| setting | default | meaning |")}

    wrong = [
        f"{variable}: {setting.default}"
        for variable, setting in SETTINGS.items()
        if setting.default not in {None, "0"}
        and not any(variable in name and setting.default in default for name, default in rows.items())
    ]
    assert wrong == []
