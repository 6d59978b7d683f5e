"""The tables of docs/benchmarks.md and of the README, in Markdown."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from bench.goals import Goal, goals
from bench.ours import NAME
from bench.results import CONTAINER, DISTANCES, FLOORS, ONE_SESSION, PER_FILE, Results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NONE = "-"
"""In place of what was not measured."""
FULL = 10
"""Runs; where there are fewer, the table says how many."""


def duration(seconds: float) -> str:
    """Return seconds with their unit, in three digits."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def cell(samples: dict[str, Any] | None) -> str:
    """Return the median, the spread and, where they are fewer than ten, the number of runs."""
    if samples is None or not (samples["seconds"] or samples["problem"]):
        return NONE
    seconds = samples["seconds"]
    if not seconds:
        return "fails"
    spread = f" ({duration(min(seconds))} to {duration(max(seconds))})" if len(seconds) > 1 else ""
    number = "" if len(seconds) >= FULL else f", {len(seconds)} {'run' if len(seconds) == 1 else 'runs'}"
    return f"{duration(statistics.median(seconds))}{spread}{number}"


def against(medians: dict[str, float], name: str, other: str) -> str:
    """Return a tool's median as a multiple of another's."""
    return f"{medians[name] / medians[other]:.2f}" if {name, other} <= medians.keys() else NONE


def against_fastest(medians: dict[str, float], name: str) -> str:
    """Return a tool's median as a multiple of the fastest tool's, which may be us; the floor is no tool."""
    tools = [other for other in medians if other not in FLOORS]
    return against(medians, name, min(tools, key=lambda other: medians[other])) if tools else NONE


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "---:") -> str:
    """Return a table in Markdown; ours is in bold type."""
    lines = [f"| {' | '.join(head)} |", f"|---{f'|{align}' * (len(head) - 1)}|"]
    for name, *values in rows:
        lines.append(f"| {f'**{name}**' if name == NAME else name} | {' | '.join(values)} |")
    return "\n".join(lines)


def plain(results: Results, head: Sequence[str], *columns: Callable[[str], str], align: str = "---:") -> str:
    """Return a table with a column for each function of a tool's name, of the tools for which there is something."""
    rows = [[name, *(column(name) for column in columns)] for name in results.order()]
    measured = [row for row in rows if set(row[1:]) != {NONE}]
    return table(head, measured, align) if measured else "Not measured yet."


def work(results: Results, what: str, files: int | str) -> str:
    """Return a work by distance, with the ratios at none, the round trips, and below it why some failed."""
    cells = {distance: results.samples(what, files, distance) for distance in DISTANCES}
    medians = results.medians(what, files)
    head = ["tool", "+0 ms", "of ours", "of the fastest", *(f"+{ms} ms" for ms in DISTANCES[1:]), "round trips"]
    made = plain(
        results, head,
        lambda name: cell(cells[0].get(name)),
        lambda name: against(medians, name, NAME),
        lambda name: against_fastest(medians, name),
        *(lambda name, ms=ms: cell(cells[ms].get(name)) for ms in DISTANCES[1:]),
        lambda name: str((cells[1].get(name) or {}).get("round_trips") or NONE),
    )  # fmt: skip
    return made + failures(results, cells)


def failures(results: Results, cells: dict[int, dict[str, dict[str, Any]]]) -> str:
    """Return a table of who failed where, with what it said."""
    said: dict[tuple[str, str], list[str]] = {}
    for distance, samples in cells.items():
        for name in results.order():
            if problem := samples.get(name, {}).get("problem"):
                said.setdefault((name, plain_text(problem)), []).append(f"+{distance}")
    rows = [[name, f"{', '.join(where)} ms", problem] for (name, problem), where in said.items()]
    return "\n\n" + table(["tool", "fails at", "and says"], rows, "---") if rows else ""


def plain_text(said: str) -> str:
    """Return what a tool said so that Markdown shows it as it is, in a table as well."""
    return f"`{said.replace('`', chr(39)).replace('|', '/')}`"


def floors(results: Results) -> str:
    """Return 1,000 files as multiples of the two ways of psql, by distance."""
    medians = {distance: results.medians("apply", 1000, distance) for distance in DISTANCES}
    pairs = [(floor, distance) for floor in (PER_FILE, ONE_SESSION) for distance in DISTANCES]
    return plain(
        results, ["tool", *(f"of {floor}, +{distance} ms" for floor, distance in pairs)],
        *(lambda name, floor=floor, ms=ms: against(medians[ms], name, floor) for floor, ms in pairs),
    )  # fmt: skip


def tools(results: Results) -> str:
    """Return what is to be known of each tool, and of those that there are not."""
    keys = ("version", "lock", "transaction", "waits", "note")
    head = ["tool", "version", "lock", "a transaction spans", "waits for Postgres", "note"]
    columns = [lambda name, key=key: results.tools[name][key] or NONE for key in keys]
    made = plain(results, head, *columns, align="---")
    absent = "\n".join(f"- {name}: {plain_text(reason)}" for name, reason in results.data["missing"].items())
    return f"{made}\n\n" + (f"These could not be had:\n\n{absent}" if absent else "All of them could be had.")


