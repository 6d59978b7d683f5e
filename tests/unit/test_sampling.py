"""CI runs a part of each sweep, another one for other commits; nothing is left out for ever."""

from __future__ import annotations

import hashlib

import pytest

from sampling import IN_CI, Sample, examples, sample

CASES = list(range(97))


@pytest.mark.parametrize("every", [1, 2, 3, IN_CI, 97, 100])
def test_all_offsets_together_are_every_case_once(every: int) -> None:
    parts = [Sample(every, first).of(CASES) for first in range(every)]

    assert sorted(case for part in parts for case in part) == CASES
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_commits_reach_every_offset() -> None:
    commits = [hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest() for number in range(100)]

    found = {sample({"CI": "true"}, commit) for commit in commits}

    assert found == {Sample(IN_CI, first) for first in range(IN_CI)}


@pytest.mark.parametrize(
    ("environ", "commit", "expected"),
    [
        ({}, "0000002b", Sample(1, 0)),
        ({"CI": "true"}, "0000002b" + "f" * 32, Sample(IN_CI, 43 % IN_CI)),
        ({"CI": "true"}, "", Sample(IN_CI, 0)),
        ({"CI": "true", "PGSLIPWAY_FAULTS_EVERY": "1"}, "0000002b", Sample(1, 0)),
        ({"PGSLIPWAY_FAULTS_EVERY": "10"}, "0000002b", Sample(10, 3)),
    ],
    ids=["a person", "CI", "without git", "CI that is told to run all", "a person who is in a hurry"],
)
def test_part_is_that_of_the_commit_where_ci_is_set(environ: dict[str, str], commit: str, expected: Sample) -> None:
    assert sample(environ, commit) == expected


@pytest.mark.parametrize(("quick", "number"), [("", 500), ("1", 50)], ids=["as usual", "quick"])
def test_fewer_examples_are_tried_in_a_hurry(quick: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSLIPWAY_QUICK", quick)

    assert examples(500) == number
