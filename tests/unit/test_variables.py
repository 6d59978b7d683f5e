"""Variables: the value of each fits its place, changes nothing beside it, and is never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgslipway.config import Variables
from pgslipway.engine.filled import Filled
from pgslipway.engine.masks import covered, masked
from pgslipway.engine.message import Sent, excerpt
from pgslipway.engine.resume import steps
from pgslipway.engine.sql import tokens
from pgslipway.engine.variables import checked, fill, wanted_by
from pgslipway.migrations import Migration, discover, discover_all
from pgslipway.values import with_values
from sampling import examples

if TYPE_CHECKING:
    from conftest import Folder

MIGRATION = Migration(version=1, filename="1_a.sql", checksum="0", path="/1_a.sql")
ODD = 'it\'s "a\\b"\n$$;--${x}'
SINGLE, DOUBLE = ODD.replace("'", "''"), ODD.replace('"', '""')
ESCAPED, ESCAPED_NAME = SINGLE.replace("\\", "\\\\"), DOUBLE.replace("\\", "\\\\")


def values(**given: str) -> Variables:
    return Variables({f"MIGRATE_VAR_{name.upper()}": value for name, value in given.items()})


def filled(text: str, value: str, *, declares: str = "x") -> Filled:
    """The text with the value of `x`, behind a line that declares it."""
    source = f"-- variables: {declares}\n{text}".encode()
    wanted = wanted_by(MIGRATION, source)
    assert wanted
    return fill(MIGRATION, source, wanted, values(x=value))


def sent(text: str, value: str) -> str:
    result = filled(text, value)
    assert result.problems == []
    return result.decode().partition("\n")[2]


FITS = {
    "string": ("'${x}'", ODD, f"'{SINGLE}'"),
    "string-in-list": ("('a', '${x}')", ODD, f"('a', '{SINGLE}')"),
    "string-after-a-backslash": (r"'\${x}'", "n", r"'\n'"),
    "national": ("N'${x}'", ODD, f"N'{SINGLE}'"),
    "bits": ("B'${x}'", "101", "B'101'"),
    "twice": ("'${x}${x}'", "'", "''''''"),
    "escape": ("e'${x}'", ODD, f"e'{ESCAPED}'"),
    "escape-goes-on": ("E'a' -- ${x}\n 'b${x}'", ODD, f"E'a' -- ${{x}}\n 'b{ESCAPED}'"),
    "escape-after-an-escape": (r"E'\\${x}\x41${x}'", "n", r"E'\\n\x41n'"),
    "unicode": ("u&'${x}'", ODD, f"u&'{ESCAPED}'"),
    "unicode-in-list": ("(1, U&'${x}')", ODD, f"(1, U&'{ESCAPED}')"),
    "unicode-goes-on": ("U&'a' --'\n'b${x}'", ODD, f"U&'a' --'\n'b{ESCAPED}'"),
    "unicode-ends": ("U&'a' '${x}'", ODD, f"U&'a' '{SINGLE}'"),
    "no-unicode": ("aU&'${x}', U &'${x}'", ODD, f"aU&'{SINGLE}', U &'{SINGLE}'"),
    "name": ('"a_${x}"', ODD, f'"a_{DOUBLE}"'),
    "unicode-name": ('U&"${x}"', ODD, f'U&"{ESCAPED_NAME}"'),
    "body": ("$a$ ${x}; 'a_${x}' $a$", "b1", "$a$ b1; 'a_b1' $a$"),
    "body-in-another-language": ("$$ don't ${x} $$", "b1", "$$ don't b1 $$"),
    "word": ("SET ROLE ${x};", "B_1", "SET ROLE B_1;"),
    "number": ("(${x}, -${x}, ${x}::int)", "1.5", "(1.5, -1.5, 1.5::int)"),
    "qualified": ("a.${x}.b", "c", "a.c.b"),
    "left": ("/* ${x} */ ${x} -- ${x}\n + ${y}", "c", "/* ${x} */ c -- ${x}\n + ${y}"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "value", "expected"), FITS.values(), ids=FITS)
def test_value_is_fitted_to_its_place(text: str, value: str, expected: str) -> None:
    assert sent(text, value) == expected


ALONE = (
    "a variable outside of quotes stands alone, as a name or a number does; put a blank beside it, or all of the name "
    'in quotes: "…${…}…"'
)
ESCAPE = "a backslash before a variable would take the beginning of its value for a part of an escape; remove it"
UESCAPE = "a variable cannot be where there is a UESCAPE; write the string without one, or without U&"
CHANGES = "the value of this variable would change what stands beside it; put all of that in quotes, or write the value"
NOT_PLAIN = "outside of quotes the value of a variable must be a plain word or a number; put quotes around it"
REFUSED = {
    "string-after": ("${x}'a'", "E", ALONE),
    "unicode-after": ("${x}&'a'", "U", ALONE),
    "string-before": ("'a'${x}", "b", ALONE),
    "dollar-before": ("$1${x}", "a", ALONE),
    "digit-before": ("1${x}", "1", ALONE),
    "word-before": ("a_${x}", "b", ALONE),
    "variable-before": ("${x}${x}", "b", ALONE),
    "not-ascii-after": ("${x}é", "b", ALONE),
    "escape": (r"E'\${x}'", "n", ESCAPE),
    "half-an-escape": (r"E'\\\x4${x}'", "1", ESCAPE),
    "half-a-unicode-escape": (r"U&'\+00${x}'", "1", ESCAPE),
    "escape-in-body": (r"$$ E'\${x}' $$", "n", ESCAPE),
    "has-uescape": ("U&'${x}' --\n 'b' UESCAPE '!'", "a", UESCAPE),
    "name-has-uescape": ("U&\"${x}\" uescape '!'", "a", UESCAPE),
    "is-uescape": ("U&'a' UESCAPE '${x}'", "!", UESCAPE),
    "fraction": ("${x}.5", "1", CHANGES),
    "ends-the-body": ("$a$ $b ${x}$ $a$", "a", CHANGES),
    "makes-the-end-of-the-body": ("$ab$ $a${x}$ $ab$", "b", CHANGES),
    "makes-an-escape-string-in-body": ("$$ ${x}'a' $$", "E", CHANGES),
    "makes-a-national-string-in-body": ("$$ ${x}'a' $$", "N", CHANGES),
    "word-before-in-body": ("$$ a_${x} $$", "b", CHANGES),
    "two-words": ("${x}", "a b", NOT_PLAIN),
    "quote": ("${x}", "a'", NOT_PLAIN),
    "line-end": ("${x}", "a\n", NOT_PLAIN),
    "digits-of-another-script": ("${x}", "\u0661", NOT_PLAIN),
    "two-words-in-body": (
        "$$ ${x} $$", "a b", "in a dollar-quoted body the value of a variable must be a plain word or a number",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "value", "message"), REFUSED.values(), ids=REFUSED)
def test_place_or_value_that_does_not_fit_is_refused_there(text: str, value: str, message: str) -> None:
    problems = {(one.line, one.text.partition("\n")[0]) for one in filled(f"SELECT 1,\n{text}", value).problems}

    assert problems == {(3, message)}


PIECES = ["'", '"', "E'", "U&'", 'U&"', "$$", "$a$", "${x}", "${x}", " ", "\n", "--", "/*", "*/", "\\", "a", "1", ".",
          "(", ")", ",", "$", "&", "{", "}", ";", "::", "-", "é", "UESCAPE", "N", "b"]  # fmt: skip


@settings(max_examples=examples(2000), deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.one_of(st.sampled_from(["E", "U", "N", "a", "1", "1.5", ODD]), st.text("'\"\\$aé1 ;-/*\n", min_size=1)),
)
def test_no_value_changes_a_token_outside_its_place(text: str, value: str) -> None:
    one, other = (filled(f"SELECT {text}", each) for each in (value, "7" if value[0].isdecimal() else "zz"))
    if not one.problems and not other.problems and one.places:
        assert pieces(one) == pieces(other)


def pieces(source: Filled) -> list[tuple[str, bytes]]:
    """The kind and the text of each token, with a mark for each value."""
    marked, moved = b"", [0] * (len(source) + 1)
    done = 0
    for place in [*source.places, None]:
        end = place.start if place else len(source)
        for offset in range(done, end + 1):
            moved[offset] = len(marked) + offset - done
        marked += source[done:end] + (b"\0" if place else b"")
        done = place.end if place else end
    for place in source.places:
        moved[place.end] = moved[place.start] + 1
    return [(kind, marked[moved[start] : moved[end]]) for kind, start, end in tokens(source)]


# --- places -----------------------------------------------------------------------------------------------------


def test_places_are_those_of_the_text_as_it_was_written() -> None:
    text = filled("SELECT '${x}', 'é${x}' +\n '${x}' oops;\nSELECT 2;\n", "a'\n\n\nb")

    place = text.index(b"oops")

    assert str(excerpt("1_a.sql", text, place, "wrong")) == ("1_a.sql:3: wrong\n  3 |  '${x}' oops;\n    |         ^")
    for move in range(3):
        assert str(excerpt("1_a.sql", text, text.index(b"\n\nb") + move, "wrong")) == (
            "1_a.sql:2: wrong\n  2 | SELECT '${x}', 'é${x}' +\n    |         ^"
        )
    assert Sent(text, 0, text.decode()).lines == (1, 4)
    assert [(step.line, step.written) for step in steps(text)] == [
        (2, "SELECT '${x}', 'é${x}' +\n '${x}' oops".encode()),
        (4, b"SELECT 2"),
    ]


def test_checksum_of_a_statement_is_that_of_the_text_as_it_was_written() -> None:
    one, other = (next(steps(filled("SELECT '${x}'", value))).checksum for value in ("a", "b'\n"))

    assert one == other


# --- what a file declares ---------------------------------------------------------------------------------------

A_NAME = "expected a name of letters, digits and _ that begins with no digit and does not end in _file"
UNUSED = "is nowhere in the SQL, where it could have a value; use it, or remove it from the list"
NOT_FLYWAYS = (
    "Flyway's own placeholders, and others than a name of letters, digits and _ that begins with no digit and does not "
    "end in _file, have no value here; write it"
)
OUTSIDE = (
    "a statement that runs outside a transaction can have no variable, since its text is kept in the journal; write "
    "its value"
)
UNCLOSED = "the string that begins here is never closed; a quote inside a string is written twice: ''"
FOLDERS = {
    "fine": ({"1_a.sql": "-- a\n-- Variables: a, B\n-- variables:c\nSELECT '${a}', '${B}', '${c}', '${d}';"}, []),
    "not-declared": ({"1_a.sql": "SELECT '${a}'; -- variables: a"}, []),
    "bad-names": (
        {"1_a.sql": "-- variables: 1a, é, a-b, a_FILE,\nSELECT 1;"},
        [f"1_a.sql: variables: {A_NAME}, not {name!r}" for name in ("1a", "é", "a-b", "a_FILE", "")],
    ),
    "never-used": (
        {"1_a.sql": "-- variables: a, b\nSELECT '${b}'; -- ${a}"}, [f"1_a.sql: variables: ${{a}} {UNUSED}"],
    ),
    "in-data": (
        {"1_a.sql": "-- variables: a\nCOPY t FROM stdin;\n${a}\n\\.\n"}, [f"1_a.sql: variables: ${{a}} {UNUSED}"],
    ),
    "beside-a-word": (
        {"1_a.sql": "-- variables: a\nSELECT a_${a};"},
        [f"1_a.sql:2: {ALONE}\n  2 | SELECT a_${{a}};\n    |          ^"],
    ),
    "outside": (
        {"1_a.sql": '-- no-transaction\n-- variables: a\nSELECT 1;\nVACUUM "${a}";\nANALYZE "${a}";'},
        [f'1_a.sql:4: {OUTSIDE}\n  4 | VACUUM "${{a}}";\n    | ^'],
    ),
    "extension-behind-a-setting": (
        {"1_a.sql": '-- no-transaction\n-- variables: a\nSET x.y = 1;\nALTER EXTENSION e UPDATE TO "${a}";'},
        [f'1_a.sql:4: {OUTSIDE}\n  4 | ALTER EXTENSION e UPDATE TO "${{a}}";\n    | ^'],
    ),
    "in-the-up-part": ({"1_a.sql": "-- +goose Up\n-- variables: a\nSELECT '${a}';\n-- +goose Down\nSELECT 1;"}, []),
    "unclosed": (
        {"1_a.sql": "-- variables: a\nSELECT 1; '${a}"},
        [
            f"1_a.sql:2: {UNCLOSED}\n  2 | SELECT 1; '${{a}}\n    |           ^",
        ],
    ),
    "flyway": ({"V1__a.sql": "SELECT '${a}'; -- ${flyway:timestamp}"}, []),
    "flyways-own": (
        {"V1__a.sql": "SELECT '${flyway:user}';"},
        [f"V1__a.sql:1: {NOT_FLYWAYS}\n  1 | SELECT '${{flyway:user}}';\n    |         ^"],
    ),
    "flyway-beside-a-word": (
        {"V1__a.sql": "SELECT a_${a};"}, [f"V1__a.sql:1: {ALONE}\n  1 | SELECT a_${{a}};\n    |          ^"],
    ),
    "flyway-text": (
        {"V1__a.sql": "SELECT '${a-b}', '${flyway:x}';", "V1__a.sql.conf": "placeholderReplacement=false"}, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "problems"), FOLDERS.values(), ids=FOLDERS)
def test_variables_of_a_file_are_checked_without_their_values(
    files: dict[str, str], problems: list[str], folder: Folder
) -> None:
    (migration,) = discover(folder(files))

    assert [str(problem) for problem in checked(migration, None)[1].problems] == problems


@pytest.mark.parametrize(
    "directive",
    [
        "\ufeff-- variables: a",
        "--\rSELECT 1;\r-- x\r",
        "/* views */ -- VARIABLES: b, a",
        "\f-- variables: a",
        "--\xa0variables: a",
    ],
)
def test_checksum_has_the_values_of_all_that_is_declared(directive: str, folder: Folder) -> None:
    path = folder({"1_a.sql": "", "R__a.sql": f"{directive}\r-- variables: a\rSELECT '${{a}}';"})
    _, (one,) = discover_all(str(path))

    assert len({with_values(one, values(a=value)).checksum for value in ("", "1", "2")}) == 3


def test_checksum_with_values_changes_with_each_value_that_a_file_needs(folder: Folder) -> None:
    path = folder({"1_a.sql": "", "R__a.sql": "-- Variables: a\nSELECT '${a}';", "R__b.sql": "SELECT '${a}'"})
    _, (with_one, without) = discover_all(str(path))
    sums = [
        with_values(with_one, values(**given)).checksum for given in ({"a": "1"}, {"a": "1", "b": "2"}, {"a": "2"}, {})
    ]

    assert sums[0] == sums[1]
    assert len({*sums, with_one.checksum}) == 4
    assert with_values(with_one, values(a="1")).read() == with_one.read()
    assert with_values(without, values(a="1")) == without


# --- masks ------------------------------------------------------------------------------------------------------

LONG = "Correct-Horse-Battery-Staple"
MASKED = {
    "anywhere": ("s3cret", "xS3CREty", "x${x}y"),
    "short-as-a-word": ("abc", "abcd abc 'ABC'", "abcd ${x} '${x}'"),
    "quotes-doubled": ("it's", "'it''s' it's", "'${x}' ${x}"),
    "name-doubled": ('a"bc', '"a""bc"', '"${x}"'),
    "escaped": (r"a\b'c", r"E'a\\b''c'", "E'${x}'"),
    "in-an-array": ('a"b\\c', '{"a\\"b\\\\c"}', '{"${x}"}'),
    "in-json": ("a\nbc", '{"a": "a\\nbc"}', '{"a": "${x}"}'),
    "in-one-line": ("a\n  bc", "a bc", "${x}"),
    "cut": (LONG, f"({LONG[:16]}...", "(${x}..."),
    "cut-early": (LONG, f"({LONG[:5]}...)", "(${x}...)"),
    "too-early": (LONG, f"({LONG[:3]}...)", f"({LONG[:3]}...)"),
    "a-piece": (LONG, f"x{LONG[5:21]}x", "x${x}x"),
    "a-short-piece": (LONG, LONG[5:12], LONG[5:12]),
    "again-and-again": ("ab" * 20, "ab" * 50, "${x}${x}${x}"),
    "not-ascii": ("Geheimnisäöü", "GEHEIMNISÄÖÜ", "${x}"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "text", "expected"), MASKED.values(), ids=MASKED)
def test_name_is_shown_instead_of_the_value(value: str, text: str, expected: str) -> None:
    assert masked({"x": value}, text) == expected


def test_longest_value_is_masked_first() -> None:
    assert masked({"a": "app", "b": "app_owner", "c": "own"}, "app app_owner own") == "${a} ${b} ${c}"


@settings(max_examples=examples(500), deadline=None)
@given(st.lists(st.text("aB'\\\"é.", min_size=4, max_size=40), min_size=1, max_size=3), st.data())
def test_no_value_and_no_long_piece_of_one_is_left(secrets: list[str], data: st.DataObject) -> None:
    around = st.text("xyz ,", max_size=5)
    text = "".join(
        data.draw(around) + one[data.draw(st.integers(0, max(0, len(one) - 16))) if len(one) > 16 else 0 :]
        for one in secrets
    )

    left = covered({f"v{place}": value for place, value in enumerate(secrets)}, text)

    assert bytes(left) == text.encode()
    written = left.written.decode()
    for one in secrets:
        assert one.lower() not in written.lower()
        assert all(one[start : start + 16].lower() not in written.lower() for start in range(len(one) - 15))
