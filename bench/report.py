"""`python -m bench.report`: makes the tables and plots of docs/benchmarks.md, and the README's, of results.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench import tables, target_tables
from bench.peer import BENCH
from bench.results import APPLY, NOTHING, TARGETS, TLS, Results
from bench.tenants import DATABASE, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DOCS = BENCH.parent / "docs"
PAGE = DOCS / "benchmarks.md"
README = BENCH.parent / "README.md"
END = "<!-- end -->"


def fill(path: Path, parts: dict[str, str]) -> None:
    """Replace what stands between the markers of each part."""
    text = path.read_text()
    for name, part in parts.items():
        begin = f"<!-- bench: {name} -->\n"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(END)
        if not (found and ended):
            raise SystemExit(f"{path}: no markers for {name}")
        text = f"{before}{begin}\n{part}\n\n{END}{after}"
    path.write_text(text)


def where_and_when(data: Mapping[str, Any]) -> str:
    """Say what it was measured on."""
    machine = data["machine"]
    return (
        f"Measured on {data['date']}: {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB,\n"
        f"{machine['system']}, shared with others; PostgreSQL {data['postgres']} with its defaults,\n"
        f"where a commit takes {data['commit_ms']:.2f} ms."
    )


def page(results: Results) -> dict[str, str]:
    """Return what goes between the markers of docs/benchmarks.md."""
    return {
        "where": where_and_when(results.data),
        "goals": tables.aims(results),
        "tools": tables.tools(results),
        **{f"nothing-{files}": tables.work(results, NOTHING, files) for files in (1, 1000)},
        "nothing-tls": tables.work(results, TLS, 1),
        **{f"apply-{files}": tables.work(results, APPLY, files) for files in (10, 100, 1000, "concourse")},
        "floors": tables.floors(results),
        "containers": tables.containers(results),
        "readiness": tables.readiness(results),
        "replicas": tables.replicas(results),
        "memory": tables.memory(results),
        "growth": tables.growth(results),
        **targets(results),
    }


def targets(results: Results) -> dict[str, str]:
    """Return the parts of many tenants, which may have been measured on another day."""
    about = results.part(TARGETS).get("about")
    return {
        "targets-where": where_and_when(about) if about else target_tables.NOT_YET,
        "targets-versions": target_tables.versions(results),
        "targets-goals": target_tables.aims(results),
        **{
            f"targets-{work}-{kind}": target_tables.by_number(results, kind, work)
            for work in (NOTHING, APPLY)
            for kind in (SCHEMA, DATABASE)
        },
        "targets-grown": target_tables.grown(results),
    }


def main() -> None:
    """Write everything that is made of the results."""
    # They import matplotlib, which nothing else here needs.
    from bench.plots import plots
    from bench.target_plots import target_plots

    results = Results(json.loads((BENCH / "results.json").read_text()))
    plots(results, DOCS)
    target_plots(results, DOCS)
    fill(PAGE, page(results))
    fill(README, {"where": where_and_when(results.data), "summary": tables.summary(results)})


if __name__ == "__main__":
    main()
