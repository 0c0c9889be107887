"""Redacts passwords and tokens: every address and every message passes here before it is shown or stored.

An address is parsed as SQLAlchemy and urllib do. Secret are a password before the host, a token in its place, and
options whose name says that they are secret. Secrets of addresses are remembered, so that they can also be redacted in
a driver's own message, which may repeat them without the address.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

MARK = "***"
_SECRET = re.compile(
    r"pass|pwd|token|secret|credential|signature|bearer|jwt|^(sig|sas|code)$|(^|[-_])(key|auth)$|apikey", re.IGNORECASE
)
_OPTION = re.compile(r"(?<=[?&;#])([^=&;#?\s]+)=([^&;#\s]*)")
# The scheme is bounded, since a search for one in a long run of letters would take time that grows with its square.
_ADDRESS = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]{0,40}://[^\s"'<>|]+""")
# A secret after its name, as in settings, JSON, headers and Python's repr. Groups: the name, what stands between, a
# quote, a scheme, the secret. A quoted secret may have spaces; without its closing quote it ends with the line. The
# first line leaves out tokens of tokenizers and numbers of tokens; the fourth, what is redacted already.
_ASSIGNED = re.compile(
    r"""(?<![\w-])(?!(?:[\w-]*[_-])?(?:bos|cls|eos|mask|max|min|num|pad|sep|unk)[_-]?token\b)"""
    r"""([\w-]*(?:password|passwd|pwd|token|secret|(?:access|account|api|private|secret)[_-]?key|authorization))"""
    r"""(["']?\s*[=:]\s*"""
    r"""(?!b?["']?(?:(?:basic|bearer)\s+)?\*\*\*)"""
    r"""(?:b(?=["']))?)(["'])?((?:basic|bearer)\s+)?"""
    r"""((?(3)(?:\\.|(?!\3)[^\\\n])+|[^\s,;&"')]+))""",
    re.IGNORECASE,
)
# An address whose :// is missing or incomplete, as after a typing error: u:password@host, //u:password@host.
_BARE_LOGIN = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?/{0,2})([^/:@\s]*):([^@\s]+)@(.*)", re.DOTALL)
# Environment variables from which drivers read a secret that is not in an address: $PGPASSWORD,
# $AWS_SECRET_ACCESS_KEY, $HF_TOKEN.
_VARIABLE = re.compile(r"PASSWORD$|_(TOKEN|SECRET|(ACCESS|ACCOUNT|API|PRIVATE|SECRET)_KEY|PWD)$")
# Schemes of addresses in which a login without a password is the name of a user; in other addresses it is a token.
_USER_SCHEMES = (
    *("postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle", "cockroachdb", "sqlite"),
    *("s3", "gs", "ssh"),
)
_LEAST_LENGTH = 4  # characters of a secret to redact in free text; a shorter one would redact parts of ordinary words

_known_secrets: set[str] = set()


def hide_password(address: str) -> str:
    """Return an address that can be shown: passwords, tokens and secret options are replaced by ***."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        login_match = _BARE_LOGIN.fullmatch(address)
        return f"{login_match[1]}{login_match[2]}:{MARK}@{login_match[4]}" if login_match else address
    login, at, host_and_path = _split_login(address, rest)
    if at:
        user, colon, password = login.partition(":")
        if password:
            login = f"{user}:{MARK}"
        elif user and not _names_a_user(scheme):
            login = f"{MARK}{colon}"
    host_and_path = _OPTION.sub(
        lambda match: f"{match[1]}={MARK}" if _is_secret(*match.groups()) else match[0], host_and_path
    )
    return f"{scheme}{separator}{login}{at}{host_and_path}"


def secrets_of(address: str) -> set[str]:
    """Return the secrets in an address, as they are written there and decoded."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        login_match = _BARE_LOGIN.fullmatch(address)
        return _encoded_forms(login_match[3]) if login_match else set()
    login, at, host_and_path = _split_login(address, rest)
    secrets = {value for name, value in _OPTION.findall(host_and_path) if _is_secret(name, value)}
    secrets |= {inner for value in secrets for inner in _secrets_within(unquote_plus(value))}
    if at:
        user, _, password = login.partition(":")
        secrets |= {password} if password else set() if _names_a_user(scheme) else {user}
    return {form for secret in secrets for form in _encoded_forms(secret)}


