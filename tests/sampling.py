"""How much of the long suites is run: of a sweep all, or in CI every n-th, beginning where the commit says."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from containers import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

IN_CI = 16
"""So that CI is done in time; over a few commits it has run them all."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Every n-th case, of which the first is number `first`, counted from 0."""

    every: int
    first: int

    def of(self, cases: Sequence[T]) -> list[T]:
        return list(cases[self.first :: self.every])

    def __str__(self) -> str:
        if self.every == 1:
            return "all"
        return f"one in {self.every}, from the one with index {self.first} on (PGSLIPWAY_FAULTS_EVERY=1: all)"


def sample(environ: Mapping[str, str], commit: str) -> Sample:
    """Every n-th with n from PGSLIPWAY_FAULTS_EVERY, else all or, where CI is set, as fits; `commit` may be empty."""
    every = int(environ.get("PGSLIPWAY_FAULTS_EVERY") or (IN_CI if environ.get("CI") else 1))
    return Sample(every, int(commit[:8] or "0", 16) % every)


@cache
def commit() -> str:
    """The commit that is checked out; without git all commits are one."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return head.stdout.strip() if head.returncode == 0 else ""


@cache
def sample_of_this_run() -> Sample:
    """By the environment and the commit."""
    return sample(os.environ, commit())


def one_in_ci(cases: Sequence[T]) -> list[T]:
    """All cases, or the one whose turn it is with this commit, where sweeps are sampled."""
    if sample_of_this_run().every == 1:
        return [*cases]
    return [cases[int(commit()[:8] or "0", 16) % len(cases)]]


def examples(number: int) -> int:
    """With how many examples hypothesis tries a property; a tenth of them where PGSLIPWAY_QUICK is set."""
    return number // 10 if os.environ.get("PGSLIPWAY_QUICK") else number
