"""
Where a recipient's mail goes: C{PATTERN=TARGET}, the first match wins.

A L{Pattern} looks at the recipient's domain; a L{Target} names the way there.
Both are read strictly, since a typo in a route sends mail to the wrong place:
what is not understood is refused, with words that say what to write instead.
A target that can be written need not be deliverable yet; that is for those to
say who deliver.

A password never shows: not in a repr, not in C{str}, and not in an error,
however wrongly the target around it is written.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote, unquote_to_bytes

from attrs import evolve, field, frozen

from pymail_tx.core.address import ascii_domain, before_port
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.secret import Secret

MAX_REJECT_OCTETS = 500
"""A refusal's text: with C{550 5.7.1} and CRLF it fills a reply line (RFC 5321 §4.5.3.1.5: 512)."""

MAX_SOCKET_PATH_OCTETS = 107
"""Linux's C{sockaddr_un} has 108, with a NUL at the end."""


class Scheme(enum.Enum):
    """The ways to deliver; the value stands before a target's colon."""

    SMTP = "smtp"
    SMTPS = "smtps"
    LMTP = "lmtp"
    LMTP_UNIX = "lmtp+unix"
    MX = "mx"
    MAILDIR = "maildir"
    DISCARD = "discard"
    REJECT = "reject"


class TLSPolicy(enum.Enum):
    """How much TLS a server must offer; the value stands behind C{?tls=}."""

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"
    VERIFIED = "verified"
    DANE = "dane"


@frozen
class PasswordSource:
    """
    Where a password is kept that does not stand in the target itself.

    @ivar kind: C{"password_file"} or C{"password_env"}, as in the target.
    @ivar name: the file's path or the environment variable's name.
    """

    kind: str
    name: str


@frozen(kw_only=True)
class Target:
    """
    One way to deliver. Which of the attributes mean something depends on the
    scheme.

    @ivar host: a domain in ASCII or an address without brackets.
    @ivar tls: C{None} leaves it to each recipient's domain, C{mx:} only.
    @ivar user: C{""} without credentials.
    @ivar password: C{None} without credentials.
    @ivar path: of the maildir or the Unix socket.
    @ivar text: of the refusal.
    """

    scheme: Scheme
    host: str = ""
    port: int = 0
    tls: TLSPolicy | None = TLSPolicy.NONE
    user: str = ""
    password: Secret | PasswordSource | None = None
    path: str = ""
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Target:
        """
        @param text: C{smtp://[user:password@]host[:port]}, C{smtps://…},
            C{lmtp://host:port}, C{lmtp+unix:///path}, C{mx:}, C{maildir:PATH},
            C{discard:} or C{reject:TEXT}. User and password are percent-encoded.
        @raise BadArgument: it is none of them.
        """
        name, colon, rest = text.partition(":")
        try:
            scheme = Scheme(name.lower())
        except ValueError:
            colon = ""
        if not colon:
            raise BadArgument("target", f"{shown(text)!r} is not known; {_KNOWN}")
        return _PARSERS[scheme](_Text(scheme, rest))

    @property
    def credentials(self) -> Credentials | None:
        """
        @raise BadArgument: the password has not been read from its source.
        """
        if isinstance(self.password, PasswordSource):
            raise BadArgument("target", f"the password of {self} has not been read")
        return None if self.password is None else Credentials(self.user, self.password)

    def with_password(self, read: Callable[[PasswordSource], Secret]) -> Target:
        """
        The same with the password itself.

        @param read: opens the source; not called if the target has none.
        """
        return evolve(self, password=read(self.password)) if isinstance(self.password, PasswordSource) else self

    def reveal(self) -> str:
        """The target as L{parse} takes it, a password included."""
        return _WRITERS[self.scheme](self, lambda secret: quote(secret.reveal(), safe=""))

    def __str__(self) -> str:
        return _WRITERS[self.scheme](self, str)


