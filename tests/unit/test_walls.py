"""The walls of the house: which module may import which, and what the rooms that every start loads may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgslipway

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUSE = Path(pgslipway.__file__).parent
MODULES = {
    ".".join(path.relative_to(HOUSE).with_suffix("").parts): ast.parse(path.read_text()) for path in HOUSE.rglob("*.py")
}
FLOORS = [["__main__", "__init__"], ["program", "glance"], ["targets"], ["cli"], ["up", "wait", "pool"], ["engine"]]
"""From the top; all other modules are the base. An import goes to the same floor or to a lower one."""
LAZY = {
    ("__main__", "glance"), ("__main__", "program"),
    ("glance", "errors"), ("glance", "files"), ("glance", "question"), ("wire", "scram"),
    ("program", "cli.arguments"), ("program", "cli.commands"), ("program", "targets.commands"),
    ("targets.commands", "targets.typed"), ("targets.each", "engine.tools"),
    ("up", "engine.adopt"), ("up", "engine.apply"), ("up", "engine.lock"), ("up", "engine.plan"),
    ("up", "engine.preflight"), ("up", "engine.repeatable"), ("up", "engine.sending"), ("up", "engine.their_lock"),
    ("wait", "engine.adopt"), ("wait", "engine.plan"), ("wait", "engine.repeatable"), ("wait", "engine.their_lock"),
    ("files", "layouts.__init__"), ("files", "layouts.parts"), ("files", "reading"), ("migrations", "layouts.versions"),
    ("layouts.__init__", "layouts.flyway"), ("layouts.__init__", "layouts.nested"),
    ("layouts.__init__", "layouts.numbered"),
    ("cli.rehearse", "cli.rehearsal.course"),
    ("program", "wait"), ("report", "github"), ("connect", "create"), ("connect", "retry"),
    ("libpq", "passfile"), ("libpq", "parameters"),
    ("__init__", "targets.api"),
    ("__init__", "config"), ("__init__", "errors"), ("__init__", "pool"), ("__init__", "run"),
}  # fmt: skip
"""The only imports inside of functions: the edges that keep a start with nothing to do cheap."""
SHARED = [
    "config", "errors", "files", "github", "line", "lines", "libpq", "outcome", "parameters", "passfile", "question",
    "layouts.__init__", "layouts.entries", "layouts.flyway", "layouts.nested", "layouts.numbered", "layouts.parts",
    "layouts.versions", "quote", "reading", "report", "scram", "settings", "signals", "system", "wire", "words",
]  # fmt: skip
"""The rooms that a look without the driver shares with the program, and its own."""
HEAVY = {"asyncio", "asyncpg", "dataclasses", "enum", "logging", "os", "pathlib", "re", "ssl", "typing", "urllib"}
LONGEST = 280


def floor(module: str) -> int:
    """The floor of a module, the base being 0."""
    for height, names in enumerate(reversed(FLOORS), 1):
        if module in names or module.split(".", maxsplit=1)[0] in names:
            return height
    return 0


def imported(module: str, node: ast.ImportFrom) -> Iterator[str]:
    """The modules of ours that a relative import names."""
    package = module.split(".")[: -node.level]
    base = [*package, *(node.module.split(".") if node.module else [])]
    for alias in node.names:
        for parts in ([*base, alias.name], base):
            name = ".".join(parts)
            if found := next((one for one in (name, f"{name}.__init__") if one in MODULES), None):
                yield found
                break


def edges(*, inside_functions: bool) -> set[tuple[str, str]]:
    """(importing, imported), of the imports at the top of modules or of those inside of functions."""
    found = set()
    for module, tree in MODULES.items():
        inner = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level and (id(node) in inner) == inside_functions:
                found |= {(module, name) for name in imported(module, node)}
    return found


EDGES = edges(inside_functions=False) | edges(inside_functions=True)


def test_imports_point_down() -> None:
    assert [(one, other) for one, other in sorted(EDGES) if floor(one) < floor(other)] == []


def test_nothing_imports_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for one, other in EDGES:
        graph.setdefault(one, set()).add(other)

    assert len(list(TopologicalSorter(graph).static_order())) > len(SHARED)  # raises CycleError


def test_imports_inside_of_functions_are_these() -> None:
    assert edges(inside_functions=True) == LAZY


def test_every_module_is_looked_at() -> None:
    assert {"up", "engine.transaction", "cli.commands"} <= {one for one, _ in EDGES}
    assert {one for one in MODULES if floor(one) == 0} > set(SHARED)


@pytest.mark.parametrize("module", SHARED)
def test_shared_room_loads_nothing_heavy(module: str) -> None:
    script = f"import sys; sys.path.append({str(HOUSE.parent)!r}); import pgslipway.{module}; print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)

    may = {"os"} if module == "github" else set()  # which looks for the folder of a checkout
    assert (HEAVY - may) & {name.split(".")[0] for name in loaded.stdout.split()} == set()


def test_no_module_is_long() -> None:
    lines = {module: len((HOUSE / f"{module.replace('.', '/')}.py").read_text().splitlines()) for module in MODULES}

    assert {module: count for module, count in lines.items() if count > LONGEST} == {}