def _names_a_user(scheme: str) -> bool:
    return scheme.strip().lower().partition("+")[0] in _USER_SCHEMES


def _is_secret(name: str, value: str) -> bool:
    """Whether an option is secret by its name, or its value holds a login or an assignment: odbc_connect=...;PWD=..."""
    return bool(_SECRET.search(unquote(name)) or _secrets_within(unquote_plus(value)))


def _secrets_within(text: str) -> set[str]:
    """Return the secrets in a text: those of its addresses, and values assigned to names of secrets."""
    secrets = {match[5] for match in _ASSIGNED.finditer(text)}
    return secrets.union(*(secrets_of(match[0]) for match in _ADDRESS.finditer(text)))


def remember(address: str) -> str:
    """Return the address unchanged, and redact its secrets in all later messages of this process."""
    _known_secrets.update(secret for secret in secrets_of(address) if len(secret) >= _LEAST_LENGTH)
    return address


def remember_command_secrets(arguments: Iterable[str], environment: Mapping[str, str]) -> None:
    """Remember the secrets in the flags and in the environment of a command before it runs."""
    values = [argument.partition("=")[2] if argument.startswith("--") else argument for argument in arguments]
    for value in (*values, *environment.values()):
        if "://" in value:  # without it, many values that are not addresses look like a login
            remember(value)
    for name, value in environment.items():
        if _VARIABLE.search(name.upper()):
            _known_secrets.update(secret for secret in _encoded_forms(value) if len(secret) >= _LEAST_LENGTH)


def hidden(text: str) -> str:
    """Return a message without secrets: remembered secrets, and secrets in addresses and assignments that it quotes."""
    for secret in sorted(_known_secrets, key=len, reverse=True):
        text = text.replace(secret, MARK)
    text = _ADDRESS.sub(lambda match: hide_password(match[0]), text)
    return _ASSIGNED.sub(lambda match: f"{match[1]}{match[2]}{match[3] or ''}{match[4] or ''}{MARK}", text)


class CleanStream:
    """An error stream that redacts secrets in all that is written to it: tracebacks, warnings, logs of drivers."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, with its secrets redacted."""
        self._stream.write(hidden(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, with their secrets redacted."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _encoded_forms(secret: str) -> set[str]:
    """Return a secret as it is written, decoded, and encoded in the ways that are used in addresses."""
    decoded = unquote(secret)
    forms = {secret, decoded, unquote_plus(decoded), quote(decoded), quote_plus(decoded), quote(decoded, safe="")}
    return forms - {"", MARK}


def _split_login(address: str, rest: str) -> tuple[str, str, str]:
    """Split an address into the login before the host, the @ if there is one, and the host with everything after it."""
    try:
        netloc = urlsplit(address).netloc
    except ValueError:  # for example a bracket in the password
        netloc = rest
    if "@" in netloc:
        login, at, host = netloc.rpartition("@")
        return login, at, host + rest[len(netloc) :]
    if _is_login(address):  # SQLAlchemy's passwords may hold / ? and #
        login, at, host_and_path = rest.rpartition("@")
        return login, at, host_and_path
    return "", "", rest


def _is_login(address: str) -> bool:
    """Whether SQLAlchemy finds a password in a database's address."""
    scheme, _, rest = address.partition("://")
    if "@" not in rest or ":" not in rest.partition("@")[0] or scheme.lower() in ("http", "https", "s3", "gs", "file"):
        return False
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return bool(make_url(address).password)
    except (ArgumentError, ValueError):  # for example a port that is not a number: treat it as a login, to be safe
        return True