def megabytes(results: Results, name: str, digits: int = 1) -> str:
    """Return the compressed size of a tool's image."""
    sizes = results.part("image_bytes")
    return f"{sizes[name] / 1e6:.{digits}f} MB" if name in sizes else NONE


def containers(results: Results) -> str:
    """Return how long doing nothing takes as a container, and how large the image is."""
    one, thousand = (results.samples(CONTAINER, files) for files in (1, 1000))
    medians = results.medians(CONTAINER, 1)
    return plain(
        results, ["tool", "1 file", "of ours", "of the fastest", "1,000 files", "image, compressed"],
        lambda name: cell(one.get(name)), lambda name: against(medians, name, NAME),
        lambda name: against_fastest(medians, name), lambda name: cell(thousand.get(name)),
        lambda name: megabytes(results, name),
    )  # fmt: skip


def memory(results: Results) -> str:
    """Return the peak memory."""
    kib = results.part("kibibytes")

    def column(what: str) -> Callable[[str], str]:
        return lambda name: f"{kib[name][what] / 1024:.1f} MiB" if name in kib else NONE

    return plain(results, ["tool", "nothing to do", "1,000 files applied"], column("nothing"), column("apply"))


def replicas(results: Results) -> str:
    """Return what became of fifty runners at once, and below it what those that failed said."""
    found = results.part("replicas")
    names = [name for name in results.order() if found.get(name)]
    rows = [[name, *replicas_row(found[name])] for name in names]
    said = {name: next((run["failure"] for run in found[name] if run["failure"]), "") for name in names}
    first = [[name, plain_text(failure)] for name, failure in said.items() if failure]
    made = table(["tool", "until the last is done", "runners that failed", "wrong afterwards"], rows)
    return made + ("\n\n" + table(["tool", "its first failure"], first, "---") if first else "")


def replicas_row(runs: list[dict[str, Any]]) -> list[str]:
    """Return the seconds, the failures and what was wrong."""
    fewest, most = min(run["failed"] for run in runs), max(run["failed"] for run in runs)
    wrong = sorted({run["wrong"] for run in runs if run["wrong"]})
    return [
        cell({"seconds": [run["seconds"] for run in runs], "problem": ""}),
        (f"{fewest} of 50" if fewest == most else f"{fewest} to {most} of 50") if most else "none",
        "; ".join(wrong) or "nothing",
    ]  # fmt: skip


def growth(results: Results) -> str:
    """Return how time grows with the number of files."""
    columns = [(what, files) for what in ("apply", "nothing") for files in (10, 100, 1000, 10_000)]
    medians = {column: results.medians(*column) for column in columns}
    return plain(
        results, ["tool", *(f"{what} {files:,}" for what, files in columns)],
        *(
            lambda name, column=column: duration(medians[column][name]) if name in medians[column] else NONE
            for column in columns
        ),
    )  # fmt: skip


def readiness(results: Results) -> str:
    """Return how long after the server's first answer each is done."""
    samples = results.part("readiness")
    waits = {name: "by itself" if tool["waits"] == "by itself" else "by a loop" for name, tool in results.tools.items()}
    return plain(
        results, ["tool", "done after", "waits"], lambda name: cell(samples.get(name)),
        lambda name: waits[name] if name in samples else NONE,
    )  # fmt: skip


def aims(results: Results) -> str:
    """Return each goal with what was measured."""
    return of_goals(goals(results))


def of_goals(aimed: Sequence[Goal]) -> str:
    """Return goals with what they came to."""
    rows = [[goal.name, shown(goal.ours, goal), limit(goal), goal.verdict] for goal in aimed]
    return table(["goal", "ours", "limit", "result"], rows)


def limit(goal: Goal) -> str:
    """Return a goal's limit and whose it is."""
    return shown(goal.limit, goal) + (f" ({goal.of})" if goal.of and goal.limit is not None else "")


def shown(value: float | None, goal: Goal) -> str:
    """Return a value in a goal's unit."""
    if value is None:
        return NONE
    if not goal.unit:
        return f"{value:g}"
    return duration(value) if goal.unit == "s" else f"{value:.1f} {goal.unit}"


def summary(results: Results) -> str:
    """Return the README's table: medians of what a deployment waits for."""
    columns = [
        results.medians("nothing", 1), results.medians("nothing", 1, 5), results.medians("apply", 1000),
        results.medians("apply", 1000, 5), results.lags(),
    ]  # fmt: skip
    head = ["tool", "nothing to do", "… at 5 ms", "1,000 files", "… at 5 ms", "lag after a wait", "image"]
    return plain(
        results, head,
        *(lambda name, column=column: duration(column[name]) if name in column else NONE for column in columns),
        lambda name: megabytes(results, name, 0),
    )  # fmt: skip
