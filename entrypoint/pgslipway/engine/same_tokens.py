"""Whether the values in a text have changed anything outside their places: its tokens before and after."""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import TypeAlias

from .filled import Filled, has_variable
from .places import members
from .sql import SqlError, tokens

Token: TypeAlias = tuple[str, int, int]
"""Its kind, its first byte and the one after it, in the written text."""
OPERATORS = re.compile(rb"[^0-9A-Za-z$\x80-\xff][^0-9A-Za-z]+")
"""Characters that are one token where they stand together; those of a variable may be among them."""
QUOTE = re.compile(rb"&?['\"]")


def changed(filled: Filled) -> int | None:
    """Return the variable whose value changes a token outside of it, as a byte of the written text; or None."""
    place = difference(filled, 0, len(filled))
    if place is None:
        return None
    return next((one.written_start for one in filled.places if one.written_end > place), place)


def difference(filled: Filled, start: int, end: int) -> int | None:
    """Return the first byte of the written text whose token is another one in a part of the filled text; or None."""
    then = tokens_then(filled, filled.as_written(start), filled.as_written(end))
    bodies: list[tuple[int, int]] = []
    try:
        for was, now in zip_longest(then, tokens_now(filled, start, end, bodies)):
            if was != now:
                return min(token[1] for token in (was, now) if token)
    except SqlError as error:
        return filled.as_written(start + error.offset)
    inside = (difference(filled, *body) for body in bodies if has_tokens(filled, *body))
    return next((place for place in inside if place is not None), None)


def has_tokens(filled: Filled, start: int, end: int) -> bool:
    """Tell whether the body of a routine is SQL as it was written, or a language with the same tokens."""
    try:
        deque(tokens_then(filled, filled.as_written(start), filled.as_written(end)), maxlen=0)
    except SqlError:
        return False
    return True


def tokens_then(filled: Filled, start: int, end: int) -> Iterator[Token]:
    """Yield the tokens of a part of the written text that are not in a variable. Raises SqlError."""

    def variable(first: int, last: int) -> bool:
        """Tell whether a variable and a token overlap."""
        index = bisect_right(filled.places, first, key=lambda place: place.written_end)
        return index < len(filled.places) and filled.places[index].written_start < last

    for kind, first, last in single(filled.written[start:end], start, variable):
        index = bisect_right(filled.places, first, key=lambda place: place.written_start) - 1
        if index < 0 or last > filled.places[index].written_end:
            yield kind, first, last


def tokens_now(filled: Filled, start: int, end: int, bodies: list[tuple[int, int]]) -> Iterator[Token]:
    """Yield the tokens of a part of the filled text, but for each value that is one; `bodies` gets those with values.

    Raises SqlError.
    """
    places = {(place.start, place.end) for place in filled.places}
    for kind, first, last in single(filled[start:end], start, lambda *token: has_variable(filled, *token)):
        if (first, last) in places and not QUOTE.match(filled, last):
            continue
        if kind == "dollar" and has_variable(filled, first, last):
            tag = filled.index(b"$", first + 1) + 1 - first
            bodies.append((first + tag, last - tag))
        yield kind, filled.as_written(first), filled.as_written(last)


def single(text: bytes, start: int, has_place: Callable[[int, int], bool]) -> Iterator[Token]:
    """Yield the tokens of a text that begins at byte `start`, the characters of operators one by one.

    And those of a list in parentheses, where a variable is in it. Raises SqlError.
    """
    for kind, first, last in tokens(b"\n" + text):
        if last == 1:
            continue
        first, last = max(first - 1, 0), last - 1
        if kind == "group" and has_place(start + first, start + last):
            parts = [*members(text, first, last)]
        else:
            parts = [(kind, first, last)]
        for part, one, end in parts:
            if part == "other" and OPERATORS.fullmatch(text, one, end):
                yield from ((part, start + place, start + place + 1) for place in range(one, end))
            else:
                yield part, start + one, start + end
