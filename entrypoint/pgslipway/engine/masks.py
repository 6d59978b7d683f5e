"""Values of variables in what Postgres says: the name of the variable is shown instead.

Postgres quotes values in many ways and cuts long texts. So a piece of LONG characters of a value counts as the value,
and so does its beginning before the three dots with which Postgres shows that it has cut something.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache

from .filled import Filled, put_in

LONG = 16
"""Characters of a piece of a value that are not shown."""
SHORT = 4
"""Characters of a value below which it is hidden only as a whole word; and of a beginning before three dots."""
BLOCK = 8
"""Characters by which a piece is found: any piece of LONG characters has one that begins at a multiple of it."""
CUT = "..."


class Forms:
    """The values, each in the ways in which Postgres may show it, in lower case."""

    def __init__(self, values: tuple[tuple[str, str], ...]) -> None:
        """Take (name, value) of each variable."""
        self.names = {form: name for name, value in values for form in spellings(value)}

    @cached_property
    def blocks(self) -> dict[str, list[tuple[str, int]]]:
        """Where in a long value each of its blocks is."""
        found: dict[str, dict[str, int]] = {}
        for form in self.names:
            for start in range(0, len(form) - BLOCK + 1, BLOCK) if len(form) >= LONG else ():
                found.setdefault(form[start : start + BLOCK], {}).setdefault(form, start)
        return {block: [*places.items()] for block, places in found.items()}

    def spans(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Yield (start, end, name) of each value, or piece of one, in a text in lower case."""
        cuts = [*(match.start() for match in re.finditer(re.escape(CUT), text)), len(text.rstrip('"'))]
        for form, name in self.names.items():
            for match in re.finditer(pattern_of(form), text) if len(form) < LONG and form in text else ():
                yield match.start(), match.end(), name
            for cut in cuts:
                if length := beginning(form, text, cut):
                    yield cut - length, cut, name
        yield from self.pieces(text)

    def pieces(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Yield the pieces of long values, each as long as it goes."""
        place = 0
        while self.blocks and place + BLOCK <= len(text):
            best = place + 1
            for form, start in self.blocks.get(text[place : place + BLOCK], ()):
                first, last = place, place + BLOCK
                while first and start - (place - first) and text[first - 1] == form[start - (place - first) - 1]:
                    first -= 1
                rest = start - place
                while last < len(text) and last + rest < len(form) and text[last] == form[last + rest]:
                    last += 1
                if last - first >= LONG:
                    best = max(best, last)
                    yield first, last, self.names[form]
            place = best


def pattern_of(form: str) -> str:
    """Return the pattern for a value as a whole; a short one as a word, since it may be a part of many."""
    pattern = re.escape(form)
    return pattern if len(form) >= SHORT else rf"(?<!\w){pattern}(?!\w)"


def beginning(form: str, text: str, cut: int) -> int:
    """Return how many of the first characters of a value stand before a byte of a text; 0 for too few."""
    lengths = range(min(len(form), LONG) - 1, SHORT - 1, -1)
    return next((length for length in lengths if text.endswith(form[:length], 0, cut)), 0)


def spellings(value: str) -> set[str]:
    """Return a value in the ways in which it may be shown: escaped, in arrays and JSON, in one line; in lower case."""
    doubled = {value, value.replace("'", "''"), value.replace('"', '""')}
    escaped = {one.replace("\\", "\\\\") for one in doubled}
    escaped.add(value.replace("\\", "\\\\").replace('"', '\\"'))
    escaped |= {json.dumps(value, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)}
    known = doubled | escaped
    return {lowered(form) for form in known | {" ".join(form.split()) for form in known}} - {""}


def lowered(text: str) -> str:
    """Return a text in lower case, as long as before."""
    if text.isascii():
        return text.lower()
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


@lru_cache(maxsize=8)
def forms_of(values: tuple[tuple[str, str], ...]) -> Forms:
    """Return the forms of these values."""
    return Forms(values)


def covered(values: Mapping[str, str], text: str) -> Filled:
    """Return the text as a filled one: as if it had been written with variables instead of the values in it."""
    written, places, done = "", [], 0
    for start, end, name in merged(forms_of(tuple(values.items())).spans(lowered(text)) if values else iter(())):
        written += text[done:start]
        shown = f"${{{name}}}"
        places.append((size_of(written), size_of(written + shown), text[start:end].encode(errors="replace")))
        written, done = written + shown, end
    return put_in(f"{written}{text[done:]}".encode(errors="replace"), places, str)


def size_of(text: str) -> int:
    """Return how many bytes a text has."""
    return len(text.encode(errors="replace"))


def merged(spans: Iterator[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Return spans in order, those that overlap as one with the name of the longest at its start."""
    found: list[tuple[int, int, str]] = []
    for start, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1]), found[-1][2]
        else:
            found.append((start, end, name))
    return found


def masked(values: Mapping[str, str], text: str) -> str:
    """Return `text` with the name of its variable for each value in it."""
    return covered(values, text).written.decode(errors="replace") if values else text
