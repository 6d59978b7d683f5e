"""libpq's parameters that are not honoured, and its form of keywords; loaded where somebody gives one of them.

The list is that of libpq 18, https://www.postgresql.org/docs/18/libpq-connect.html, and a test compares it.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

NO_WAY_TO_LOG_IN = "log in with a password (PGPASSWORD_FILE) or a client certificate"
PROVES = "let sslmode=verify-full prove who the server is"
UNNAMED = "holds an unknown parameter, which is named once the password is given as PGPASSWORD instead"
ANY: None = None
OTHERS: dict[str, tuple[str, tuple[str, ...] | None, str]] = {
    "application_name": ("PGAPPNAME", ANY, ""),
    "fallback_application_name": ("", ANY, ""),
    "client_encoding": ("PGCLIENTENCODING", ANY, ""),
    "connect_timeout": ("PGCONNECT_TIMEOUT", ANY, ""),
    "keepalives": ("", ANY, ""),
    "keepalives_idle": ("", ANY, ""),
    "keepalives_interval": ("", ANY, ""),
    "keepalives_count": ("", ANY, ""),
    "tcp_user_timeout": ("", ANY, ""),
    "load_balance_hosts": ("PGLOADBALANCEHOSTS", ANY, ""),
    "sslcompression": ("PGSSLCOMPRESSION", ANY, ""),
    "max_protocol_version": ("PGMAXPROTOCOLVERSION", ANY, ""),
    "min_protocol_version": ("PGMINPROTOCOLVERSION", ("3.0",), "pgslipway speaks 3.0"),
    "channel_binding": ("PGCHANNELBINDING", ("disable", "prefer"), f"remove it, and {PROVES}"),
    "require_auth": ("PGREQUIREAUTH", (), f"remove it, and {PROVES}"),
    "requirepeer": ("PGREQUIREPEER", (), "remove it, and protect the folder of the socket"),
    "gssencmode": ("PGGSSENCMODE", ("disable", "prefer"), "encrypt by TLS: sslmode=verify-full"),
    "gssdelegation": ("PGGSSDELEGATION", ("0",), "remove it"),
    "ssl": ("", ("true",), "the other modes are sslmode's"),
    "requiressl": ("PGREQUIRESSL", ("0",), "give sslmode=require"),
    "sslsni": ("PGSSLSNI", ("1",), "the name of the host is always sent; give its address as the host to send none"),
    "sslcertmode": ("PGSSLCERTMODE", ("allow",), "a certificate is shown to who asks for it, if PGSSLCERT is set"),
    "sslpassword": ("", (), "give a key without a passphrase"),
    "sslcrldir": ("PGSSLCRLDIR", (), "give one file as PGSSLCRL"),
    "sslkeylogfile": ("", (), "give SSLKEYLOGFILE"),
    "replication": ("", ("false", "off", "no", "0"), "remove it"),
    "service": ("PGSERVICE", (), "give PGHOST and so on"),
    "servicefile": ("PGSERVICEFILE", (), "give PGHOST and so on"),
    "scram_client_key": ("", (), NO_WAY_TO_LOG_IN),
    "scram_server_key": ("", (), NO_WAY_TO_LOG_IN),
    "oauth_issuer": ("", (), NO_WAY_TO_LOG_IN),
    "oauth_client_id": ("", (), NO_WAY_TO_LOG_IN),
    "oauth_client_secret": ("", (), NO_WAY_TO_LOG_IN),
    "oauth_scope": ("", (), NO_WAY_TO_LOG_IN),
}
"""The variable of each, the values that have no meaning here (ANY: all of them), and what to do about another one."""
VARIABLES = {variable: name for name, (variable, _, _) in OTHERS.items() if variable}


def judge(
    given: "Iterable[tuple[str, str, str]]", known: "Collection[str]", *, are_shown: bool
) -> tuple[list[str], list[str]]:
    """Return the names of those `given` that have no meaning here, and what is wrong with the others.

    Each is where it stands, its name (or variable) and its value. The name of an unknown one may be a part of the
    password before it; then it is not shown.
    """
    ignored, problems = [], []
    for place, name, value in given:
        if (parameter := VARIABLES.get(name, name)) not in OTHERS:
            problems.append(f"{place}{unknown(name, [*known, *OTHERS]) if are_shown else UNNAMED}")
            continue
        _, without_meaning, way_out = OTHERS[parameter]
        if not value:
            continue
        if without_meaning is ANY or value in without_meaning:
            ignored.append(f"{place}{name}")
        else:
            only = f"only {' or '.join(without_meaning)} is supported" if without_meaning else "not supported"
            problems.append(f"{place}{name}: {only}; {way_out}")
    return ignored, problems


def unknown(name: str, known: "Collection[str]") -> str:
    """Return the problem of a parameter that libpq does not know either."""
    from difflib import get_close_matches

    meant = get_close_matches(name.lower(), known, 1, 0.75)
    advice = (
        f"did you mean {meant[0]}?"
        if meant
        else "remove it; a setting of the server goes into options=-c%20name%3Dvalue"
    )
    return f"{name if name.isidentifier() else ascii(name)}: no such parameter; {advice}"


def keywords(text: str, known: "Collection[str]") -> dict[str, str] | None:
    """Return the parts of `host=… dbname=…`; None for a text of another form, the first name unknown included."""
    found: dict[str, str] = {}
    rest = text.lstrip()
    while rest:
        name, equals, rest = rest.partition("=")
        if not equals or not name.strip() or (not found and name.strip() not in {*known, *OTHERS}):
            return None
        value, end, rest = keyword_value(rest.lstrip())
        if not end:
            return None
        found[name.strip()] = value
        rest = rest.lstrip()
    return found


def keyword_value(text: str) -> tuple[str, bool, str]:
    """Return the value that `text` begins with, whether it is complete, and the text behind it.

    A backslash protects the next character, and quotes protect white space.
    """
    is_quoted = text.startswith("'")
    value, position = "", int(is_quoted)
    while position < len(text):
        character = text[position]
        if character == "'" if is_quoted else character.isspace():
            return value, True, text[position + 1 :]
        position += 1
        if character == "\\":
            character = text[position : position + 1]
            position += 1
        value += character
    return value, not is_quoted, ""
