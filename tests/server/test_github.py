"""What GitHub Actions shows of a run: annotations on files and lines, and a summary of the job."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containers import call
from pgslipway.errors import Problem
from pgslipway.github import annotation, in_repository, summary
from pgslipway.outcome import Outcome

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database


def actions(folder: Folder) -> dict[str, str]:
    """The variables of a job whose checkout holds the folder of migrations."""
    checkout = folder.path.parent
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(checkout),
        "GITHUB_STEP_SUMMARY": str(checkout / "summary.md"),
    }


def commands(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("::")]


def test_failure_of_up_is_an_annotation_on_the_line(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "SELECT 1;\n\nSELECT 100 % totl FROM a;"})

    finished = slipway(env=database.environ | actions(folder), migrations=files)

    assert finished.code == 24, finished
    (line,) = commands(finished.err)
    assert line == (
        '::error file=migrations/002_b.sql,line=3,title=pgslipway%3A migration failed::column "totl" does not exist%0A'
        "  3 | SELECT 100 %25 totl FROM a;%0A    |              ^%0ASQLSTATE 42703%0A002_b.sql was rolled back"
    )
    assert (folder.path.parent / "summary.md").read_text() == (
        "### pgslipway: migration failed (exit code 24)\n\n"
        "| file | outcome |\n|---|---|\n| `001_a.sql` | applied |\n"
        '| `002_b.sql:3` | column "totl" does not exist |\n'
        '\n````\n002_b.sql:3: column "totl" does not exist\n  3 | SELECT 100 % totl FROM a;\n    |              ^\n'
        "SQLSTATE 42703\n002_b.sql was rolled back\napplied in this run and kept: 001_a.sql\n````\n\n"
    )


def test_every_problem_that_check_finds_is_an_annotation(folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "COMMIT;", "002_b.sql": "SELECT 1;\nVACUUM;\nROLLBACK;"})

    finished = slipway("check", env=actions(folder), migrations=files)

    places = [line.partition(",title=")[0] for line in commands(finished.err)]
    assert places == [
        "::error file=migrations/001_a.sql,line=1",
        "::error file=migrations/002_b.sql,line=2",
        "::error file=migrations/002_b.sql,line=3",
    ]


def test_success_is_added_to_the_summary_without_an_annotation(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    environ = database.environ | actions(folder)
    for _ in range(2):
        finished = slipway(env=environ, migrations=folder({"001_a.sql": ""}))

    assert commands(finished.err) == []
    assert (folder.path.parent / "summary.md").read_text() == (
        "### pgslipway: up to date\n\n| file | outcome |\n|---|---|\n| `001_a.sql` | applied |\n\n"
        "### pgslipway: up to date\n\n| file | outcome |\n|---|---|\n"
        "|  | up to date: nothing to do; the newest of 1 migration is 001\\_a.sql |\n\n"
    )


def test_nothing_of_it_shows_elsewhere(folder: Folder, slipway: Slipway) -> None:
    environ = actions(folder) | {"GITHUB_ACTIONS": ""}

    finished = slipway("check", env=environ, migrations=folder({"001_a.sql": "COMMIT;"}))

    assert finished.code == 21, finished
    assert commands(finished.err) == []
    assert not (folder.path.parent / "summary.md").exists()


def test_summary_that_cannot_be_written_is_no_failure(folder: Folder, slipway: Slipway) -> None:
    environ = actions(folder) | {"GITHUB_STEP_SUMMARY": str(folder.path)}

    finished = slipway("check", env=environ, migrations=folder({"001_a.sql": ""}))

    assert finished.code == 0, finished
    assert "the summary was not written there" in finished.err


def test_summary_is_not_waited_for(folder: Folder, slipway: Slipway) -> None:
    os.mkfifo(pipe := folder.path.parent / "pipe")
    environ = actions(folder) | {"GITHUB_STEP_SUMMARY": str(pipe)}

    finished = slipway("check", env=environ, migrations=folder({"001_a.sql": ""}))

    assert finished.code == 0, finished
    assert "the summary was not written there" in finished.err


def test_full_stderr_does_not_change_the_exit_code(folder: Folder) -> None:
    environ = actions(folder) | {"MIGRATE_DIR": str(folder({"001_a.sql": "COMMIT;"})), "PATH": os.environ["PATH"]}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pgslipway", "check"], env=environ, cwd=folder.path, stderr=full, check=False
        )

    assert done.returncode == 21
    assert "bad migration files" in (folder.path.parent / "summary.md").read_text()


@pytest.mark.needs_server
def test_rehearsed_folder_is_the_one_that_is_annotated(folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "SELECT nothing;"})

    finished = slipway("rehearse", str(files), env=actions(folder))

    assert finished.code == 24, finished
    assert commands(finished.err)[0].startswith("::error file=migrations/001_a.sql,line=1,")


@pytest.mark.docker_only
@pytest.mark.usefixtures("image")
def test_image_needs_not_be_told_of_the_checkout(folder: Folder) -> None:
    migrations = folder({"001_a.sql": "COMMIT;"})
    summary_file = folder.path.parent / "summary.md"
    summary_file.touch(0o644)
    mounts = [f"--volume={migrations}:/migrations:ro", f"--volume={summary_file}:{summary_file}"]
    given = ["--env=GITHUB_ACTIONS=true", f"--env=GITHUB_STEP_SUMMARY={summary_file}"]

    ended = call("docker", "run", "--rm", "--user=0", *given, *mounts, "pgslipway:dev", "check")

    assert ended.code == 21, ended
    assert commands(ended.err)[0].startswith("::error file=migrations/001_a.sql,line=1,")
    assert "bad migration files" in summary_file.read_text()


FOLDERS = {
    "in the checkout": ("/home/runner/app/db/migrations", "/home/runner/app", "db/migrations"),
    "of the image": ("/migrations", "/", "migrations"),
    "of the image, beside a checkout": ("/migrations", "/home/runner/app", "migrations"),
}


@pytest.mark.parametrize(("folder_", "workspace", "shown"), FOLDERS.values(), ids=FOLDERS)
def test_folder_is_seen_from_the_checkout(folder_: str, workspace: str, shown: str) -> None:
    assert in_repository(folder_, workspace) == shown


PROBLEMS = {
    "line": (Problem("no", "1_a.sql", 7), "1_a.sql:7: no", "file=m/1_a.sql,line=7,title=t::no"),
    "file": (Problem("not a name", "x.sql"), "x.sql: not a name", "file=m/x.sql,title=t::not a name"),
    "sentence": (
        Problem("was edited", "1_a.sql", joint=" "),
        "1_a.sql was edited",
        "file=m/1_a.sql,title=t::was edited",
    ),
    "none": (Problem("db:5432/shop: no 1_a.sql"), "db:5432/shop: no 1_a.sql", "title=t::db:5432/shop: no 1_a.sql"),
    "more": (
        Problem("a\n  1 | a", "1_a.sql", 1),
        "1_a.sql:1: a\n  1 | a",
        "file=m/1_a.sql,line=1,title=t::a%0A  1 | a",
    ),
    "blanks": (Problem("a", "1_a b.sql", 1), "1_a b.sql:1: a", "file=m/1_a b.sql,line=1,title=t::a"),
    "marks": (Problem("x:y,z", "1_a,b.sql"), "1_a,b.sql: x:y,z", "file=m/1_a%2Cb.sql,title=t::x:y,z"),
}


@pytest.mark.parametrize(("problem", "words", "command"), PROBLEMS.values(), ids=PROBLEMS)
def test_problem_is_the_same_in_words_and_as_an_annotation(problem: Problem, words: str, command: str) -> None:
    assert (str(problem), annotation(problem, "t", "m")) == (words, f"::error {command}")


def test_summary_of_many_files_is_bounded() -> None:
    outcome = Outcome(exit_code=0, result="up to date", message="m", applied=[f"{n}_a.sql" for n in range(10_000)])

    text = summary(outcome)

    assert len(text) < 10_000
    assert "| … | 9800 more |" in text
