"""README.md and docs/ as tests read them: fenced blocks, and what in them differs from run to run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from containers import ROOT

PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
FENCE = re.compile(r"```(\w*)")
NOTE = re.compile(r"<!-- (.+) -->")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `note` is the HTML comment in the line above it."""

    page: str
    line: int
    language: str
    note: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = PAGES[page].read_text().splitlines()
    number = 0
    while number < len(lines):
        if opened := FENCE.fullmatch(lines[number]):
            end = lines.index("```", number + 1)
            note = NOTE.fullmatch(lines[number - 1]) if number else None
            text = "".join(f"{line}\n" for line in lines[number + 1 : end])
            found.append(Block(page, number + 1, opened[1], note[1] if note else "", text))
            number = end
        number += 1
    return found


MASKS = (
    (r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ])[0-9:.]+(Z|\+00(:00)?)", "DATE"),
    (r"\b[0-9]{2}:[0-9]{2}:[0-9]{2}\b", "TIME"),
    (r"\bpid [0-9]+", "pid PID"),
    (r"(?<![0-9.])[0-9]+(\.[0-9]+)? (ms|s|m|h)\b", "SECONDS"),
    (r'"seconds": [0-9.]+', '"seconds": SECONDS'),
    (r"\b[0-9]{1,3}(\.[0-9]{1,3}){3}\b", "ADDRESS"),
)  # fmt: skip
"""What differs from run to run. `…` in a page stands for anything within a line, and alone in it for any lines."""


def masked(text: str) -> str:
    for pattern, mask in MASKS:
        text = re.sub(pattern, mask, text)
    return text


def matches(shown: str, real: str) -> bool:
    """Whether a page shows what really was printed."""
    any_lines = r"(?:.*\n)*"
    lines = [
        any_lines if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in masked(shown).splitlines()
    ]
    return re.fullmatch("".join(lines), masked(real).rstrip("\n") + "\n") is not None
