"""The names of the targets: read from a list or a query, checked, and shared out among the pods of a Job."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..config import Config
from ..errors import BadConfiguration
from ..settings import is_digits, name
from ..words import few

TEMPLATES = ("template0", "template1")
OF_POSTGRES = ("pg_", "information_schema")
"""How the names of schemas begin that are Postgres's own."""
MOST_PROBLEMS = 20
"""Problems that are told one by one."""
fitting = name()


class Target(NamedTuple):
    """A schema, or a database."""

    name: str
    url: str = ""
    """Where the database is; empty for one of the server that the settings name."""


class Word(NamedTuple):
    """A word of a list, or a row of a query."""

    place: str
    """Where it stands, for messages."""
    text: str
    is_listed: bool = False


def words_in(text: str) -> list[Word]:
    """Return the words of a list, parted by blanks or line ends; a word that begins with # makes the rest a comment."""
    found = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        for word in line.split():
            if word.startswith("#"):
                break
            found.append(Word(f"MIGRATE_TARGETS, line {number}", word, is_listed=True))
    return found


def targets_of(words: Sequence[Word], kind: str) -> tuple[list[Target], list[str]]:
    """Return the targets, each once, and the names that were there more often.

    Raises BadConfiguration with everything that is wrong, and for no target at all.
    """
    problems: list[str] = []
    targets: dict[str, Target] = {}
    doubles: dict[str, None] = {}
    for word in words:
        try:
            target = target_of(word, kind)
            known = targets.setdefault(target.name, target)
        except ValueError as problem:
            problems.append(f"{word.place}: {problem}")
            continue
        if known.url != target.url:
            problems.append(f"{word.place}: {target.name} was there before with another URL; give it another name")
        elif known is not target:
            doubles[target.name] = None
    if problems:
        left = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise BadConfiguration(*problems[:MOST_PROBLEMS], *left)
    if not targets:
        raise BadConfiguration("there is no target: the list, or the result of MIGRATE_TARGETS_QUERY, is empty")
    return [*targets.values()], [*doubles]


def target_of(word: Word, kind: str) -> Target:
    """Return the target that a word names. Raises ValueError; no URL is in its message."""
    if kind == "url":
        return target_at(word.text)
    if "://" in word.text or (word.is_listed and "=" in word.text):  # not shown: it may hold a password
        raise ValueError("a URL, where MIGRATE_TARGET_KIND=url was not set; or write a name")
    check_name(word.text)
    if word.is_listed and (word.text != word.text.strip(";\"'") or "," in word.text):
        raise ValueError(f"{word.text[:100]!r}: write names as they are, without quotes, parted by blanks or line ends")
    if kind == "schema" and word.text.startswith(OF_POSTGRES):
        raise ValueError(f"{word.text} is a schema of Postgres itself")
    if kind == "database" and word.text in TEMPLATES:
        raise ValueError(f"{word.text} is a template; a migration of it would be in every new database")
    return Target(word.text)


def target_at(text: str) -> Target:
    """Return the target that `name=URL` stands for. Raises ValueError."""
    label, equals, url = text.partition("=")
    if not equals or "://" in label or "@" in label or ":" in label:
        raise ValueError("expected name=postgresql://… (the value is not shown: it may hold a password)")
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError(f"{label[:100]}: expected postgresql://… behind the =")
    check_name(label)
    return Target(label, url)


def check_name(text: str) -> None:
    """Raise ValueError for a text that nobody means to be a name."""
    if expected := expected_of(text):
        raise ValueError(f"expected {expected}, not {text[:100]!r}")


def expected_of(text: str) -> str:
    """Return the form of a name that was expected instead of `text`; empty where it may be one."""
    try:
        fitting(text)
    except ValueError as expected:
        return str(expected)
    return ""


def path_of(config: Config) -> list[str]:
    """Return the schemas of MIGRATE_TARGET_PATH. Raises BadConfiguration."""
    found = (config.target_path or "").replace(",", " ").split()
    if wrong := [one for one in found if expected_of(one) or one != one.strip("\"'")]:
        raise BadConfiguration(f"MIGRATE_TARGET_PATH: expected names of schemas, as they are, not {few(wrong)}")
    return found


def shard_of(targets: Iterable[Target], config: Config) -> list[Target]:
    """Return the targets that are this pod's: those whose SHA-256 modulo MIGRATE_SHARDS is its index.

    So it does not matter whether another pod had more targets in its list. Raises BadConfiguration.
    """
    if not config.shards:
        return [*targets]
    index = config.completion_index or ""
    if not is_digits(index, 9) or int(index) >= config.shards:
        raise BadConfiguration(
            f"MIGRATE_SHARDS={config.shards} needs JOB_COMPLETION_INDEX, a number below it, which Kubernetes sets in a "
            f"Job whose completionMode is Indexed; it is {index[:20]!r}; completions and MIGRATE_SHARDS have to be the "
            "same number"
        )
    return [one for one in targets if number_of(one) % config.shards == int(index)]


def number_of(target: Target) -> int:
    """Return the SHA-256 of a target's name as a number."""
    return int.from_bytes(hashlib.sha256(target.name.encode()).digest())
