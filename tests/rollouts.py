"""Rollouts: pods of two or three releases that start in any order, each with a text of the same repeatable file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import product

from pgslipway.engine.repeatable import PENDING, Text, is_before, last_of, state_of
from pgslipway.migrations import Repeatable

FILE = "R__which.sql"


@dataclass(frozen=True)
class Release:
    """An image: the newest of its versions, and its text of the file."""

    newest: int
    text: str

    @property
    def file(self) -> Repeatable:
        return Repeatable(version=self.newest, filename=FILE, checksum=self.text, path="")


@dataclass(frozen=True)
class Rollout:
    """Releases from the oldest to the newest, and the order in which their pods start."""

    releases: tuple[Release, ...]
    before: int
    """How many of them, the oldest first, were rolled out one after the other before that."""
    starts: tuple[int, ...]

    @property
    def order(self) -> list[Release]:
        """Every start."""
        return [self.releases[number] for number in (*range(self.before), *self.starts)]


RELEASES = [
    tuple(map(Release, newest, texts))
    for newest, texts in (
        *product([(1, 1), (1, 2)], ["ab", "aa"]),
        *product([(1, 1, 1), (1, 1, 2), (1, 2, 2), (1, 2, 3)], ["abc", "aba", "aab", "abb"]),
    )
]
ROLLOUTS = [
    Rollout(releases, before, starts)
    for releases in RELEASES
    for before in range(len(releases))
    for length in range(1, 5)
    for starts in product(range(len(releases)), repeat=length)
]


@dataclass
class Model:
    """The table of a database, and what becomes of it."""

    texts: list[Text] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    """The texts that ran, in order."""

    @property
    def current(self) -> Text | None:
        return last_of(Release(0, "").file, self.texts)

    def start(self, release: Release) -> str:
        """What a pod of this release finds, and does."""
        state = state_of(release.file, self.texts)
        if state == PENDING:
            self.applied.append(release.text)
            self.texts = [text for text in self.texts if text.checksum != release.text]
            moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=len(self.applied))
            self.texts.append(Text(FILE, release.text, release.newest, moment))
        elif is_before(release.file, self.current):
            self.texts = [replace(text, newest=release.newest) if text == self.current else text for text in self.texts]
        return state
