"""The outcome of a run as one JSON object for the orchestrator."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__
from .errors import Problem
from .words import few, short

TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes reads a container's last words; written only if it exists."""
TERMINATION_BYTES = 4096
"""Kubernetes cuts longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    exit_code: int
    result: str
    """The exit code's name."""
    message: str
    problems: Sequence[Problem] = ()
    """Where the run failed, everything that is wrong, each with its place; `message` is all of it in words."""
    applied: Sequence[str] = ()
    """The filenames that this run applied, in order."""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The message and the files that the run applied, for a log."""
        return f"{self.message}\n{self.kept}" if self.exit_code and self.kept else self.message

    @property
    def kept(self) -> str:
        """The files that were applied before a failure and stay."""
        return f"applied in this run and kept: {few(self.applied)}" if self.applied else ""

    def to_json(self, limit: int = TERMINATION_BYTES) -> bytes:
        """Return the outcome as one JSON object of at most `limit` bytes; long parts are cut, and say so."""
        fields: dict[str, Any] = {
            "exit_code": self.exit_code,
            "result": self.result,
            "message": self.message,
            "applied": list(self.applied),
            "seconds": round(self.seconds, 3),
            "applied_count": len(self.applied),
            "pgslipway": __version__,
            "problems": [brief(problem) for problem in self.problems],
        }
        while len(encoded := json.dumps(fields, ensure_ascii=False).encode(errors="replace")) > limit:
            if long := next((name for name in ("applied", "problems") if fields[name]), None):
                fields[long] = fields[long][: len(fields[long]) // 2]
            else:
                fields["message"] = fields["message"][: len(fields["message"]) * 3 // 4] + " …"
        return encoded


def brief(problem: Problem) -> dict[str, str | int | None]:
    """Return a problem as JSON has it: the message has more of its text."""
    first, _, _ = problem.text.partition("\n")
    return {"file": problem.file or None, "line": problem.line or None, "text": short(first)}


def write_outcome(outcome: Outcome, path: Path | None) -> None:
    """Write the outcome to `path`, or to Kubernetes's default place if that exists; never fails."""
    if path is None and not TERMINATION_LOG.exists():
        return
    path = path or TERMINATION_LOG
    try:
        path.write_bytes(outcome.to_json())
    except OSError as error:
        logging.getLogger(__name__).warning("%s: %s; the outcome was not written there", path, error.strerror)
