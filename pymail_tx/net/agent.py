"""
The agent: from a message and a server to a L{Report}.

It keeps connections to one server (L{pymail_tx.net.connector} opens them) and
has each send messages in a row (L{pymail_tx.net.pipeline}). Which connection
takes which message is L{pymail_tx.core.pool}'s to decide. Whatever a server, DNS
or the network can do becomes an Outcome, here at the latest; above, outcomes
are values.

One message's way::

    send -> pool -> an idle connection, or one being opened
         -> its pipeline, first or behind another message -> report
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from email.message import EmailMessage
from typing import BinaryIO

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pymail_tx.core.command import Verb, hello_command
from pymail_tx.core.content import Content
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument, OutOfOrder, SessionError
from pymail_tx.core.mechanisms import External, Identity
from pymail_tx.core.message import has_utf8_addresses, message_octets
from pymail_tx.core.outcome import Report, Status
from pymail_tx.core.pool import IDLE_TIMEOUT_S, MAX_CONNECTIONS, MAX_MESSAGES_PER_CONNECTION, Limits, Pool
from pymail_tx.core.routes import Target
from pymail_tx.net.connector import Connector, has_unread, leave
from pymail_tx.net.file_content import look_through
from pymail_tx.net.login import Login, TokenSource
from pymail_tx.net.pipeline import Pipeline
from pymail_tx.net.protocol import SMTPClient
from pymail_tx.net.tls import ClientCertificate
from pymail_tx.net.transaction import Sending
from pymail_tx.net.transcript import Transcript

_log = Logger()


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
        self._connector = Connector(
            reactor, target, hostname=hostname, trust_root=trust_root, login=login, certificate=client_certificate,
            source_address=source_address, transcript=transcript,
        )  # fmt: skip
        limits = Limits(
            max_connections=max_connections,
            max_messages_per_connection=max_messages_per_connection,
            idle_timeout_s=idle_timeout_s,
            rate=rate,
        )
        self._pool: Pool[_Connection, Sending] = Pool(limits)
        self._unfinished: dict[Sending, Deferred[Report]] = {}
        self._looking: set[Deferred[Content]] = set()
        self._clients: set[SMTPClient] = set()
        self._openings: list[Deferred[None]] = []
        self._ehlo = hello_command(Verb.LHLO if self._connector.lmtp else Verb.EHLO, hostname) + b"\r\n"
        self._chunking = True
        self._look_again: IDelayedCall | None = None
        self._closed: Deferred[None] | None = None
        self._counts: Counter[Status | str] = Counter()

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
        if self._pool.submit(sending):
            self._act()
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
            self._pool.limits = evolve(self._pool.limits, idle_timeout_s=0)
            self._act()
        waiter: Deferred[None] = Deferred()
        self._closed.chainDeferred(waiter)
        return waiter

    def statistics(self) -> Statistics:
        """What it does, and has done."""
        pool, counts = self._pool, self._counts
        return Statistics(
            waiting=pool.waiting,
            opening=pool.opening,
            idle=pool.idle,
            busy=pool.busy,
            opened=counts["opened"],
            delivered=counts[Status.DELIVERED],
            deferred=counts[Status.DEFERRED],
            failed=counts[Status.FAILED],
        )

    # What the pool decides is done here

    def _act(self) -> None:
        decisions = self._pool.decide(self._reactor.seconds())
        for connection in decisions.close:
            leave(connection.client)
        for _ in range(decisions.open):
            self._open()
        self._look_again_in(decisions.look_again_s)
        stale = [pair for pair in decisions.use if pair[0].is_stale()]
        for _, sending in reversed(stale):
            self._pool.resubmit(sending)
        for connection, _ in stale:
            connection.client.abort("something came on an idle connection")
        for connection, sending in decisions.use:
            if (connection, sending) not in stale:
                connection.start(sending)
        self._maybe_closed()

    def _look_again_in(self, seconds: float | None) -> None:
        if self._look_again and self._look_again.active():
            self._look_again.cancel()
        self._look_again = None if seconds is None else self._reactor.callLater(seconds, self._act)

    def _open(self) -> None:
        first = self._pool.first
        helo = first is None or not (first.envelope.needs_smtputf8 or first.envelope.requiretls)
        opening = Deferred.fromCoroutine(self._connector.open(self._connected, helo=helo))
        wanted = opening.addCallbacks(self._opened, self._not_opened)
        self._openings.append(wanted)
        wanted.addBoth(lambda _: self._openings.remove(wanted) if wanted in self._openings else None)

    def _connected(self, client: SMTPClient) -> None:
        self._clients.add(client)
        client.when_gone().addCallback(lambda _: self._gone(client))

    def _opened(self, client: SMTPClient) -> None:
        self._counts["opened"] += 1
        connection = _Connection(self, client)
        self._pool.opened(connection, self._reactor.seconds())
        client.when_gone().addCallback(lambda _: self._forget(connection))
        self._act()

    def _forget(self, connection: _Connection) -> None:
        self._pool.gone(connection)
        self._act()

    def _not_opened(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            self._pool.abandoned()
        else:
            self._unserved(failure.value if isinstance(failure.value, SessionError) else _bug(failure))
        self._act()

    def _unserved(self, error: SessionError) -> None:
        for sending in self._pool.not_opened():
            sending.verdicts.peer = error.peer or self._connector.peer
            sending.lost(error)

    def _cancel(self, sent: Deferred[Report]) -> None:
        sending = next(one for one, waiting in self._unfinished.items() if waiting is sent)
        sending.done = lambda _, report: None
        if not self._pool.withdraw(sending):
            for connection in self._pool.connections:
                connection.pipeline.cancel(sending)
        for opening in self._openings[len(self._openings) - self._pool.surplus :]:
            opening.cancel()
        del self._unfinished[sending]
        self._maybe_closed()

    def _gone(self, client: SMTPClient) -> None:
        self._clients.discard(client)
        self._maybe_closed()

    def _maybe_closed(self) -> None:
        under_way = self._unfinished or self._looking
        closing = self._closed and not self._closed.called and not under_way
        if not closing:
            return
        for opening in list(self._openings):
            opening.cancel()
        if self._closed and not self._clients and not self._closed.called:
            self._look_again_in(None)
            self._closed.callback(None)


def _bug(failure: Failure) -> SessionError:
    _log.failure("opening a session failed in a way that nobody thought of", failure)
    return SessionError("an error of ours, see the log")


class _Connection:
    """One connection of the agent, and where its pipeline gets messages from."""

    def __init__(self, agent: SMTPAgent, client: SMTPClient) -> None:
        self.client = client
        self.pipeline = Pipeline(client, owner=self, ehlo=agent._ehlo, chunking=agent._chunking)
        self._agent = agent
        self._is_fresh = True

    def is_stale(self) -> bool:
        """
        Whether the server has said or done something since the last message. A
        fresh connection never is: a server that spoils each at once would be
        connected to for ever.
        """
        return not self._is_fresh and has_unread(self.client)

    def start(self, sending: Sending) -> None:
        """Send a message. None may be under way."""
        self._is_fresh = False
        self.pipeline.start(sending)

    def take(self) -> Sending | None:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        return self._agent._pool.take(self, self._agent._reactor.seconds())

    def has_more(self) -> bool:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        return self._agent._pool.waiting > 0

    def give_back(self, sending: Sending) -> None:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        self._agent._pool.resubmit(sending)

    def at_rest(self, *, reusable: bool) -> None:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        self._agent._pool.free(self, self._agent._reactor.seconds(), reusable=reusable)
        self._agent._act()

    def ended(self) -> None:
        """See L{Owner <pymail_tx.net.pipeline.Owner>}."""
        if self.pipeline.out_of_step:
            self._agent._ehlo = b""  # this host gets no more messages in a row
        if self.client.assumed is not None:
            self._agent._connector.forget()
        if self.pipeline.knows_no_bdat:
            self._agent._chunking = False
        self._agent._forget(self)
