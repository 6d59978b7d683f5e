"""Whether the values in a text have changed anything outside their places: its tokens before and after."""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TypeAlias

from .filled import Filled
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
    spans = [(place.written_start, place.written_end) for place in filled.places]
    for kind, first, last, index in single(filled.written[start:end], start, spans):
        if index == len(spans) or first < spans[index][0] or last > spans[index][1]:
            yield kind, first, last


def tokens_now(filled: Filled, start: int, end: int, bodies: list[tuple[int, int]]) -> Iterator[Token]:
    """Yield the tokens of a part of the filled text, but for each value that is one; `bodies` gets those with values.

    Raises SqlError.
    """
    spans = [(place.start, place.end) for place in filled.places]
    shifts = [0, *(place.written_end - place.end for place in filled.places)]
    for kind, first, last, index in single(filled[start:end], start, spans):
        if index == len(spans) or last <= spans[index][0]:
            yield kind, first + shifts[index], last + shifts[index]
            continue
        if (first, last) == spans[index] and not QUOTE.match(filled, last):
            continue
        if kind == "dollar":
            tag = filled.index(b"$", first + 1) + 1 - first
            bodies.append((first + tag, last - tag))
        yield kind, filled.as_written(first), filled.as_written(last)


def single(text: bytes, start: int, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, int, int, int]]:
    """Yield the tokens of a text that begins at byte `start`, each with the number of spans before it.

    The characters of operators one by one, and so a list in parentheses that has one of the spans in it. Raises
    SqlError.
    """
    index = bisect_right(spans, start, key=lambda span: span[1])
    for kind, before, after in tokens(b"\n" + text):
        first, last = max(before - 1, 0), after - 1
        while index < len(spans) and spans[index][1] <= start + first:
            index += 1
        is_list = kind == "group" and index < len(spans) and spans[index][0] < start + last
        if not is_list and kind != "other":
            if last > first:
                yield kind, start + first, start + last, index
            continue
        for part, one, end in members(text, first, last) if is_list else [(kind, first, last)]:
            for place, after_it in by_character(text, one, end) if part == "other" else [(one, end)]:
                number = bisect_right(spans, start + place, index, key=lambda span: span[1])
                yield part, start + place, start + after_it, number


def by_character(text: bytes, start: int, end: int) -> Iterable[tuple[int, int]]:
    """Return the characters of operators one by one; a number as it is."""
    if end - start > 1 and OPERATORS.fullmatch(text, start, end):
        return [(place, place + 1) for place in range(start, end)]
    return [(start, end)]
