"""Text into statements, for texts that nobody thought of; libpg_query's parser is the oracle."""

from __future__ import annotations

import postgast
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from pgslipway.engine.check import check
from pgslipway.engine.sql import SqlError, leading_comments, statements, tokens
from pgslipway.migrations import Migration
from sampling import examples

Text = st.SearchStrategy[str]
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much]}

# --- valid SQL, with every form of quoting and comments anywhere --------------------------------------------------

BLANKS = [" ", "\n", "\r\n", "\t", "\f", "  "]
COMMENTS = [
    "-- it's; \"x\" $$ /* \n", "--\r\n", "--;END\n", "/* ' ; */", "/*/* $a$ ; */ \" */", "/**/", "/* END; */", "/*--*/"
]  # fmt: skip
GAP = st.sampled_from(BLANKS * 3 + [blank + comment for blank in BLANKS for comment in COMMENTS])
TIGHT = st.just("") | GAP
INSIDE = st.text(st.sampled_from(';\'""\\\\$$-/*()\n\r ae1_é😀E'), max_size=8)
TAG = st.sampled_from(["$$", "$a$", "$é$", "$_x1$", "$END$"])
WORD = st.sampled_from(["a", "b1", "c$d", "e", "E", "größe", "_x", "u", "N", "atomic", "😀"])
LABEL = WORD | st.sampled_from(["end", "case", "begin", "END", "when"])


def doubled(text: str, quote: str) -> str:
    return quote + text.replace(quote, quote * 2) + quote


def with_backslashes(text: str) -> str:
    return doubled(text.replace("\\", "\\\\"), "'")


def in_dollars(pair: tuple[str, str]) -> str:
    text, tag = pair
    assume((text + tag).find(tag) == len(text))
    return tag + text + tag


def spaced(*parts: Text | str, gap: Text = GAP) -> Text:
    """The parts with a gap between any two."""
    made: list[Text] = []
    for part in parts:
        made += [gap, st.just(part) if isinstance(part, str) else part]
    return st.tuples(*made[1:]).map("".join)


NAME = WORD | INSIDE.filter(bool).map(lambda text: doubled(text, '"'))
E_STRING = st.tuples(st.sampled_from("eE"), INSIDE.map(with_backslashes) | st.just(r"'\''")).map("".join)
DOLLARS = st.tuples(INSIDE, TAG).map(in_dollars)
LITERAL = st.one_of(
    INSIDE.map(lambda text: doubled(text, "'")),
    E_STRING,
    st.tuples(E_STRING, st.sampled_from(["\n", " \r\n\t"]), INSIDE.map(with_backslashes)).map("".join),
    INSIDE.map(lambda text: f"U&{with_backslashes(text)}"),
    DOLLARS,
    st.sampled_from(["1", "1.", ".5", "1e10", "$1", "NULL", "B'01'", "x'1F'", "N'a;'"]),
)
LEAF = LITERAL | NAME | spaced(WORD, ".", NAME | st.sampled_from(["end", "case"]), gap=TIGHT)


def compound(inner: Text) -> Text:
    operator = st.sampled_from(["+", "-", "/", "*", "||", "->", "=", "@-", "<"])
    return st.one_of(
        spaced("(", inner, operator, inner, ")"),
        spaced("f(", inner, ",", inner, ")", gap=TIGHT),
        spaced("CASE", "WHEN", inner, "THEN", inner, "END"),
        spaced("case", inner, "when", inner, "then", inner, "else", inner, "end"),
        spaced("(", "SELECT", inner, "AS", LABEL, ")"),
        spaced("ARRAY[", inner, "]", gap=TIGHT),
        spaced("(", inner, ")", "::", "text", gap=TIGHT),
    )


EXPRESSION = LEAF | compound(LEAF) | compound(LEAF | compound(LEAF))
QUERY = st.one_of(
    spaced("SELECT", EXPRESSION),
    spaced("SELECT", EXPRESSION, "AS", LABEL, "FROM", NAME),
    spaced("SELECT", st.sampled_from(["1", "(a)", "'x'"]), LABEL),
    spaced("INSERT INTO", NAME, "VALUES", "(", EXPRESSION, ",", EXPRESSION, ")"),
    spaced("UPDATE", NAME, "SET", WORD, "=", EXPRESSION),
    spaced("DELETE FROM", NAME, "WHERE", EXPRESSION),
)


def finished(statement: Text, most: int) -> Text:
    """Some statements, each with its semicolon."""
    return st.lists(spaced(statement, ";", gap=TIGHT), max_size=most).map(" ".join)