@frozen
class Pattern:
    """
    Which domains a route is for.

    @ivar text: as written.
    """

    text: str
    _domain: re.Pattern[str] = field(repr=False, eq=False)

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """
        @param text: C{example.org}; C{.example.org}, its subdomains; C{*},
            all; or C{/regular expression/} for the whole domain, which it meets
            in A-labels (RFC 5890). Case does not matter.
        @raise BadArgument: it is none of them.
        """
        try:
            expression = _expression(text)
            return cls(text, re.compile(expression, re.IGNORECASE | re.ASCII))
        except re.error as problem:
            raise BadArgument("pattern", f"{text!r} is no regular expression: {problem}") from None
        except BadArgument:
            raise BadArgument("pattern", f"{shown(text)!r} is no domain; {_PATTERNS}") from None

    def matches(self, domain: str) -> bool:
        """
        @param domain: in A-labels.
        """
        return self._domain.fullmatch(domain) is not None

    def __str__(self) -> str:
        return self.text


@frozen
class Route:
    """Mail for the domains of C{pattern} goes to C{target}."""

    pattern: Pattern
    target: Target

    @classmethod
    def parse(cls, text: str) -> Route:
        """
        @param text: C{PATTERN=TARGET}.
        @raise BadArgument: it is no route.
        """
        found = _ROUTE.match(text)
        if not found:
            raise BadArgument("route", f"{shown(text)!r} is no PATTERN=TARGET; write for example '*=maildir:var/mail'")
        return cls(Pattern.parse(found[1]), Target.parse(found[2]))

    def __str__(self) -> str:
        return f"{self.pattern}={self.target}"


