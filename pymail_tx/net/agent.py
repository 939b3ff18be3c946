"""
The agent: from a message and a server to a L{Report}.

L{SMTPAgent} is the face of it: it takes a message in any of its forms, hands it
to a L{Server <pymail_tx.net.server.Server>}, which keeps connections to one, and
counts. Whatever a server, DNS or the network can do becomes an Outcome, here at
the latest; above, outcomes are values.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from email.message import EmailMessage
from typing import BinaryIO

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pymail_tx.core.content import Content
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument, OutOfOrder
from pymail_tx.core.mechanisms import External, Identity
from pymail_tx.core.message import has_utf8_addresses, message_octets
from pymail_tx.core.outcome import Report, Status
from pymail_tx.core.pool import IDLE_TIMEOUT_S, MAX_CONNECTIONS, MAX_MESSAGES_PER_CONNECTION, Limits
from pymail_tx.core.routes import Target
from pymail_tx.net.connector import Connector
from pymail_tx.net.file_content import look_through
from pymail_tx.net.login import Login, TokenSource
from pymail_tx.net.server import Server
from pymail_tx.net.tls import ClientCertificate
from pymail_tx.net.transaction import Sending
from pymail_tx.net.transcript import Transcript


@frozen(kw_only=True)
class Statistics:
    """
    What an agent does, and has done since it was made.

    @ivar waiting: messages that wait for a connection.
    @ivar opening: connections being opened.
    @ivar idle: connections without a message.
    @ivar busy: connections that send.
    @ivar opened: connections opened so far.
    @ivar delivered: recipients so far, by their outcome's status.
    @ivar deferred: likewise.
    @ivar failed: likewise.
    """

    waiting: int
    opening: int
    idle: int
    busy: int
    opened: int
    delivered: int
    deferred: int
    failed: int


class SMTPAgent:
    """
    Sends messages to one server, over connections that it keeps for the next.
    """

    def __init__(  # noqa: PLR0913  # limits, each with a default
        self,
        reactor: IReactorTime,
        server: str,
        *,
        hostname: str = "localhost",
        trust_root: str | None = None,
        credentials: Identity | TokenSource | None = None,
        minimum_mechanism: str | None = None,
        client_certificate: ClientCertificate | None = None,
        source_address: str | None = None,
        nonce: Callable[[], str] = secrets.token_urlsafe,
        transcript: Transcript | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_messages_per_connection: int = MAX_MESSAGES_PER_CONNECTION,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        rate: float | None = None,
    ) -> None:
        """
        @param reactor: makes connections and keeps the time.
        @param server: C{smtp://[user:password@]host[:port][?tls=…]},
            C{smtps://…}, C{lmtp://host:port} or C{lmtp+unix:///path}.
        @param hostname: our name, for EHLO.
        @param trust_root: a file of CA certificates in PEM; by default OpenSSL's
            store.
        @param credentials: instead of those of C{server}:
            L{pymail_tx.core.sasl.Credentials}, L{BearerToken
            <pymail_tx.core.mechanisms.BearerToken>}, L{TokenSource} or
            L{External}. With credentials, whatever C{?tls=} says, the server's
            certificate must verify.
        @param minimum_mechanism: the weakest SASL mechanism that will do, such
            as C{"SCRAM-SHA-256"}; by default any.
        @param client_certificate: ours, for a server that asks for one.
        @param source_address: of ours, IPv4 or IPv6, to connect from. Servers'
            addresses of the other family are out of reach then.
        @param nonce: makes SCRAM's nonces: random, at least 16 printable ASCII
            characters without a comma.
        @param transcript: keeps what is said in each session.
        @param max_connections: this and what follows: see L{Limits}.
        @raise BadArgument: an argument is not what it should be, or
            C{trust_root} cannot be read.
        """
        self._reactor = reactor
        target = Target.parse(server)
        given = target.credentials if credentials is None else credentials
        if isinstance(given, External) and client_certificate is None:
            raise BadArgument("credentials", "External needs client_certificate=")
        if minimum_mechanism is not None and given is None:
            raise BadArgument("minimum_mechanism", "there are no credentials to use it with")
        login = Login(reactor, given, nonce=nonce, minimum=minimum_mechanism) if given else None
        connector = Connector(
            reactor, target, hostname=hostname, trust_root=trust_root, login=login, certificate=client_certificate,
            source_address=source_address, transcript=transcript,
        )  # fmt: skip
        limits = Limits(
            max_connections=max_connections,
            max_messages_per_connection=max_messages_per_connection,
            idle_timeout_s=idle_timeout_s,
            rate=rate,
        )
        self._server = Server(reactor, connector, hostname=hostname, limits=limits, changed=self._maybe_closed)
        self._unfinished: dict[Sending, Deferred[Report]] = {}
        self._looking: set[Deferred[Content]] = set()
        self._closed: Deferred[None] | None = None
        self._counts: Counter[Status] = Counter()

    def send(
        self,
        envelope: Envelope,
        content: bytes | EmailMessage | BinaryIO,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Deferred[Report]:
        """
        Send a message.

        @param content: header and body, as octets; as an C{EmailMessage}, whose
            Bcc is left out; or as a binary, seekable file, which is streamed
            from where it stands, and must stay open and as it is until then.
        @param progress: called with the octets of the content sent so far, the
            last time with all of them; for each transaction anew.
        @return: fires with the outcome for each recipient, whatever a server
            or the network does. Fails with L{OutOfOrder} after L{close}, and
            with L{BadArgument} if C{content} cannot be sent. Cancelled, it
            fails with CancelledError; what was not sent yet is not sent, and
            other messages are not harmed.
        """
        if self._closed:
            return fail(OutOfOrder("the agent is closed"))
        if isinstance(content, bytes):
            return self._send(envelope, Content.of(content), progress)
        if isinstance(content, EmailMessage):
            try:
                if envelope.needs_smtputf8 and has_utf8_addresses(content):
                    envelope = evolve(envelope, smtputf8=True)  # the header needs it, whoever the recipient is
                octets = message_octets(content, smtputf8=envelope.smtputf8)
            except BadArgument:
                return fail()
            return self._send(envelope, Content.of(octets), progress)
        return self._send_file(envelope, content, progress)

    def _send_file(
        self, envelope: Envelope, file: BinaryIO, progress: Callable[[int], object] | None
    ) -> Deferred[Report]:
        looking = Deferred.fromCoroutine(look_through(self._reactor, file))
        self._looking.add(looking)

        def looked(content: Content | Failure) -> Deferred[Report] | Failure:
            self._looking.discard(looking)
            if isinstance(content, Content):
                return self._send(envelope, content, progress)
            self._maybe_closed()
            return content

        return looking.addBoth(looked)

    def _send(self, envelope: Envelope, content: Content, progress: Callable[[int], object] | None) -> Deferred[Report]:
        sent: Deferred[Report] = Deferred(self._cancel)
        sending = Sending(envelope, content, self._done, progress)
        self._unfinished[sending] = sent
        self._server.submit(sending)
        return sent

    def _done(self, sending: Sending, report: Report) -> None:
        for outcome in report.outcomes:
            self._counts[outcome.status] += 1
        sent = self._unfinished.pop(sending)
        if self._closed:
            self._maybe_closed()
        sent.callback(report)

    def close(self) -> Deferred[None]:
        """
        Send no more, finish what is under way and say good-bye (5 s at most).

        @return: fires when no connection and no delayed call is left. It is not
            to be cancelled; cancel what is under way.
        """
        if self._closed is None:
            self._closed = Deferred()
            self._server.keep_no_more()
        waiter: Deferred[None] = Deferred()
        self._closed.chainDeferred(waiter)
        return waiter

    def statistics(self) -> Statistics:
        """What it does, and has done."""
        load, counts = self._server.load(), self._counts
        return Statistics(
            waiting=load.waiting,
            opening=load.opening,
            idle=load.idle,
            busy=load.busy,
            opened=load.opened,
            delivered=counts[Status.DELIVERED],
            deferred=counts[Status.DEFERRED],
            failed=counts[Status.FAILED],
        )

    def _cancel(self, sent: Deferred[Report]) -> None:
        sending = next(one for one, waiting in self._unfinished.items() if waiting is sent)
        sending.done = lambda _, report: None
        self._server.cancel(sending)
        del self._unfinished[sending]
        self._maybe_closed()

    def _maybe_closed(self) -> None:
        closed = self._closed
        if closed is None or closed.called or self._unfinished or self._looking:
            return
        if self._server.end() and not closed.called:  # which may have come about in the middle of it
            closed.callback(None)
