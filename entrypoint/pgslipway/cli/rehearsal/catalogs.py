"""The schema of a database, read from its catalogs as text without oids, under the names of `pg_identify_object`."""

from collections.abc import Callable
from functools import cache
from sys import intern

from ...dial import Connection
from ...engine.journal import Journal
from ...engine.repeatable import texts_of
from ...history import History
from .differences import ORDER, PRIVILEGES, Definition, Schema
from .objects import NEW, OF_THE_DATABASE, ROLES
from .relations import OF_RELATIONS

# Then all names are qualified, whatever the migrations do with schemas.
NO_PATH = "SET LOCAL search_path = ''"
# What is looked at: no system schema, none that an extension made, and nothing of ours.
SCOPE = """
members AS MATERIALIZED (
    SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
), schemas AS MATERIALIZED (
    SELECT n.* FROM pg_catalog.pg_namespace n
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND n.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_catalog.pg_namespace'::regclass)
), relations AS MATERIALIZED (
    SELECT c.* FROM pg_catalog.pg_class c JOIN schemas s ON s.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'c')
       AND c.oid NOT IN (SELECT pg_catalog.to_regclass(name) FROM pg_catalog.unnest($1::text[]) AS name
                          WHERE pg_catalog.to_regclass(name) IS NOT NULL)
       AND c.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_catalog.pg_class'::regclass)
), types AS MATERIALIZED (
    SELECT t.* FROM pg_catalog.pg_type t JOIN schemas s ON s.oid = t.typnamespace
     WHERE t.typtype IN ('b', 'c', 'd', 'e', 'r') AND t.typisdefined
       AND (t.typrelid = 0 OR t.typrelid IN (SELECT oid FROM relations WHERE relkind = 'c'))
       AND t.oid NOT IN (SELECT typarray FROM pg_catalog.pg_type)
)"""
# What an object goes with when that is dropped: by pg_depend, and a column with its table or composite type.
PARENTS = """
SELECT edge.classid, edge.objid, edge.objsubid, pg_catalog.array_agg(p.name) AS names
  FROM (SELECT classid, objid, objsubid, refclassid, refobjid, refobjsubid FROM pg_catalog.pg_depend
         WHERE deptype IN ('a', 'i', 'P', 'S')
         UNION ALL SELECT class, id, sub, class, id, 0 FROM named WHERE sub > 0
         UNION ALL SELECT n.class, n.id, n.sub, 'pg_catalog.pg_type'::regclass, c.reltype, 0
                     FROM named n JOIN relations c ON c.oid = n.id AND c.relkind = 'c' WHERE n.sub > 0) edge
  JOIN named p ON (p.class, p.id, p.sub) = (edge.refclassid, edge.refobjid, edge.refobjsubid)
 GROUP BY 1, 2, 3
"""
GRANTED = """
SELECT p.grantee, pg_catalog.string_agg(p.privilege_type || CASE WHEN p.is_grantable THEN ' WITH GRANT OPTION' ELSE ''
       END, ', ' ORDER BY p.privilege_type) AS list FROM pg_catalog.aclexplode({}) p GROUP BY p.grantee
"""
# What everybody has from the beginning is not shown, unless it was revoked.
GRANTS = f"""
SELECT pg_catalog.concat('{PRIVILEGES}', CASE p.grantee WHEN 0 THEN 'PUBLIC' ELSE
           p.grantee::pg_catalog.regrole::text END, ' on ', n.name), p.list, ARRAY[n.name]
  FROM named n, LATERAL (
    SELECT grantee, coalesce(granted.list, 'none') AS list FROM ({GRANTED.format("n.acl")}) granted
      FULL JOIN ({GRANTED.format("pg_catalog.acldefault(n.letter, n.owner)")}) usual USING (grantee)
     WHERE granted.list IS DISTINCT FROM usual.list) p
 WHERE n.acl IS NOT NULL
"""
ORDERS = f"""
SELECT '{ORDER}' || n.name, pg_catalog.string_agg(a.attname, E'\\n' ORDER BY a.attnum), ARRAY[n.name]
  FROM named n JOIN pg_catalog.pg_attribute a ON a.attnum > 0 AND NOT a.attisdropped
  JOIN relations c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f', 'c')
   AND (n.class, n.id, n.sub) = ('pg_catalog.pg_class'::regclass, c.oid, 0)
 GROUP BY n.name
"""
COMMENTS = """
SELECT 'comment on ' || n.name, d.description, ARRAY[n.name] FROM named n
  JOIN pg_catalog.pg_description d ON d.classoid = n.class AND d.objoid = n.id AND d.objsubid = n.sub
"""
one_definition = cache(Definition)
"""Most of a schema stays as it is from one file to the next, so that is kept once."""


async def read(
    connection: Connection, history: History, *, whole_server: bool, mask: Callable[[str], str] = str
) -> Schema:
    """Return the schema of the database, without our own tables; with the roles of the `whole_server`.

    `mask` hides the values of variables in a definition.
    """
    ours = [history.name, Journal(history).name, texts_of(history).name]
    query = schema_sql(connection.get_server_version().major, whole_server=whole_server)
    async with connection.transaction(readonly=True):
        await connection.execute(NO_PATH)
        rows = await connection.fetch(query, ours, history.schema)
    return {intern(row["name"]): one_definition(in_lines(row["definition"], mask), (*row["parents"],)) for row in rows}


@cache
def in_lines(definition: str, mask: Callable[[str], str]) -> str:
    """Return a definition without empty lines, indentation and runs of spaces, which mean little in a function."""
    return "\n".join(" ".join(line.split()) for line in mask(definition).split("\n") if line.strip())


def schema_sql(version: int, *, whole_server: bool) -> str:
    """Return the query for `name`, `definition` and `parents` (names) of all that a server of this version has.

    Its parameters are the qualified names of our own tables, and the name of their schema. With the roles of the
    `whole_server`.
    """
    branches = [*OF_RELATIONS, *OF_THE_DATABASE, *([ROLES] if whole_server else [])]
    branches += [branch for first, more in NEW.items() if version >= first for branch in more]
    return f"""
WITH {SCOPE}, objects (class, id, sub, owner, acl, letter, lines) AS (
    {"UNION ALL".join(branches)}
), named AS MATERIALIZED (
    SELECT o.*, i.type || ' ' || i.identity AS name
      FROM objects o, LATERAL pg_catalog.pg_identify_object(o.class, o.id, o.sub) i
     WHERE (o.class, o.id) NOT IN (SELECT classid, objid FROM members)
)
SELECT n.name, coalesce(pg_catalog.array_to_string(n.lines, E'\\n'), '') AS definition,
       coalesce(p.names, '{{}}') AS parents
  FROM named n LEFT JOIN ({PARENTS}) p ON (p.classid, p.objid, p.objsubid) = (n.class, n.id, n.sub)
UNION ALL {ORDERS}
UNION ALL {COMMENTS}
UNION ALL {GRANTS}
"""
