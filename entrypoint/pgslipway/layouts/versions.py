"""The versions of other tools as numbers of the history: in the tool's order, no two alike, the same for ever.

No heavy import, as in all that a start with nothing to do may load.
"""

FLYWAY = ((10**6, 0, 3), (10**14, 10**18, 1), (10**18, 3 * 10**18, 0))
"""For a first part below this: the number that is added, and how many more parts there may be."""
LATER = 10**4
"""The later parts of a Flyway version are below this."""
SHORT, SHORTER = 6, 4
"""Digits of a first and of a later part that are always within the bounds."""
POWERS = (1, LATER, LATER**2, LATER**3)
DIESEL_DIGITS = 18
TIMESTAMP = 14
"""Digits of a moment to the second."""
PLACES = 9
"""How many folders of Prisma's may begin with the same digits."""
DAYS_TO_1970 = 719468
"""From 0000-03-01 on, where a year ends with the leap day."""


def is_number(text: str) -> bool:
    """Tell whether `text` is decimal digits."""
    return text.isdecimal() and text.isascii()


def flyway(text: str) -> int:
    """Return the number of a Flyway version such as 1.2, 1_2 or 20260131. Raises ValueError."""
    text = text.replace("_", ".")
    number, dot, part = text.partition(".")
    if (
        len(number) <= SHORT
        and len(part) <= SHORTER
        and text.isascii()
        and number.isdecimal()
        and (part.isdecimal() or not dot)
    ):  # as nearly all of them are
        return int(number) * POWERS[3] + int(part or 0) * POWERS[2]
    parts = text.split(".")
    if "" in parts or not is_number("".join(parts)):
        raise ValueError("a version is numbers with dots or underscores in between, such as 1.2")
    first, *later = map(int, parts)
    while later and not later[-1]:
        later.pop()
    kind = (first >= FLYWAY[0][0]) + (first >= FLYWAY[1][0]) + (first >= FLYWAY[2][0])
    if kind == len(FLYWAY):
        raise ValueError("the first number of a version has at most 18 digits")
    _, base, most = FLYWAY[kind]
    if len(later) > most or (later and max(later) >= LATER):
        raise ValueError(
            f"after {first} a version may have {most} more number{'' if most == 1 else 's'}, each below {LATER}"
        )
    total = first
    for one in later:
        total = total * LATER + one
    return base + total * POWERS[most - len(later)]


def diesel(text: str) -> int:
    """Return the number of a Diesel version, which is compared as text. Raises ValueError."""
    digits = text.replace("-", "")
    if not is_number(digits) or len(digits) > DIESEL_DIGITS:
        raise ValueError(f"a version is at most {DIESEL_DIGITS} digits, with dashes as one likes")
    return int(digits.ljust(DIESEL_DIGITS, "0"))


def milliseconds(digits: str) -> int:
    """Return the milliseconds from 1970 to a moment of UTC that is written as 14 digits. Raises ValueError."""
    if not is_number(digits) or len(digits) != TIMESTAMP:
        raise ValueError("a version is 14 digits, the moment to the second")
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:8])
    hour, minute, second = int(digits[8:10]), int(digits[10:12]), int(digits[12:])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days_in_month = 28 + leap if month == 2 else 30 + (month + month // 8) % 2
    is_day = 1 <= month <= 12 and 1 <= day <= days_in_month
    if not is_day or year < 1970 or hour > 23 or minute > 59 or second > 59:
        raise ValueError("a version is a moment of the calendar from 1970 on, to the second")
    if month < 3:
        year, month = year - 1, month + 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 1 - DAYS_TO_1970
    return 1000 * (((24 * days + hour) * 60 + minute) * 60 + second)


def flyway_text(name: str) -> str:
    """Return the version in a filename of Flyway's, with dots; empty where there is none."""
    stem = name.rpartition("/")[2].rpartition(".")[0]
    version = stem[1:].partition("__")[0].replace("_", ".")
    return version if stem[:1] == "V" and is_number(version.replace(".", "")) else ""


def is_flyway(name: str) -> bool:
    """Tell whether a name is one of Flyway's, or meant to be."""
    base = name.rpartition("/")[2]
    return base.lower().endswith(".sql") and base[:1] in {"V", "U"} and (base[1:2].isdecimal() or "__" in base)


def shown(layout: str, version: int, filename: str) -> str:
    """Return a version as its layout writes it."""
    if layout == "flyway":
        return flyway_text(filename) or written(layout, version)
    if layout in {"prisma", "diesel"}:
        text = filename.partition("_")[0]
        return text if is_number(text.replace("-", "")) else written(layout, version)
    return str(version)


def numbers(layout: str, text: str) -> range:
    """Return the numbers that a version as a person writes it may have; none where it is no version."""
    try:
        if layout == "flyway":
            number = flyway(text)
        elif layout == "diesel":
            number = diesel(text)
        elif layout == "prisma" and is_number(text):
            return range(10 * int(text), 10 * int(text) + PLACES)
        else:
            number = int(text) if is_number(text) else -1
    except ValueError:
        number = -1
    return range(number, number + 1) if number >= 0 else range(0)


def written(layout: str, number: int) -> str:
    """Return a version as its layout writes it, where no filename tells how exactly."""
    if layout == "flyway":
        base, most = next((base, most) for _, base, most in reversed(FLYWAY) if number >= base)
        rest = number - base
        parts: list[int] = []
        for _ in range(most):
            rest, part = divmod(rest, LATER)
            parts.insert(0, part)
        while parts and not parts[-1]:
            parts.pop()
        return ".".join(map(str, [rest, *parts]))
    if layout == "prisma":
        return str(number // 10)
    if layout == "diesel":
        text = f"{number:0{DIESEL_DIGITS}}"
        return text[:TIMESTAMP] if text.endswith("0" * (DIESEL_DIGITS - TIMESTAMP)) else text
    return str(number)