@frozen
class Routes:
    """The routes in their order."""

    routes: tuple[Route, ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Routes:
        """
        @raise BadArgument: one of them is no route.
        """
        return cls(tuple(Route.parse(text) for text in texts))

    def find(self, domain: str) -> Route | None:
        """
        The first route whose pattern matches.

        @param domain: of a recipient's mailbox; U-labels are compared as A-labels.
        @raise BadArgument: it is no domain.
        """
        ascii_only = domain if domain.isascii() else ascii_domain("domain", domain)
        return next((route for route in self.routes if route.pattern.matches(ascii_only)), None)


def shown(text: str) -> str:
    """
    What somebody wrote, for an error, without whatever could be a password had
    the rest been right: all before the last C{@}, what stands for a port where
    the host may be a user, and parameters.
    """
    before, at, after = text.rpartition("@")
    if not at:
        return _cut(_SAFE, text)
    found = _BEFORE_LOGIN.match(before)
    return f"{found[0] if found else ''}…@{_cut(_BEHIND_LOGIN, after)}"


def _cut(safe: re.Pattern[str], text: str) -> str:
    found = safe.match(text)
    kept = found[0] if found else ""
    return kept if kept == text else f"{kept}…"


_KNOWN = (
    "write for example smtp://mail.example.org:587, smtps://user:password@mail.example.org, maildir:var/mail, "
    "discard: or reject:TEXT"
)
_PATTERNS = "write example.org, .example.org for its subdomains, * for every domain, or /regular expression/"

_ROUTE = re.compile(r"(/.+?/|[^/=][^=]*)=(.+)\Z", re.DOTALL)
_BEFORE_LOGIN = re.compile(r"(?:[^:@=]*=)?[A-Za-z+]+:(?://)?")
_BEHIND_LOGIN = re.compile(r"[^?]*(?:\?tls=[a-z]*\Z)?")
_SAFE = re.compile(
    r"""
    (?: [^:=]* = )?
    (?: (?: maildir | discard | reject | mx ) : (?!//) .*
      | [^:]* :// (?: \[ [^\]]* \] | [^:/?]* ) (?: \? tls= [a-z]* \Z )?
      | [^:]*
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_SERVER = re.compile(
    r"""
    // (?: (?P<userinfo> [^/?\#@]* ) @ )?
    (?: \[ (?P<ipv6> [^\]]* ) \] | (?P<host> [^:/?\#@\[\]]+ ) )
    (?: : (?P<port> [0-9]{1,5} ) )?
    /? (?: \? (?P<query> .* ) )? \Z
    """,
    re.VERBOSE | re.DOTALL,
)
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@frozen
class _Text:
    """What stands behind a target's colon, and the errors about it."""

    scheme: Scheme
    rest: str

    def wrong(self, problem: str) -> BadArgument:
        return BadArgument("target", f"{shown(f'{self.scheme.value}:{self.rest}')!r} {problem}")

    def query(self, text: str | None, known: Iterable[str]) -> Mapping[str, str]:
        """The parameters behind the question mark; their values never show."""
        parameters: dict[str, str] = {}
        for pair in text.split("&") if text else ():
            key, _, value = pair.partition("=")
            if key not in known or key in parameters or not value:
                raise self.wrong(f"has parameters other than one each of {', '.join(f'{name}=…' for name in known)}")
            parameters[key] = self.decoded(key, value)
        return parameters

    def decoded(self, what: str, text: str) -> str:
        """Percent-decoding, strict: what cannot be decoded was not encoded."""
        try:
            if _PERCENT.search(text):
                raise ValueError
            decoded = unquote_to_bytes(text).decode()
            if "\0" in decoded:
                raise ValueError
        except ValueError:
            raise self.wrong(
                f"has a {what} that is not percent-encoded; write %25 for %, %40 for @, %3A for :"
            ) from None
        return decoded

    def port(self, digits: str | None, default: int) -> int:
        port = default if digits is None else int(digits) if digits.isdecimal() and digits.isascii() else 0
        if not 1 <= port <= 65_535:
            raise self.wrong("has no port between 1 and 65535")
        return port

    def host(self, found: re.Match[str]) -> str:
        try:
            if found["ipv6"] is not None:
                return str(ipaddress.IPv6Address(found["ipv6"]))
            return ascii_domain("target", found["host"])
        except (BadArgument, ValueError):
            raise self.wrong("has no host name or address; an IPv6 address stands in brackets") from None


# RFC 8314 §3.3 has implicit TLS on 465; relays meet each other on 25. LMTP has
# no port of its own and must not use 25 (RFC 2033 §5).
_DEFAULT_PORT = {Scheme.SMTP: 25, Scheme.SMTPS: 465, Scheme.LMTP: 0}

_ANY_TLS = frozenset(TLSPolicy)
_REAL_TLS = frozenset({TLSPolicy.REQUIRED, TLSPolicy.VERIFIED, TLSPolicy.DANE})
_PROVEN_TLS = frozenset({TLSPolicy.VERIFIED, TLSPolicy.DANE})


def _smtp(text: _Text) -> Target:
    found = _SERVER.match(text.rest)
    if not found:
        raise text.wrong(
            f"is no server; write {text.scheme.value}://[user:password@]host[:port][?tls=…] "
            "with user and password percent-encoded"
        )
    query = text.query(found["query"], ("tls", "password_file", "password_env"))
    user, password = _login(text, found["userinfo"], query)
    return Target(
        scheme=text.scheme,
        host=text.host(found),
        port=text.port(found["port"], _DEFAULT_PORT[text.scheme]),
        tls=_tls(text, query.get("tls"), with_credentials=password is not None),
        user=user,
        password=password,
    )


def _login(text: _Text, userinfo: str | None, query: Mapping[str, str]) -> tuple[str, Secret | PasswordSource | None]:
    user, _, password = (userinfo or "").partition(":")
    sources: list[Secret | PasswordSource] = [
        PasswordSource(kind, query[kind]) for kind in ("password_file", "password_env") if kind in query
    ]
    if password:
        sources.append(Secret(text.decoded("password", password)))
    if userinfo is None and not sources:
        return "", None
    if not user or len(sources) != 1:
        raise text.wrong(
            "needs a user and one password: user:password@host, user@host?password_file=PATH "
            "or user@host?password_env=NAME"
        )
    return text.decoded("user", user), sources[0]


def _tls(text: _Text, value: str | None, *, with_credentials: bool) -> TLSPolicy:
    """Credentials always imply verified; behind smtps there is no plain text to fall back on."""
    allowed, why = _ANY_TLS, ""
    if text.scheme is Scheme.SMTPS:
        allowed, why = _REAL_TLS, ": smtps:// always speaks TLS"
    if with_credentials:
        allowed, why = _PROVEN_TLS, ": a password goes to a server with a verified certificate only"
    if value is None:
        return TLSPolicy.OPPORTUNISTIC if TLSPolicy.OPPORTUNISTIC in allowed else TLSPolicy.VERIFIED
    words = [policy.value for policy in TLSPolicy if policy in allowed]
    if value not in words:
        raise text.wrong(f"cannot have tls={value}, only {', '.join(words)}{why}")
    return TLSPolicy(value)


def _lmtp(text: _Text) -> Target:
    found = _SERVER.match(text.rest)
    if not found or found["userinfo"] is not None or found["port"] is None:
        raise text.wrong("is no LMTP server; write lmtp://host:port[?tls=…]")
    query = text.query(found["query"], ("tls",))
    return Target(
        scheme=Scheme.LMTP,
        host=text.host(found),
        port=text.port(found["port"], _DEFAULT_PORT[Scheme.LMTP]),
        tls=_tls(text, query.get("tls"), with_credentials=False),
    )


def _lmtp_unix(text: _Text) -> Target:
    path = text.rest.removeprefix("//")
    if not path.startswith("/") or path == "/" or "\0" in path:
        raise text.wrong("is no Unix socket; write lmtp+unix:///path")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH_OCTETS:
        raise text.wrong(f"has a longer path than a Unix socket can have, which is {MAX_SOCKET_PATH_OCTETS} octets")
    return Target(scheme=Scheme.LMTP_UNIX, path=path)


def _mx(text: _Text) -> Target:
    before, _, query = text.rest.partition("?")
    if before:
        raise text.wrong("is more than mx:, which finds the servers itself; for one server write smtp://host")
    given = text.query(query, ("port", "tls"))
    tls = _tls(text, given["tls"], with_credentials=False) if "tls" in given else None
    return Target(scheme=Scheme.MX, port=text.port(given.get("port"), 25), tls=tls)


def _maildir(text: _Text) -> Target:
    if not text.rest or "\0" in text.rest:
        raise text.wrong("has no path; write for example maildir:var/mail")
    return Target(scheme=Scheme.MAILDIR, path=text.rest)


def _discard(text: _Text) -> Target:
    if text.rest:
        raise text.wrong("is more than discard:")
    return Target(scheme=Scheme.DISCARD)


def _reject(text: _Text) -> Target:
    words = text.rest
    if not words.strip() or not words.isascii() or not words.isprintable() or len(words) > MAX_REJECT_OCTETS:
        raise text.wrong(f"needs words for the sender: 1 to {MAX_REJECT_OCTETS} printable ASCII characters")
    return Target(scheme=Scheme.REJECT, text=words.strip())


def _written_server(target: Target, password: Callable[[Secret], str]) -> str:
    login, source = "", ""
    if isinstance(target.password, PasswordSource):
        login = f"{quote(target.user, safe='')}@"
        source = f"&{target.password.kind}={quote(target.password.name)}"
    elif target.password is not None:
        login = f"{quote(target.user, safe='')}:{password(target.password)}@"
    host = before_port(target.host)
    return f"{target.scheme.value}://{login}{host}:{target.port}{_written_tls(target, '?')}{source}"


def _written_tls(target: Target, mark: str) -> str:
    return f"{mark}tls={target.tls.value}" if target.tls else ""


_PARSERS: Mapping[Scheme, Callable[[_Text], Target]] = {
    Scheme.SMTP: _smtp,
    Scheme.SMTPS: _smtp,
    Scheme.LMTP: _lmtp,
    Scheme.LMTP_UNIX: _lmtp_unix,
    Scheme.MX: _mx,
    Scheme.MAILDIR: _maildir,
    Scheme.DISCARD: _discard,
    Scheme.REJECT: _reject,
}

_WRITERS: Mapping[Scheme, Callable[[Target, Callable[[Secret], str]], str]] = {
    Scheme.SMTP: _written_server,
    Scheme.SMTPS: _written_server,
    Scheme.LMTP: _written_server,
    Scheme.LMTP_UNIX: lambda target, _: f"lmtp+unix://{target.path}",
    Scheme.MX: lambda target, _: f"mx:?port={target.port}{_written_tls(target, '&')}",
    Scheme.MAILDIR: lambda target, _: f"maildir:{target.path}",
    Scheme.DISCARD: lambda target, _: "discard:",
    Scheme.REJECT: lambda target, _: f"reject:{target.text}",
}


def _expression(text: str) -> str:
    """
    @raise BadArgument: no pattern, and no words for it yet.
    """
    if text == "*":
        return ".*"
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        return text[1:-1]
    if text.startswith("."):
        return r".+\." + re.escape(ascii_domain("pattern", text[1:]))
    return re.escape(ascii_domain("pattern", text))
