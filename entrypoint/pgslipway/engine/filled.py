"""A text with values in the places of its variables, which knows the text as it was written."""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import Problem
from ..files import Source

NEWLINE = re.compile(rb"\n")


class Place(NamedTuple):
    """Where a value is, in bytes: in the filled text, and that of its variable in the written one."""

    start: int
    end: int
    written_start: int
    written_end: int


class Filled(bytes):
    """The text as it is sent. Whatever is said about a place in it is said about the text as it was written."""

    written: bytes
    places: Sequence[Place]
    problems: Sequence[Problem]
    """What is wrong with the variables."""
    mask: Callable[[str], str]
    """Returns a text with the name of the variable for each value in it."""

    def as_written(self, offset: int) -> int:
        """Return the byte of the written text for one of the filled text; within a value, that of its variable."""
        index = bisect_right(self.places, offset, key=lambda place: place.start) - 1
        if index < 0:
            return offset
        place = self.places[index]
        return place.written_start if offset < place.end else place.written_end + offset - place.end


def put_in(written: bytes, values: Sequence[tuple[int, int, bytes]], mask: Callable[[str], str]) -> Filled:
    """Return the text with `values`, each of which is (first byte of its variable, the one after it, value)."""
    pieces: list[bytes] = []
    places: list[Place] = []
    size = done = 0
    for start, end, value in values:
        pieces += [written[done:start], value]
        size += start - done
        places.append(Place(size, size + len(value), start, end))
        size, done = size + len(value), end
    filled = Filled(b"".join([*pieces, written[done:]]))
    filled.written, filled.places, filled.problems, filled.mask = written, places, (), mask
    return filled


def as_written(source: Source, offset: int) -> tuple[Source, int]:
    """Return the text as it was written, and the same byte there."""
    return (source.written, source.as_written(offset)) if isinstance(source, Filled) else (source, offset)


def written_part(source: Source, start: int, end: int) -> bytes:
    """Return a part of the text as it was written."""
    text, first = as_written(source, start)
    return text[first : as_written(source, end)[1]]


def line_ends(source: Source, start: int, end: int) -> int:
    """Count the line ends between two bytes, in the text as it was written; a mapped file is not copied."""
    text, first = as_written(source, start)
    return sum(1 for _ in NEWLINE.finditer(text, first, as_written(source, end)[1]))


def has_variable(source: Source, start: int, end: int) -> bool:
    """Tell whether there is a value between two bytes."""
    if not isinstance(source, Filled):
        return False
    index = bisect_right(source.places, start, key=lambda place: place.end)
    return index < len(source.places) and source.places[index].start < end