HEAD = st.sampled_from(["CREATE FUNCTION", "create or replace function", "CREATE OR REPLACE PROCEDURE"])
ATOMIC = spaced(HEAD, NAME, "()", "BEGIN", "ATOMIC", finished(QUERY, 3), "END")
QUOTED = spaced(HEAD, NAME, "()", "LANGUAGE", "sql", "AS", E_STRING | DOLLARS)
RULE = spaced("CREATE RULE", NAME, "AS ON INSERT TO", NAME, "DO ALSO", "(", finished(QUERY, 2), QUERY, ")")
PLAIN = st.sampled_from(
    ["BEGIN", "COMMIT", "END", "VACUUM", "CREATE TABLE t (a int, b text DEFAULT ';')", "DO $$ BEGIN; END $$",
     "COMMENT ON TABLE t IS E'\\';'", "CREATE TABLE \"begin\" (atomic int)", "SELECT 'it''s' -- ;\n , 2"]
)  # fmt: skip
STATEMENT = st.one_of(QUERY, QUERY, ATOMIC, QUOTED, RULE, PLAIN)


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text and the statements in it."""
    expected = draw(st.lists(STATEMENT, max_size=4))
    ends = [draw(st.sampled_from([";", ";;", "; ;"])) for _ in expected]
    parts = [draw(TIGHT) + statement + draw(TIGHT) + end for statement, end in zip(expected, ends, strict=True)]
    text = "".join([*parts, draw(TIGHT)])
    return (text.rstrip("; ") if draw(st.booleans()) and not text.endswith("*/") else text), expected


def split(text: str) -> list[str]:
    source = text.encode()
    return [source[statement.start : statement.end].decode() for statement in statements(source)]


@settings(max_examples=examples(1600), **PATIENT)  # type: ignore[arg-type]
@given(texts())
def test_statements_are_those_that_the_parser_finds(made: tuple[str, list[str]]) -> None:
    text, expected = made
    try:
        oracle = postgast.split(text)
    except postgast.PgQueryError:
        assume(False)

    found = split(text)

    assert found == expected
    assert len(found) == len(oracle)
    for statement, theirs in zip(found, oracle, strict=True):
        assert theirs.startswith(statement)
        assert split(theirs) == [statement]


@settings(max_examples=examples(500), **PATIENT)  # type: ignore[arg-type]
@given(st.lists(st.tuples(TIGHT, STATEMENT, TIGHT), max_size=6))
def test_blanks_and_comments_between_change_nothing(parts: list[tuple[str, str, str]]) -> None:
    expected = [statement for _, part, _ in parts for statement in split(part)]

    found = split("".join(f"{before}{part}{after};" for before, part, after in parts))

    assert found == expected


# --- anything at all ---------------------------------------------------------------------------------------------

FRAGMENT = st.sampled_from(
    ["'", '"', "$", "$$", "$a$", "\\", "/*", "*/", "--", "\n", "\r", ";", "(", ")", "E'", "e", "BEGIN", " ATOMIC ",
     "END ", "CASE ", "CREATE FUNCTION ", "a", "1", ".", "\0", "\ufeff", " ", "é", "U&", "COMMIT", "COPY t FROM STDIN",
     "VACUUM"]
)  # fmt: skip
SOUP = st.lists(FRAGMENT, max_size=20).map("".join)
ANYTHING = st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode), SOUP.map(str.encode))


@settings(max_examples=examples(1500), **PATIENT)  # type: ignore[arg-type]
@given(ANYTHING | st.tuples(SOUP.map(str.encode), st.binary(max_size=4), SOUP.map(str.encode)).map(b"".join))
@example(b"SELECT $\xff$")
def test_nothing_is_worse_than_an_sql_error(source: bytes) -> None:
    start = 3 if source.startswith(b"\xef\xbb\xbf") else 0
    covered = start
    try:
        for _, begin, end in tokens(source):
            assert covered == begin < end
            covered = end
        found = [(statement.start, statement.end) for statement in statements(source)]
        list(leading_comments(source))
    except SqlError as error:
        found, end_of_sense = [], error.offset
    else:
        end_of_sense = max(start, len(source))

    edges = [edge for pair in found for edge in pair]
    assert covered == end_of_sense <= max(start, len(source))
    assert edges == sorted(edges)


@settings(max_examples=examples(500), **PATIENT)  # type: ignore[arg-type]
@given(ANYTHING)
def test_check_finds_problems_in_anything_and_fails_on_nothing(source: bytes) -> None:
    migration = Migration(version=1, filename="1_a.sql", checksum="", path="")

    contents = check(migration, source)

    assert all(problem.file == "1_a.sql" for problem in contents.problems)
