"""The queries for all that is no relation, in the form of those in `relations`.

What a catalog of PostgreSQL 14 does not have yet is read by way of JSON, which has the columns that are there.
"""

from collections.abc import Iterable

from .relations import NO_ACL, fields, owner

FIRST_NORMAL_OID = 16384
"""Below it are the objects that every new database has."""
SCHEMAS = f"""
SELECT 'pg_catalog.pg_namespace'::regclass, s.oid, 0, s.nspowner, s.nspacl, 'n'::"char", ARRAY[{owner("s.nspowner")}]
  FROM schemas s WHERE s.nspname <> $2 OR s.nspname = 'public'
"""
FUNCTIONS = f"""
SELECT 'pg_catalog.pg_proc'::regclass, p.oid, 0, p.proowner, p.proacl, 'f'::"char",
       ARRAY[{owner("p.proowner")}] || CASE p.prokind
         WHEN 'a' THEN (SELECT {fields("a", "aggfnoid", "aggsortop", "aggtranstype", "aggmtranstype")}
                            || ('STYPE ' || pg_catalog.format_type(a.aggtranstype, NULL))
                          FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = p.oid)
         ELSE pg_catalog.string_to_array(pg_catalog.pg_get_functiondef(p.oid), E'\\n') END
  FROM pg_catalog.pg_proc p JOIN schemas s ON s.oid = p.pronamespace
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d  -- those of a range come and go with it
                    WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
"""
TYPES = f"""
SELECT 'pg_catalog.pg_type'::regclass, t.oid, 0, t.typowner, t.typacl, 'T'::"char", ARRAY[
    (SELECT pg_catalog.concat('ENUM (', pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', '
            ORDER BY e.enumsortorder), ')') FROM pg_catalog.pg_enum e WHERE t.typtype = 'e' AND e.enumtypid = t.oid
     HAVING t.typtype = 'e'),
    CASE t.typtype WHEN 'd' THEN 'DOMAIN ' || pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
    CASE WHEN t.typnotnull THEN 'NOT NULL' END,
    'DEFAULT ' || t.typdefault,
    CASE t.typtype WHEN 'd' THEN 'COLLATE ' || nullif(t.typcollation, 0)::pg_catalog.regcollation END,
    (SELECT pg_catalog.concat_ws(' ', 'RANGE', pg_catalog.format_type(r.rngsubtype, NULL), r.rngcanonical, r.rngsubdiff)
       FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid),
    CASE t.typtype WHEN 'b' THEN pg_catalog.concat_ws(' ', 'INPUT', t.typinput, 'OUTPUT', t.typoutput, 'RECEIVE',
        t.typreceive, 'SEND', t.typsend, 'LENGTH', t.typlen, 'ALIGNMENT', t.typalign, 'STORAGE', t.typstorage) END,
    {owner("t.typowner")}
  ]
  FROM types t
"""
DATABASE = f"""
SELECT 'pg_catalog.pg_database'::regclass, d.oid, 0, d.datdba, d.datacl, 'd'::"char", ARRAY[{owner("d.datdba")}]
    || ARRAY(SELECT pg_catalog.concat('SET ', setting, ' FOR ' || nullif(s.setrole, 0)::pg_catalog.regrole)
               FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS setting
              WHERE s.setdatabase = d.oid ORDER BY 1)
  FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""
# The roles belong to the whole server.
ROLES = f"""
SELECT 'pg_catalog.pg_authid'::regclass, r.oid, 0, 0::oid, {NO_ACL},
       {fields("r", "rolname", "rolpassword", "rolconfig")} || ARRAY(
         SELECT 'IN ROLE ' || m.roleid::pg_catalog.regrole FROM pg_catalog.pg_auth_members m
          WHERE m.member = r.oid ORDER BY 1) || ARRAY(
         SELECT 'SET ' || setting FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS setting
          WHERE s.setdatabase = 0 AND s.setrole = r.oid ORDER BY 1)
  FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_'
"""
DEFAULT_PRIVILEGES = """
SELECT 'pg_catalog.pg_default_acl'::regclass, d.oid, 0, d.defaclrole, d.defaclacl, CASE d.defaclnamespace
         WHEN 0 THEN CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END END, '{}'::text[]
  FROM pg_catalog.pg_default_acl d
