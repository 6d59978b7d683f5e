"""How many targets ended in which way, and what that means for the whole run."""

from collections.abc import Iterator
from typing import Any

from ..errors import INTERNAL_ERROR, Problem, SlipwayError, Stopped, TargetsToMend, TargetsToRetry
from ..lines import to_json
from ..words import count, few

FIRST_OF_A_PERSON = 20
"""The first exit code that needs a person."""
MOST_TOLD = 10
"""Failures that are told once more at the end; each was logged when it happened."""
MOST_NAMES = 700
"""Bytes of the names in the outcome, whose other parts have to fit into the same 4 KiB."""
KINDS = {kind.exit_code: kind for kind in SlipwayError.__subclasses__() if kind is not Stopped}
"""The failure of each exit code."""


class Failure:
    """Why one target failed: no more than a message needs, since there may be thousands."""

    __slots__ = ("exit_code", "problem", "result", "target")

    def __init__(self, target: str, error: Exception) -> None:
        self.target = target
        self.exit_code = getattr(error, "exit_code", INTERNAL_ERROR)
        self.result = getattr(error, "result", "internal error")
        first = error.problems[0] if isinstance(error, SlipwayError) else Problem(repr(error))
        self.problem = Problem(first.text, first.file, first.line, joint=first.joint)
        self.problem.target = target


class Tally:
    """The count of a run over many; `report` has it for the outcome at any moment, a signal's too."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.total = self.up_to_date = self.migrated = self.stopped = 0
        self.at_work = 0
        self.applied = 0
        """How many files were applied, in all targets."""
        self.failures: list[Failure] = []
        self.bug: Exception | None = None
        """The first failure that nobody has foreseen."""

    @property
    def done(self) -> int:
        """How many targets have ended, in whichever way."""
        return self.up_to_date + self.migrated + self.stopped + len(self.failures)

    def reset(self) -> None:
        """Begin to count anew, but for the files that were applied."""
        self.total = self.up_to_date = self.migrated = 0

    def begin(self, total: int) -> None:
        """Note how many targets there are."""
        self.total = total
        self.tell()

    def succeed(self, number: int = 1, *, changed: bool = False) -> None:
        """Count targets that have everything now, and whether that took anything."""
        if changed:
            self.migrated += number
        else:
            self.up_to_date += number
        self.tell()

    def fail(self, target: str, error: Exception) -> None:
        """Count a target that failed."""
        if not isinstance(error, SlipwayError):
            self.bug = self.bug or error
        self.failures.append(Failure(target, error))
        self.tell()

    def stop(self) -> None:
        """Count a target that was cancelled."""
        self.stopped += 1
        self.tell()

    def apply(self) -> None:
        """Count a file that was applied."""
        self.applied += 1
        self.tell()

    def start(self) -> None:
        """Note that one more target is worked on: it counts as stopped where the run ends without waiting for it."""
        self.at_work += 1
        self.tell()

    def leave(self) -> None:
        """Note that the work on a target has ended, in whichever way."""
        self.at_work -= 1
        self.tell()

    def tell(self) -> None:
        """Bring the report up to now."""
        self.report.update(
            total=self.total,
            up_to_date=self.up_to_date,
            migrated=self.migrated,
            failed=len(self.failures),
            stopped=self.stopped + self.at_work,
            not_begun=self.total - self.done - self.at_work,
            applied=self.applied,
            failures=self.names,
        )

    @property
    def names(self) -> list[str]:
        """The names of the targets that failed, as many as the outcome has place for."""
        length, names = 0, []
        for failure in self.failures:
            if (length := length + len(to_json(failure.target).encode()) + 2) > MOST_NAMES:
                break
            names.append(failure.target)
        return names

    def result(self) -> str:
        """Return the last line of a run without a failure. Raises the failure that stands for all of them."""
        if not self.failures:
            if self.done != self.total:
                raise RuntimeError(f"{self.total - self.done} targets were left out")
            return f"{count(self.total, 'target')}: {', '.join(self.counted())}"
        is_bug = self.bug and all(failure.exit_code == INTERNAL_ERROR for failure in self.failures)
        raise self.bug if self.bug and is_bug else self.verdict()

    def verdict(self) -> SlipwayError:
        """Return the failure that stands for all: of their kind where they agree, else by whether all can heal."""
        codes = {failure.exit_code for failure in self.failures}
        kind: type[SlipwayError] = TargetsToMend if max(codes) >= FIRST_OF_A_PERSON else TargetsToRetry
        if len(codes) == 1:
            kind = KINDS[min(codes)]
        return kind(*self.problems())

    def problems(self) -> Iterator[Problem]:
        """Yield what came of all targets in one problem, then the different ones of targets that failed."""
        by_kind: dict[str, list[str]] = {}
        for failure in self.failures:
            by_kind.setdefault(f"{failure.exit_code} {failure.result}", []).append(failure.target)
        ends = "; ".join(f"{kind}: {few(names)}" for kind, names in by_kind.items())
        number = f"{len(self.failures)} of {count(self.total, 'target')}"
        yield Problem(f"{number} failed ({ends}); {', '.join(self.counted())}")
        different = {str(failure.problem).removeprefix(failure.target): failure for failure in reversed(self.failures)}
        yield from (failure.problem for failure in [*reversed(different.values())][:MOST_TOLD])

    def counted(self) -> list[str]:
        """Return how many targets ended without a failure, and how many were not begun."""
        ends = [f"{self.migrated} migrated ({count(self.applied, 'file')})"] if self.migrated else []
        ends += [f"{self.up_to_date} up to date"] if self.up_to_date or not ends else []
        ends += [f"{self.stopped} stopped"] if self.stopped else []
        left = self.total - self.done
        return [*ends, f"{left} not begun"] if left else ends
