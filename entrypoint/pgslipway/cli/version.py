"""A version as a person writes it on the command line."""

from .. import files
from ..errors import BadConfiguration
from ..layouts.versions import numbers
from ..settings import is_digits
from ..words import redact


def newest_before(since: str | None, layout: str) -> int:
    """Return the version above which files are rehearsed (`--since`); -1 for all. Raises BadConfiguration."""
    return version_given("--since", since, layout)[-1] if since else -1


def version_given(what: str, text: str, layout: str) -> range:
    """Return the numbers that a version written as the layout does may have. Raises BadConfiguration."""
    found = numbers(layout, text)
    if not found or (layout == files.PLAIN and not is_digits(text, 19)):
        example = "1.2" if layout == "flyway" else "3"
        kind = "" if layout == files.PLAIN else f" as {layout} writes it"
        raise BadConfiguration(f"{what}: {redact(text[:100])!r} is no version{kind}, such as {example}")
    return found
