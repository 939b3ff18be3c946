"""
The keys of the configuration, section by section: what each takes, its default,
what it is for, and an example.

This is the one table: files are read by it, options of the command line too,
and docs/reference/configuration.md is written from it.
"""

from __future__ import annotations

import re
from collections import Counter

from attrs import evolve, frozen

from pymail_tx.config import values
from pymail_tx.config.keys import (
    either,
    flag,
    fraction,
    key,
    number,
    optional,
    required,
    section,
    sections,
    text,
    texts,
)
from pymail_tx.core import duration, verifier
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.pace import Rate, Reaction
from pymail_tx.core.retry import DEFAULT_PLAN, RetryPlan
from pymail_tx.core.routes import Pattern, Route, Routes, Scheme, Target, TLSPolicy
from pymail_tx.core.verifier import Verifier

DEFAULT_SPOOL = "sqlite:var/spool.sqlite"
DEFAULT_SMTP = "tcp:2525:interface=127.0.0.1"


@frozen(kw_only=True)
class SpoolSettings:
    """C{[spool]}."""

    url: str = key(
        text(values.spool_url),
        "The file in which accepted messages are kept until they are delivered, as `sqlite:PATH`. It cannot change "
        "while the relay runs.",
        default=DEFAULT_SPOOL,
        example="sqlite:/var/spool/pymail-tx/spool.sqlite",
    )

    @property
    def path(self) -> str:
        """Of the SQLite file."""
        return self.url.partition(":")[2]


@frozen(kw_only=True)
class User:
    """C{[[smtp.user]]}."""

    name: str = required(text(values.user_name), "What the user logs in as.", example="ann")
    verifier: Verifier = required(
        text(verifier.read, values.verifier_kind),
        "What is kept of the password, as `pymail-tx user add NAME` prints it: of scrypt, or of SCRAM-SHA-256, which "
        "clients can use without telling the password.",
        example="SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
    )


@frozen(kw_only=True)
class SMTPSettings:
    """C{[smtp]}: where messages come in."""

    listen: tuple[str, ...] = key(
        texts(values.line),
        "Where to take messages in, as Twisted's [endpoints]"
        "(https://docs.twisted.org/en/stable/core/howto/endpoints.html): `tcp:`, `ssl:`, `unix:`, `systemd:`. "
        "With `submission+` before it, clients there are users' programs (RFC 6409); with `lmtp+`, LMTP is spoken (RFC "
        "2033).",
        default=[DEFAULT_SMTP],
        example=["tcp:25", "submission+tcp:587", "lmtp+unix:/run/pymail-tx/lmtp.sock"],
    )
    relay_from: tuple[values.Network, ...] = key(
        texts(values.network),
        "The networks whose clients may send to anywhere. All others must log in.",
        default=["127.0.0.0/8", "::1/128"],
        example=["127.0.0.0/8", "::1/128", "10.0.0.0/8"],
    )
    max_message_size: int = key(
        either(number(values.MIN_MESSAGE_OCTETS, values.MAX_MESSAGE_OCTETS), text(values.size, takes="a size")),
        "How large a message may be: octets, or a text with kB, MB, KiB or MiB.",
        default="50 MiB",
        example="25 MiB",
    )
    max_connections: int = key(
        number(1, 100_000),
        "How many clients may be connected at a time. A process needs a descriptor for each; see `ulimit -n`.",
        default=1_000,
        example=200,
    )
    max_connections_per_client: int = key(
        number(1, 100_000),
        "The same for each client's address.",
        default=500,
        example=50,
    )
    tls_certificate: str | None = optional(
        text(values.line),
        "A file with the relay's certificate and those above it, in PEM, for STARTTLS. `ssl:` endpoints name their "
        "own: `ssl:465:certKey=FILE:privateKey=FILE:extraCertChain=FILE`.",
        without="STARTTLS is not offered",
        example="/etc/letsencrypt/live/relay.example.org/fullchain.pem",
    )
    tls_key: str | None = optional(
        text(values.line),
        "A file with the certificate's private key, in PEM.",
        without="it stands in the certificate's file",
        example="/etc/letsencrypt/live/relay.example.org/privkey.pem",
    )
    user: tuple[User, ...] = sections(User, "Who may log in.")

    def __attrs_post_init__(self) -> None:
        if self.tls_key and not self.tls_certificate:
            raise BadArgument("tls_key", "is of no use without a certificate; set tls_certificate, too")
        [(name, times)] = Counter(user.name for user in self.user).most_common(1) or [("", 0)]
        if times > 1:
            raise BadArgument("user", f"{name!r} is there {times} times; leave one")


@frozen(kw_only=True)
class RetrySettings:
    """C{[retry]}: when to try again."""

    plan: RetryPlan = key(
        text(RetryPlan.parse),
        "How often to wait and how long, from the first attempt on; behind its end the message goes back. Units are s, "
        "m, h and d. A route may have a plan of its own.",
        default=str(DEFAULT_PLAN),
        example="4*15m 23*1h 2*1d",
    )
    delay_warning: int | None = optional(
        text(values.delay, duration.written),
        "The age at which senders are told that their message still waits.",
        without="after 4h, and only senders that asked for it (RFC 3461, NOTIFY=DELAY)",
        example="8h",
    )
    jitter: float = key(
        fraction(0, 0.5),
        "Each wait is longer or shorter by up to this part, by chance, so that what failed together is not tried again "
        "together.",
        default=0.1,
        example=0.2,
    )


