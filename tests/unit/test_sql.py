"""Text into statements, by the lexical rules of Postgres: cases picked by hand, and what is quoted for a server."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import postgast
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgslipway.engine.sql import SqlError, leading_comments, statements
from pgslipway.quote import quote_array, quote_literal, quote_name

if TYPE_CHECKING:
    from servers import Database

FUNCTION = "CREATE FUNCTION f() RETURNS int "
FUNCTIONS = {
    "atomic": FUNCTION + "BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "atomic-lower-case": FUNCTION + "begin atomic select 1; end",
    "atomic-empty": FUNCTION + "BEGIN ATOMIC END",
    "atomic-or-replace": "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC INSERT INTO t VALUES (1); END",
    "atomic-comments-between": FUNCTION + "BEGIN /* ; */ ATOMIC -- END;\n SELECT 1; END",
    "atomic-case": FUNCTION + "BEGIN ATOMIC SELECT CASE WHEN a THEN CASE b WHEN 1 THEN 2 END END FROM t; SELECT 2; END",
    "atomic-case-after-number": FUNCTION + "BEGIN ATOMIC SELECT CASE WHEN a THEN 1. END FROM t; SELECT 2; END",
    "atomic-label-as-end": FUNCTION + "BEGIN ATOMIC SELECT 1 AS end; SELECT 2 AS case; END",
    "atomic-label-end": FUNCTION + "BEGIN ATOMIC SELECT 1 end; SELECT 2; END",
    "atomic-label-case": FUNCTION + "BEGIN ATOMIC SELECT 1 case; SELECT 2; END",
    "atomic-column-end": FUNCTION + "BEGIN ATOMIC SELECT t.end, t . case FROM t; SELECT 2; END",
    "atomic-quoted-end": FUNCTION + "BEGIN ATOMIC SELECT \"end\", 'END' FROM t; SELECT 2; END",
    "atomic-parentheses": FUNCTION + "BEGIN ATOMIC SELECT (SELECT (CASE WHEN a THEN 1 END)) FROM t; SELECT 2; END",
    "not-atomic": FUNCTION + "LANGUAGE sql AS 'BEGIN; ATOMIC'",
    "dollar-quotes-in-dollar-quotes": FUNCTION + "LANGUAGE plpgsql AS $f$ BEGIN EXECUTE $$ a; $$; $g$;$g$; END; $f$",
    "procedure-called-begin": "CREATE PROCEDURE atomic.begin() LANGUAGE sql AS ';'",
}
OTHERS = {
    "string": "SELECT 'a;b'",
    "string-doubled-quote": "SELECT 'it''s;'",
    "string-backslash": r"SELECT 'C:\', ';'",
    "string-lines": "SELECT 'a;\n;b'",
    "string-in-parentheses": "SELECT (';', 'it''s);')",
    "backslashes": r"SELECT E'\';\\', e'\\\'; ''', ';'",
    "backslashes-in-parentheses": r"SELECT (E'\');', ';')",
    "backslashes-next-line": "SELECT E'a'\n  'b\\';'",
    "backslashes-second-next-line": "SELECT E'a' \r\n\t'b\\';'\n'c\\';'",
    "name-that-ends-with-e": r"SELECT type'\', ';'",
    "unicode-string": r"SELECT U&'\0061;\\', U&'d!0061;\' UESCAPE '!'",
    "unicode-name": 'SELECT U&"d\\0061;" FROM t',
    "national-and-bits": "SELECT N'a;', B'01', X'1F'",
    "name": 'SELECT "a;b" FROM "it""s;"',
    "name-with-comment": 'SELECT "--", "/*" FROM t',
    "name-with-dollar": "SELECT a$b$ FROM t$$ , b$b$",
    "name-not-ascii": "SELECT größe, été$1$ FROM naïve",
    "dollars": "SELECT $$a;'$$, $tag$;$$;$TAG$;$tag$",
    "dollars-tag-not-ascii": "SELECT $é_1$;$$;$é_1$",
    "dollars-with-dollar-inside": "SELECT $a$ $ ; $b $a$",
    "dollars-in-parentheses": "SELECT ($$);$$)",
    "parameter": "PREPARE p AS SELECT $1, $2::text",
    "parentheses": "SELECT f((1), (2 - -3) / 4)",
    "comment": "SELECT /* ; */ 1 -- ;\n, 2",
    "comment-nested": "SELECT /* ; /* ; */ ; ' */ 1",
    "comment-end-in-line-comment": "SELECT 1 --/*\n, 2 --*/\n, 3",
    "comment-ends-at-carriage-return": "SELECT 1 --\r, 2",
    "comment-after-operator": "SELECT 1 +-- ;\n 2 */* ; */ 3",
    "comment-without-space": "SELECT 1--;\n-2",
    "operators": "SELECT a - b / c, a -> b, a @- c, d #>> '{}' FROM t",
    "rule": "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO u VALUES (1); NOTIFY t; DELETE FROM v)",
    "rule-with-comment": "CREATE RULE r AS ON UPDATE TO t DO INSTEAD (SELECT 1; -- )\n SELECT ')')",
    "case": "SELECT CASE WHEN a THEN 1 END AS end FROM t",
    "array": "SELECT (ARRAY[1, 2])[1:2]",
}  # fmt: skip
WHOLE = FUNCTIONS | OTHERS
LONG_STRING = "SELECT E'a' -- it's \\' ;\n  -- it''s;\n\n 'b\\';' , ';'"
"""postgast forgets that comments may stand between the parts; the server does not."""

TEXTS = {
    "nothing": ("", []),
    "blanks": (" \t\r\n\f\v", []),
    "only-comments": ("-- a\n/* b; */", []),
    "only-semicolons": (";; ;", []),
    "without-semicolon": ("SELECT 1", ["SELECT 1"]),
    "with-semicolon": ("SELECT 1;", ["SELECT 1"]),
    "empty-between": ("SELECT 1;;-- a\n;SELECT 2", ["SELECT 1", "SELECT 2"]),
    "comments-around": ("/* a */ SELECT 1 /* b */; -- c\nSELECT 2 -- d", ["SELECT 1", "SELECT 2"]),
    "comment-at-the-end": ("SELECT 1; -- without a line end", ["SELECT 1"]),
    "crlf": ("SELECT 1;\r\n-- a\r\nSELECT\r\n2;\r\n", ["SELECT 1", "SELECT\r\n2"]),
    "bom": ("\ufeffSELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
    "bom-alone": ("\ufeff", []),
    "one-parenthesis-too-many": ("SELECT 1); SELECT 2", ["SELECT 1)", "SELECT 2"]),
    "transaction": ("BEGIN; SELECT 1; END", ["BEGIN", "SELECT 1", "END"]),
    "begin-in-a-string": ("CREATE FUNCTION f() AS 'BEGIN ATOMIC'; SELECT 1",
                          ["CREATE FUNCTION f() AS 'BEGIN ATOMIC'", "SELECT 1"]),
    "begin-atomic-elsewhere": ("SELECT begin atomic FROM t; SELECT 1", ["SELECT begin atomic FROM t", "SELECT 1"]),
}  # fmt: skip
UNTERMINATED = {
    "string": ("SELECT 'a; SELECT 2", 7, "the string that begins here is never closed"),
    "string-after-doubled-quote": ("SELECT '''", 7, "the string that begins here is never closed"),
    "string-second": ("SELECT 'a', 'é', 'b", 18, "the string that begins here is never closed"),
    "string-in-parentheses": ("SELECT ('a', b, 'c)", 16, "the string that begins here is never closed"),
    "backslashes": (r"SELECT E'a\'", 7, "the string that begins here is never closed"),
    "backslashes-with-statements": (r"SELECT E'a\'; COMMIT; SELECT", 7, "the string that begins here is never closed"),
    "backslashes-next-line": ("SELECT E'a'\n'b\\'", 7, "the string that begins here is never closed"),
    "name": ('SELECT "a; b', 7, "the quoted name that begins here is never closed"),
    "dollars": ("SELECT $$ a; $ $", 7, "the string that begins here is never closed with $$"),
    "dollars-other-tag": ("SELECT $é$ $$ $E$", 7, "the string that begins here is never closed with $é$"),
    "dollars-longer-tag": ("SELECT $a$ b $ab$ c$a", 7, "the string that begins here is never closed with $a$"),
    "comment": ("SELECT 1 /* a", 9, "the comment that begins here is never closed"),
    "comment-nested": ("SELECT 1 /* a /* b */", 9, "the comment that begins here is never closed"),
    "psql-command": ("SELECT 1;\n\\d t", 10, "psql's backslash commands are not SQL"),
}  # fmt: skip


def split(text: str) -> list[str]:
    source = text.encode()
    return [source[statement.start : statement.end].decode() for statement in statements(source)]


@pytest.mark.parametrize("statement", WHOLE.values(), ids=WHOLE)
def test_statement_is_one_and_the_next_begins_after_it(statement: str) -> None:
    text = f"{statement};SELECT 'next';"

    found = split(text)

    assert found == [statement, "SELECT 'next'"]
    assert len(postgast.split(text)) == 2


def test_string_with_backslashes_goes_on_over_lines_of_comments() -> None:
    text = f"{LONG_STRING};SELECT 2"

    found = split(text)

    assert found == [LONG_STRING, "SELECT 2"]


async def test_server_reads_on_over_lines_of_comments_too(database: Database) -> None:
    [row] = await database.fetch(LONG_STRING)

    assert tuple(row) == ("ab';", ";")


@pytest.mark.parametrize(("text", "expected"), TEXTS.values(), ids=TEXTS)
def test_text_is_split(text: str, expected: list[str]) -> None:
    found = split(text)

    assert found == expected


@pytest.mark.parametrize(("text", "offset", "message"), UNTERMINATED.values(), ids=UNTERMINATED)
def test_what_is_never_closed_is_named_with_its_offset(text: str, offset: int, message: str) -> None:
    with pytest.raises(SqlError) as caught:
        split(text)

    assert (caught.value.offset, str(caught.value).partition(";")[0]) == (offset, message)


WORDS = {
    "upper-case": ("create Table t", "CREATE TABLE T"),
    "without-what-is-quoted": ('VACUUM "Vacuum ""x"""', 'VACUUM ""'),
    "without-parentheses": ("CREATE TABLE t (a int, b int) TABLESPACE x", "CREATE TABLE T TABLESPACE X"),
    "without-strings": ("SELECT 'a', $$b$$, e'c', 1 FROM t", "SELECT FROM T"),
    "without-comments": ("DROP /* a */ INDEX -- b\n i", "DROP INDEX I"),
}


