"""Which bodies say COMMIT or ROLLBACK as a statement."""

from __future__ import annotations

import pytest

from pgslipway.engine.commits import bodies, says_commit

SAYS = {
    "plain": "DO $$ BEGIN PERFORM 1; COMMIT; END $$",
    "lower case, after other words": "do language plpgsql $a$ begin if true then rollback; end if; end $a$",
    "a chain": "DO $$ BEGIN COMMIT AND CHAIN; END $$",
    "in quotes": "DO 'BEGIN RAISE ''a''; COMMIT; END'",
    "in an escape string": "DO E'BEGIN COMMIT; END'",
    "with comments": "DO $$ BEGIN COMMIT /* now */ ; END $$",
    "Python": "DO LANGUAGE plpython3u $$ plpy.commit() $$",
    "Perl": "DO $$ spi_commit(); $$ LANGUAGE plperlu",
}
SAYS_NOT = {
    "nothing": "DO $$ BEGIN PERFORM 1; END $$",
    "a comment": "DO $$ BEGIN -- COMMIT;\n PERFORM 1; /* COMMIT; */ END $$",
    "a string": "DO $$ BEGIN RAISE 'COMMIT;'; END $$",
    "a name": "DO $$ BEGIN PERFORM commit FROM t; INSERT INTO t (rollback, a) VALUES (1, 2); END $$",
    "a quoted name": 'DO $$ BEGIN PERFORM "COMMIT"; END $$',
    "on commit": "DO $$ BEGIN CREATE TEMP TABLE t () ON COMMIT DROP; END $$",
    "no SQL": "DO LANGUAGE plpython3u $$ a = 'it\\'s' $$",
}


@pytest.mark.parametrize("statement", SAYS.values(), ids=SAYS)
def test_body_that_commits_is_recognised(statement: str) -> None:
    assert any(map(says_commit, bodies(statement.encode())))


@pytest.mark.parametrize("statement", SAYS_NOT.values(), ids=SAYS_NOT)
def test_body_that_only_looks_like_it_is_not(statement: str) -> None:
    assert not any(map(says_commit, bodies(statement.encode())))