"""


def plain(
    catalog: str, prefix: str, *left_out: str, lines: Iterable[str] = (), schema: bool = False, acl: str = ""
) -> str:
    """Return the branch for a catalog with an owner whose rows say nearly everything.

    Its columns begin with `prefix`. Those that are `left_out` hold oids, or differ from one server to the next; `lines`
    are SQL for their meaning. `acl` is the letter of `acldefault`.
    """
    names = [f"{prefix}{name}" for name in ("name", "namespace", "owner", "acl", *left_out)]
    privileges = f"o.{prefix}acl, '{acl}'::\"char\"" if acl else NO_ACL
    where = f"JOIN schemas s ON s.oid = o.{prefix}namespace" if schema else f"WHERE o.oid >= {FIRST_NORMAL_OID}"
    return f"""
SELECT 'pg_catalog.{catalog}'::regclass, o.oid, 0, o.{prefix}owner, {privileges},
       {fields("o", *names)} || ARRAY[{", ".join([*lines, owner(f"o.{prefix}owner")])}]
  FROM pg_catalog.{catalog} o {where}
"""


def unowned(catalog: str, *left_out: str, lines: Iterable[str] = (), where: str = "") -> str:
    """Return the branch for a catalog without an owner whose rows say nearly everything."""
    given = ", ".join(lines)
    return f"""
SELECT 'pg_catalog.{catalog}'::regclass, o.oid, 0, 0::oid, {NO_ACL}, {fields("o", *left_out)} || ARRAY[{given}]::text[]
  FROM pg_catalog.{catalog} o {where or f"WHERE o.oid >= {FIRST_NORMAL_OID}"}
"""


def function(column: str) -> str:
    """Return SQL for the function in a column that holds an oid."""
    return f"'{column} ' || nullif(o.{column}, 0)::pg_catalog.regprocedure"


def operator(column: str) -> str:
    """Return SQL for the operator in a column that holds an oid."""
    return f"'{column} ' || nullif(o.{column}, 0)::pg_catalog.regoperator"


MAPPINGS = """(SELECT pg_catalog.string_agg(pg_catalog.concat('TOKEN ', m.maptokentype, ': ',
    m.mapdict::pg_catalog.regdictionary), E'\\n' ORDER BY m.maptokentype, m.mapseqno)
    FROM pg_catalog.pg_ts_config_map m WHERE m.mapcfg = o.oid)"""
ALL_ELSE = [
    plain("pg_extension", "ext", "config", lines=["'SCHEMA ' || o.extnamespace::pg_catalog.regnamespace"]),
    plain("pg_event_trigger", "evt", "foid", lines=[function("evtfoid")]),
    plain("pg_publication", "pub"),
    plain("pg_operator", "opr", "left", "right", "result", "com", "negate", schema=True,
          lines=[operator("oprcom"), operator("oprnegate"), "'RESULT ' || pg_catalog.format_type(o.oprresult, NULL)"]),
    plain("pg_opclass", "opc", "method", "family", "intype", "keytype", schema=True,
          lines=["'FOR ' || pg_catalog.format_type(o.opcintype, NULL)"]),
    plain("pg_opfamily", "opf", "method", schema=True),
    plain("pg_collation", "coll", "version", schema=True),
    plain("pg_conversion", "con", schema=True),
    plain("pg_language", "lan", "plcallfoid", "inline", "validator", acl="l", lines=[function("lanplcallfoid")]),
    plain("pg_foreign_data_wrapper", "fdw", "handler", "validator", acl="F",
          lines=[function("fdwhandler"), function("fdwvalidator")]),
    plain("pg_foreign_server", "srv", "fdw", acl="S"),
    plain("pg_ts_config", "cfg", "parser", schema=True, lines=[MAPPINGS]),
    plain("pg_ts_dict", "dict", "template", schema=True),
    unowned("pg_ts_parser", "prsnamespace", where="JOIN schemas s ON s.oid = o.prsnamespace"),
    unowned("pg_ts_template", "tmplnamespace", where="JOIN schemas s ON s.oid = o.tmplnamespace"),
    unowned("pg_cast", "castsource", "casttarget", "castfunc", lines=[function("castfunc")]),
    unowned("pg_am"),
    unowned("pg_user_mapping", "umuser", "umserver", "umoptions"),
]  # fmt: skip
NEW = {15: [unowned("pg_publication_namespace", "pnpubid", "pnnspid")]}
"""What an older server does not have."""
OF_THE_DATABASE = [SCHEMAS, FUNCTIONS, TYPES, DEFAULT_PRIVILEGES, DATABASE, *ALL_ELSE]