@pytest.mark.parametrize(("text", "words"), WORDS.values(), ids=WORDS)
def test_words_tell_what_a_statement_is(text: str, words: str) -> None:
    [statement] = statements(text.encode())

    assert statement.text == words


COMMENTS = {
    "before-the-first-statement": ("-- a\n--b \n\nSELECT 1; -- c", ["a", "b"]),
    "after-a-block-comment": ("/* licence\n-- no\n*/ -- a\n", ["a"]),
    "crlf-and-bom": ("\ufeff-- a\r\n-- b\r\nSELECT 1", ["a", "b"]),
    "not-after-a-semicolon": ("-- a\n;\n-- b\n", ["a"]),
    "none": ("SELECT 1", []),
}


@pytest.mark.parametrize(("text", "expected"), COMMENTS.values(), ids=COMMENTS)
def test_leading_comments_are_the_line_comments_before_the_first_statement(text: str, expected: list[str]) -> None:
    found = list(leading_comments(text.encode()))

    assert found == expected


STORABLE = st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("\\'\"{},$eE%\n")
ROUND_TRIP = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONFORMING = pytest.mark.parametrize("conforming", ["on", "off"])


@CONFORMING
@ROUND_TRIP
@given(texts=st.lists(st.text(STORABLE, max_size=30), max_size=20))
async def test_literals_mean_what_went_in(database: Database, conforming: str, texts: list[str]) -> None:
    columns = ["1", *(f"pg_typeof({quote_literal(text)}), {quote_literal(text)}" for text in texts)]
    async with database.connection() as connection:
        await connection.execute(f"SET standard_conforming_strings = {conforming}")

        [row] = await connection.fetch(f"SELECT {quote_array(texts)}::text[], {','.join(columns)}")

    assert row[0] == texts
    assert list(row)[3::2] == texts


@CONFORMING
@ROUND_TRIP
@given(text=st.text(STORABLE, min_size=1, max_size=63).filter(lambda text: len(text.encode()) <= 63))
async def test_quoted_names_mean_what_went_in(database: Database, conforming: str, text: str) -> None:
    async with database.connection() as connection:
        await connection.execute(f"SET standard_conforming_strings = {conforming}")

        [row] = await connection.fetch(f"SELECT 1 AS {quote_name(text)}")

    assert list(row.keys()) == [text]


@pytest.mark.parametrize("text", string.punctuation, ids=ascii)
def test_literal_follows_a_word_without_a_space(text: str) -> None:
    statement = f"SELECT{quote_literal(text)}"

    [found] = split(statement)

    assert found == statement
