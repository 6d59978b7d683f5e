"""GitHub Actions: a failure as annotations on files and lines, and every outcome in the summary of the job.

Both forms: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

import os
import sys

from .words import short, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .config import Config
    from .errors import Problem
    from .lines import Log
    from .outcome import Outcome

MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|<>*_`[]"})
"""The characters that Markdown takes for itself, with a backslash before them."""
MOST_ROWS = 200
MOST_TEXT = 100_000
"""Characters of the message that are shown below the table; GitHub drops a summary of more than 1 MiB as a whole."""


def report(outcome: "Outcome", config: "Config", log: "Log") -> None:
    """Write annotations to stderr, which the runner reads too, and the summary; never fails, does nothing elsewhere."""
    if config.github_workspace is None:
        return
    if path := config.github_step_summary:
        try:
            with open(path, "a", encoding="utf-8", errors="replace", opener=without_waiting) as file:
                file.write(summary(outcome))
        except OSError as error:
            log("warning", f"{path}: {error.strerror}; the summary was not written there", {})
    if outcome.exit_code:
        try:
            folder = in_repository(config.dir, config.github_workspace)
            for problem in outcome.problems:
                print(annotation(problem, f"pgslipway: {outcome.result}", folder), file=sys.stderr)  # noqa: T201
        except OSError:  # stderr may be closed or full, and the folder that we are in gone
            return


def without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody reads is an error then, and not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def in_repository(folder: str, workspace: str) -> str:
    """Return `folder` as seen from the checkout; the image's /migrations is taken for migrations/ there."""
    folder, workspace = os.path.realpath(folder), os.path.realpath(workspace)
    return os.path.relpath(folder, workspace if os.path.commonpath([folder, workspace]) == workspace else "/")


def annotation(problem: "Problem", title: str, folder: str, level: str = "error") -> str:
    """Return the workflow command that annotates a place; the level is error, warning or notice."""
    where = {"file": f"{folder}/{problem.file}" if problem.file else "", "line": problem.line, "title": title}
    properties = ",".join(f"{name}={escape_property(str(value))}" for name, value in where.items() if value)
    return f"::{level} {properties}::{escape(told(problem))}"


def told(problem: "Problem") -> str:
    """Return the text of a problem, and the target that it is about, of many."""
    return f"{problem.target}: {problem.text}" if problem.target else problem.text


def escape(text: str) -> str:
    """Return text as a workflow command may hold it."""
    return visible(text).replace("%", "%25").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Return text as a property of a workflow command may hold it."""
    return escape(text).replace(":", "%3A").replace(",", "%2C")


def summary(outcome: "Outcome") -> str:
    """Return the outcome in Markdown: a row for each file that was applied or has a problem."""
    rows = [(filename, "applied") for filename in outcome.applied]
    if outcome.exit_code:
        rows += [(problem.place, told(problem).partition("\n")[0]) for problem in outcome.problems]
    rows = rows or [("", outcome.message)]
    table = [f"| {code(place)} | {cell(what)} |\n" for place, what in rows[-MOST_ROWS:]]
    heading = f"### pgslipway: {outcome.result}" + (f" (exit code {outcome.exit_code})" if outcome.exit_code else "")
    left_out = f"| … | {len(rows) - MOST_ROWS} more |\n" if len(rows) > MOST_ROWS else ""
    details = f"\n````\n{outcome.text[:MOST_TEXT]}\n````\n" if outcome.exit_code else ""
    return f"{heading}\n\n| file | outcome |\n|---|---|\n{left_out}{''.join(table)}{details}\n"


def code(text: str) -> str:
    """Return text as a cell of a table that shows it as it is."""
    return f"`{text.replace('|', '&#124;')}`" if text else ""


def cell(text: str) -> str:
    """Return text as a cell of a table may hold it."""
    return short(text).translate(MARKDOWN)
