"""The outcome of a run as one JSON object for the orchestrator."""

from . import __version__
from .lines import to_json
from .words import few, short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from .errors import Problem

TERMINATION_BYTES = 4096
"""Kubernetes cuts longer ones."""


class Outcome:
    """How a run ended."""

    __slots__ = ("applied", "exit_code", "message", "problems", "result", "seconds", "targets")

    def __init__(
        self,
        *,
        exit_code: int,
        result: str,
        message: str,
        problems: "Sequence[Problem]" = (),
        applied: "Sequence[str]" = (),
        seconds: float = 0.0,
        targets: "Mapping[str, Any] | None" = None,
    ) -> None:
        self.exit_code = exit_code
        self.result = result
        """The exit code's name."""
        self.message = message
        self.problems = problems
        """Where the run failed, everything that is wrong, each with its place; `message` is all of it in words."""
        self.applied = applied
        """The filenames that this run applied, in order."""
        self.seconds = seconds
        self.targets = targets
        """Of a run over many: how many targets ended in which way, and the names of those that failed."""

    @property
    def text(self) -> str:
        """The message and the files that the run applied, for a log."""
        return f"{self.message}\n{self.kept}" if self.exit_code and self.kept else self.message

    @property
    def kept(self) -> str:
        """The files that were applied before a failure and stay."""
        is_told = self.applied and not self.targets  # of many targets, each has its own
        return f"applied in this run and kept: {few(self.applied)}" if is_told else ""

    def to_json(self, limit: int = TERMINATION_BYTES) -> bytes:
        """Return the outcome as one JSON object of at most `limit` bytes; long parts are cut, and say so."""
        fields: dict[str, Any] = {
            "exit_code": self.exit_code,
            "result": self.result,
            **({"targets": self.targets} if self.targets else {}),
            "message": self.message,
            "applied": list(self.applied),
            "seconds": round(self.seconds, 3),
            "applied_count": len(self.applied),
            "pgslipway": __version__,
            "problems": [brief(problem) for problem in self.problems],
        }
        while len(encoded := to_json(fields).encode(errors="replace")) > limit:
            if long := next((name for name in ("applied", "problems") if fields[name]), None):
                fields[long] = fields[long][: len(fields[long]) // 2]
            elif (targets := fields.get("targets")) and targets["failures"]:
                fields["targets"] = {**targets, "failures": targets["failures"][: len(targets["failures"]) // 2]}
            else:
                fields["message"] = fields["message"][: len(fields["message"]) * 3 // 4] + " …"
        return encoded


def brief(problem: "Problem") -> dict[str, str | int | None]:
    """Return a problem as JSON has it: the message has more of its text."""
    first, _, _ = problem.text.partition("\n")
    target = {"target": problem.target} if problem.target else {}
    return {**target, "file": problem.file or None, "line": problem.line or None, "text": short(first)}