@frozen(kw_only=True)
class OnReply:
    """C{[[route.on_reply]]}."""

    match: re.Pattern[str] = required(
        text(values.regular_expression, values.source),
        "A regular expression. It is searched for in a refusal as the server wrote it, code first, on one line.",
        example=r"4\.7\.\d+ .*rate",
    )
    action: Reaction = required(
        text(Reaction.parse),
        "What then happens to the destination: `suspend DURATION`, nothing goes there for so long; `slow RATE "
        "DURATION`, no more than that.",
        example="suspend 30m",
    )


_BY_MX = Routes.parse(["*=mx:"])

_WITH_TLS = frozenset({Scheme.SMTP, Scheme.SMTPS, Scheme.LMTP, Scheme.MX})


@frozen(kw_only=True)
class RouteSettings:
    """C{[[route]]}: where mail for some domains goes."""

    match: Pattern = required(
        text(Pattern.parse),
        "Which recipients' domains: `example.org`, `.example.org` (its subdomains), `*`, or `/regular expression/`.",
        example="example.org",
    )
    to: Target = required(
        text(Target.parse),
        "Where their mail goes, see [targets](relay.md#targets).",
        example="smtp://mail.example.org:587",
    )
    max_connections: int = key(
        number(1, 1_000),
        "How many connections to a destination at a time.",
        default=20,
        example=5,
    )
    rate: Rate | None = optional(
        text(Rate.parse),
        "How many messages to a destination: a number for each s, m, h or d.",
        without="as many as it takes",
        example="100/m",
    )
    plan: RetryPlan | None = optional(
        text(RetryPlan.parse),
        "A retry plan for this route.",
        without="that of `[retry]`",
        example="12*5m 23*1h",
    )
    tls: TLSPolicy | None = optional(
        text(values.tls_policy, values.tls_word),
        "How much TLS the servers must have; the same as `?tls=` in `to`, and in its place.",
        without="what `to` says",
        example="verified",
    )
    on_reply: tuple[OnReply, ...] = sections(OnReply, "What refusals mean here; the first that matches counts.")

    def __attrs_post_init__(self) -> None:
        if self.tls and self.to.scheme not in _WITH_TLS:
            raise BadArgument("tls", f"{self.to.scheme.value}: has no TLS; leave this key out")
        if self.tls:
            self._with(self.tls)

    @property
    def target(self) -> Target:
        """C{to}, with C{tls}."""
        return self._with(self.tls) if self.tls else self.to

    def _with(self, tls: TLSPolicy) -> Target:
        """
        @raise BadArgument: they do not go together.
        """
        try:
            return Target.parse(evolve(self.to, tls=tls).reveal())
        except BadArgument as problem:
            raise BadArgument("tls", problem.words) from None


@frozen(kw_only=True)
class DNSSettings:
    """C{[dns]}: whom to ask where mail goes."""

    servers: tuple[values.Server, ...] = key(
        texts(values.Server.parse),
        "The servers to ask. Without any, those in /etc/resolv.conf.",
        default=[],
        example=["127.0.0.1:53", "[2001:db8::53]"],
    )
    trust_ad: bool | None = optional(
        flag(),
        "Whether to believe servers that say that an answer was authenticated by DNSSEC, which DANE needs.",
        without="those on this machine are believed",
        example=True,
    )


@frozen(kw_only=True)
class HTTPSettings:
    """C{[http]}: metrics and health."""

    listen: str | None = optional(
        text(values.line),
        "Where to answer HTTP, as an endpoint.",
        without="nowhere",
        example="tcp:8025:interface=127.0.0.1",
    )


@frozen(kw_only=True)
class Settings:
    """
    What a relay is to be.
    """

    hostname: str = required(
        text(values.domain),
        "The name by which this relay greets, and that stands in Received lines and bounces.",
        without="the machine's name",
        example="relay.example.org",
    )
    spool: SpoolSettings = section(SpoolSettings, "Where messages are kept.")
    smtp: SMTPSettings = section(SMTPSettings, "Where messages come in.")
    retry: RetrySettings = section(RetrySettings, "When to try again.")
    route: tuple[RouteSettings, ...] = sections(
        RouteSettings, "Where messages go. The first that matches wins. Without any, all mail goes to `mx:`."
    )
    dns: DNSSettings = section(DNSSettings, "Whom to ask about domains.")
    http: HTTPSettings = section(HTTPSettings, "Metrics and health.")

    @property
    def routes(self) -> Routes:
        """Patterns and targets in their order; the internet's way without any."""
        return Routes(tuple(Route(one.match, one.target) for one in self.route)) if self.route else _BY_MX
