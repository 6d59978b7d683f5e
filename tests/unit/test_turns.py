"""A test that needs the whole machine gets it, however many others come and go."""

from __future__ import annotations

import fcntl
import os
import threading
from typing import TYPE_CHECKING

import pytest

from servers import PATIENCE, until
from turns import Room, held

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def room(tmp_path: Path) -> Room:
    for name in ("inside", "gate"):
        (tmp_path / name).mkdir()
    return Room(tmp_path / "inside", tmp_path / "gate")


class Visitor(threading.Thread):
    """Comes in, says so, and leaves when it is let."""

    def __init__(self, room: Room, *, alone: bool) -> None:
        super().__init__(daemon=True)
        self._room, self._alone = room, alone
        self.is_inside, self.may_leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self._room.entered(alone=self._alone):
            self.is_inside.set()
            self.may_leave.wait(PATIENCE)
            self.is_inside.clear()

    def leave(self) -> None:
        self.may_leave.set()
        self.join(PATIENCE)


def is_held(path: Path) -> Callable[[], bool]:
    """Whether somebody has the lock."""

    def ask() -> bool:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    return ask


def test_others_are_there_together(room: Room) -> None:
    one, other = Visitor(room, alone=False), Visitor(room, alone=False)

    assert one.is_inside.wait(PATIENCE)
    assert other.is_inside.wait(PATIENCE)
    one.leave()
    other.leave()
    assert not is_held(room.inside)()


def test_who_wants_to_be_alone_waits_and_is_not_overtaken(room: Room) -> None:
    first = Visitor(room, alone=False)
    assert first.is_inside.wait(PATIENCE)
    alone = Visitor(room, alone=True)
    until(is_held(room.gate), "it to stand in the gate")
    last = Visitor(room, alone=False)

    assert not alone.is_inside.is_set()
    first.leave()
    assert alone.is_inside.wait(PATIENCE)
    assert not last.is_inside.is_set()
    alone.leave()
    assert last.is_inside.wait(PATIENCE)
    last.leave()


def test_only_one_holds_a_lock(tmp_path: Path) -> None:
    with held(tmp_path):
        assert is_held(tmp_path)()

    assert not is_held(tmp_path)()
