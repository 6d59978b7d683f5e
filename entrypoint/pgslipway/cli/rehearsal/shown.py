"""The statements of a rehearsal and what they lock, as a table, as JSON and as annotations on GitHub."""

import json
import sys
from collections.abc import Sequence

from ... import github
from ...config import Config
from ...words import few, visible
from ..rows import aligned
from .blocking import Finding
from .effects import Effect, Observed

HEADER = ("PLACE", "STATEMENT", "TABLES", "LOCK", "BLOCKS", "DOES", "VERDICT")
WIDEST = 38
"""Characters of a statement in the table."""
NOT_SEEN = "not seen"


def to_table(observed: Sequence[Observed], found: Sequence[Finding]) -> str:
    """Return a row for each statement that touches a table which was there before its file, and kind of touch."""
    verdicts = {finding.statement: finding.verdict for finding in found}
    cells = [HEADER]
    for one in observed:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for effect in one.effects:
            groups.setdefault(
                (effect.lock_name if effect.is_new else f"({effect.lock_name})", effect.blocks, deed(one, effect)), []
            ).append(effect.relation.name)
        if not one.is_seen:
            groups = {("?", "?", NOT_SEEN): ["?"]}
        for number, ((lock, blocks, does), tables) in enumerate(groups.items()):
            first = ("", "") if number else (f"{one.file}:{one.line}", shortened(one.text))
            verdict = "" if number else verdicts.get(one, "")
            cells.append((*first, few(tables, 3), lock, blocks or "-", does, verdict))
    return visible("\n".join(aligned(cells)))


def deed(one: Observed, effect: Effect) -> str:
    """Say what a statement does to a table, in a word or two."""
    if effect.rewrites:
        return "truncates" if one.truncates else "rewrites"
    return "reads all" if effect.reads else "catalog" if effect.blocks else "-"


def shortened(text: str) -> str:
    """Return the beginning of a statement."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def to_json(observed: Sequence[Observed], found: Sequence[Finding]) -> str:
    """Return a JSON array with an object for each statement."""
    findings = {finding.statement: finding for finding in found}
    return json.dumps(
        [
            {
                "file": one.file,
                "line": one.line,
                "statement": one.text,
                "seen": one.is_seen,
                "verdict": findings[one].verdict if one in findings else "",
                "section": findings[one].section if one in findings else None,
                "while_lines": [work.line for work in findings[one].work] if one in findings else [],
                "tables": [
                    {
                        "table": effect.relation.name,
                        "lock": effect.lock_name,
                        "blocks": effect.blocks,
                        "is_new": effect.is_new,
                        "reads": effect.reads,
                        "rewrites": effect.rewrites,
                    }
                    for effect in one.effects
                ],
            }
            for one in observed
        ],
        indent=2,
    )


def annotate(found: Sequence[Finding], config: Config) -> None:
    """Write a warning on the line of each finding, where GitHub reads it."""
    if config.github_workspace is None:
        return
    folder = github.in_repository(config.dir, config.github_workspace)
    for finding in found:
        print(github.annotation(finding.problem, "pgslipway: blocking", folder, "warning"), file=sys.stderr)  # noqa: T201
