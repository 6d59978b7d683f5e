"""Other tools' markers: comments that divide a file into a part that applies a change and one that undoes it.

To Postgres they are comments, so the whole file would be run: the table is made, dropped, and counts as migrated. They
count where they stand alone in a line. Some of these tools see them within strings, too; but the first one of a file of
theirs never is in one, and a text that somebody inserts may well be about such a tool.
"""

import re

from ..files import Source
from .sql import tokens

DIVIDED = (
    "this line is {tool}'s, for which it divides the file; here the whole file would be run, with the part that undoes "
    "the change. Move that part to a file that ends in .down.sql, and take {tool}'s lines out"
)
ALONE = (
    "this line is {tool}'s, but the folder is not: its first file tells its layout. Move the part that undoes the "
    "change to a file that ends in .down.sql, and take {tool}'s lines out; or set MIGRATE_LAYOUT={tool}"
)
DIRECTIVE = "this line is {tool}'s, and has no effect here; write what it asks for as SQL or as files, and take it out"
UNDOES = "this is a script of {tool} that undoes a change; give it a name that ends in .down.sql, or leave it out"
TOOLS = {
    "goose": (r"\+goose\b", ALONE),
    "dbmate": (r"migrate:(up|down)\b", ALONE),
    "tern": (r"create above / drop below ----|tern: disable-tx ----", ALONE),
    "sql-migrate": (r"\+migrate\b", DIVIDED),
    "node-pg-migrate": (r"down\s+migration\b", DIVIDED),
    "micrate": (r"\+micrate\b", DIVIDED),
    "rambler": (r"rambler (up|down)\b", DIVIDED),
    "shmig": (r"====\s*(up|down)\s*====", DIVIDED),
    "MyBatis": (r"//\s*@undo\b", DIVIDED),
    "Play": (r"!(ups|downs)\b", DIVIDED),
    "Liquibase": (r"liquibase formatted sql\b|changeset \S+:\S", DIRECTIVE),
    "Atlas": (r"atlas:(txmode|delimiter|checkpoint)\b", DIRECTIVE),
    "Sqitch": (r"revert \S+ from pg\s*$", UNDOES),
}
"""The words after the dashes of a tool's markers, and the message."""
MARKER = re.compile(
    rb"--[- \t]*+(?:%s)"
    % "|".join(rf"(?P<_{number}>{words})" for number, (words, _) in enumerate(TOOLS.values())).encode(),
    re.IGNORECASE | re.MULTILINE,
)


def marker(source: Source, layout: str) -> tuple[int, str] | None:
    """Return the first byte of the first marker of a tool other than the layout's, and what to do. Raises SqlError."""
    for match in MARKER.finditer(source):
        tool, (_, message) = list(TOOLS.items())[int(str(match.lastgroup)[1:])]
        if tool != layout and is_line_comment(source, match.start()):
            return match.start(), message.format(tool=tool)
    return None


def is_line_comment(source: Source, offset: int) -> bool:
    """Tell whether a comment begins at `offset`, with nothing before it in its line."""
    line = source.rfind(b"\n", 0, offset) + 1
    if source[line:offset].strip(b" \t\r\f\v\xef\xbb\xbf"):
        return False
    return any(start == offset for _, start, _ in tokens(source))
