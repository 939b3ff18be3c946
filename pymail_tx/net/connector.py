"""
Opens sessions with one server, with as much TLS as its target or its policy asks.

Levels of TLS (protocol-wise see RFC 3207, RFC 8314):

  - C{none}: plain text.
  - C{opportunistic}: TLS with any certificate; if STARTTLS is refused or its
    handshake breaks, plain text over a fresh connection. In TLS 1.3 a server
    judges the handshake when ours is over already (RFC 8446 §2), so a
    connection lost before the EHLO behind it counts as broken as well.
  - C{encrypted}: TLS with any certificate, or the message waits.
  - C{verified}: TLS with a certificate that verifies, or the message waits.
  - C{dane}: TLS with a certificate that a TLSA record vouches for, or the
    message waits.

With credentials (L{pymail_tx.net.login}) it is always C{verified}.

A host that offers PIPECONNECT (Exim's) takes EHLO and a mail transaction's
commands before it greets, which saves the waits for its greeting and for its
EHLO reply. They are sent so where nothing has to be agreed on first: the session
before had neither TLS nor credentials, and where TLS is C{opportunistic},
STARTTLS was not offered. A host whose EHLO reply then differs in anything, a
new STARTTLS included, has heard an envelope in plain text, but gets no content:
it is forgotten, and the message goes the ordinary way.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IProtocol, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure

from pymail_tx.core.address import ascii_domain
from pymail_tx.core.errors import BadArgument, NoConnection, NotOffered, Refused, SessionError, SessionLost, TLSFailed
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.mechanisms import Identity
from pymail_tx.core.outcome import Peer
from pymail_tx.core.routes import Scheme, Target, TLSPolicy
from pymail_tx.core.state import State
from pymail_tx.core.tlspolicy import TLSDecision, TLSLevel
from pymail_tx.net import eyeballs, opening
from pymail_tx.net.login import Login
from pymail_tx.net.protocol import SMTPClient, SMTPClientFactory
from pymail_tx.net.tls import ClientCertificate, ClientTLS
from pymail_tx.net.transcript import Transcript

CONNECT_TIMEOUT_S = 30
"""For the look-up of the name and all its addresses."""


_SERVERS = frozenset({Scheme.SMTP, Scheme.SMTPS, Scheme.LMTP, Scheme.LMTP_UNIX})

_LEVELS: Mapping[TLSPolicy | None, TLSLevel] = {
    TLSPolicy.NONE: TLSLevel.NONE,
    TLSPolicy.OPPORTUNISTIC: TLSLevel.OPPORTUNISTIC,
    TLSPolicy.REQUIRED: TLSLevel.ENCRYPTED,
    TLSPolicy.VERIFIED: TLSLevel.VERIFIED,
}
"""Of targets that no policy is weighed for."""

_PLAIN_TEXT_WILL_DO = frozenset({TLSLevel.NONE, TLSLevel.OPPORTUNISTIC})


class Connector:
    """
    @ivar peer: the server, before any session with it.
    @ivar addresses: where it is; if there are none, its name is looked up.
    @ivar lmtp: it speaks LMTP (RFC 2033).
    """

    def __init__(  # noqa: PLR0913  # all that a connection depends on
        self,
        reactor: IReactorTime,
        target: Target,
        *,
        hostname: str,
        trust_root: str | None,
        decision: TLSDecision | None = None,
        login: Login | None = None,
        certificate: ClientCertificate | None = None,
        source_address: str | None = None,
        transcript: Transcript | None = None,
    ) -> None:
        """
        @param target: its credentials are not looked at.
        @param hostname: our name, for EHLO.
        @param decision: the TLS that the server's policy asks for, and not the
            target. Plain text will do then only where that says so.
        @param login: authenticates; without it nobody does.
        @param certificate: ours, for a server that asks for one.
        @param source_address: of ours, to connect from.
        @param transcript: keeps what is said in each session.
        @raise BadArgument: the target is not one to connect to, C{trust_root} or
            C{certificate} cannot be read, or C{source_address} is none.
        """
        if target.scheme not in _SERVERS:
            raise BadArgument("server", f"{target} is no server; write smtp://host:port, smtps://… or lmtp://…")
        if source_address is not None and not eyeballs.is_address(source_address):
            raise BadArgument("source_address", f"{source_address!r} is no IPv4 or IPv6 address")
        self.peer = Peer(host=target.host or target.path, port=target.port or None)
        self.lmtp = target.scheme in (Scheme.LMTP, Scheme.LMTP_UNIX)
        self._reactor = reactor
        self.addresses: Sequence[str] = ()
        self._target = target
        self._decision = decision
        self._level = decision.level if decision else _LEVELS[TLSPolicy.VERIFIED if login else target.tls]
        self._login = login
        self._hostname = ascii_domain("hostname", hostname)
        self._trust_root = trust_root
        self._certificate = certificate
        self._source_address = source_address
        self._transcript = transcript
        self._known: Extensions | None = None
        if self._level is not TLSLevel.NONE:
            self._creator()  # what is wrong with a file is wrong now, and not with a message later

    async def open(self, connected: Callable[[SMTPClient], object], *, helo: bool) -> SMTPClient:
        """
        Open a session, ready for mail; if the host is known to take commands
        before its greeting, as soon as there is a connection.

        @param connected: hears of each connection, also of one that does not
            become a session.
        @param helo: whether a session without extensions will do.
        @raise SessionError: none came about; its C{peer} says with whom.
        """
        if self._known is not None:
            return await self._open_early(connected, self._known)
        identity = await self._login.identity() if self._login else None
        starttls = self._target.scheme is not Scheme.SMTPS and self._level is not TLSLevel.NONE
        try:
            return await self._open(connected, identity, starttls=starttls, helo=helo)
        except SessionError as error:
            if not _is_tls_trouble(error):
                raise
            if self._level is TLSLevel.OPPORTUNISTIC:
                return await self._open(connected, identity, starttls=False, helo=helo)
            error.without_tls = True
            raise

    def forget(self) -> None:
        """The host did not do as it was known to."""
        self._known = None

    async def _open_early(self, connected: Callable[[SMTPClient], object], offers: Extensions) -> SMTPClient:
        client = await self._connect()
        connected(client)
        client.assume(offers, opening.early_hello(self._hostname))
        return client

    async def _open(
        self, connected: Callable[[SMTPClient], object], identity: Identity | None, *, starttls: bool, helo: bool
    ) -> SMTPClient:
        client = await self._connect()
        connected(client)
        try:
            await self._negotiate(client, identity, starttls=starttls, helo=helo)
        except SessionError as error:
            error.peer = client.peer()
            leave(client)
            raise
        except BaseException:  # a cancel, which closed it already, or a bug: no session outlives its message
            client.abort()
            raise
        self._known = client.extensions if self._can_be_early(client) else None
        return client

    def _can_be_early(self, client: SMTPClient) -> bool:
        offers = client.extensions
        if client.tls or self._login or self.lmtp or not {"PIPELINING", "PIPECONNECT"} <= offers.keywords.keys():
            return False
        return self._level is TLSLevel.NONE or "STARTTLS" not in offers

    async def _negotiate(self, client: SMTPClient, identity: Identity | None, *, starttls: bool, helo: bool) -> None:
        plain_will_do = self._level in _PLAIN_TEXT_WILL_DO
        await opening.greet(client, self._hostname, helo=helo and plain_will_do and not self.lmtp)
        if starttls and not (plain_will_do and "STARTTLS" not in client.extensions):
            await self._secure(client)
        if self._login and identity:
            await self._login.authenticate(client, identity)

    async def _secure(self, client: SMTPClient) -> None:
        try:
            await opening.secure(client, self._hostname, self._creator())
        except SessionLost as lost:
            raise TLSFailed(f"STARTTLS: {lost}") from None
        except NotOffered as lacking:
            lacking.without_tls = True
            raise
        except BadArgument as problem:  # a file that was good when the agent was made
            raise TLSFailed(str(problem)) from None

    async def _connect(self) -> SMTPClient:
        implicit_tls = self._creator if self._target.scheme is Scheme.SMTPS else None
        factory = SMTPClientFactory(
            self._reactor, host=self.peer.host, implicit_tls=implicit_tls, lmtp=self.lmtp, transcript=self._transcript
        )
        try:
            client = await self._connecting(factory).addTimeout(CONNECT_TIMEOUT_S, self._reactor)
        except (DeferredTimeout, ConnectTimeout):
            raise self._no_connection(f"no answer within {CONNECT_TIMEOUT_S} s") from None
        except (ConnectError, OSError, ValueError) as problem:
            raise self._no_connection(str(problem)) from None
        assert isinstance(client, SMTPClient)
        return client

    def _connecting(self, factory: SMTPClientFactory) -> Deferred[IProtocol]:
        target = self._target
        if target.scheme is Scheme.LMTP_UNIX:
            connecting: Deferred[IProtocol] = UNIXClientEndpoint(self._reactor, target.path).connect(factory)
            return connecting
        return Deferred.fromCoroutine(self._connecting_by_tcp(factory))

    async def _connecting_by_tcp(self, factory: SMTPClientFactory) -> IProtocol:
        target, source = self._target, self._source_address
        if self.addresses:
            known = [eyeballs.address_of(address, target.port) for address in self.addresses]
            return await eyeballs.connect_to(self._reactor, known, factory, source=source)
        return await eyeballs.connect(self._reactor, target.host, target.port, factory, source=source)

    def _no_connection(self, problem: str) -> NoConnection:
        port = f" port {self.peer.port}" if self.peer.port else ""
        return NoConnection(f"no connection to {self.peer.host}{port}: {problem}")

    def _creator(self) -> ClientTLS:
        return ClientTLS(
            self._target.host,
            must_verify=self._level is TLSLevel.VERIFIED,
            trust_root=self._trust_root,
            certificate=self._certificate,
            decision=self._decision,
        )


def has_unread(client: SMTPClient) -> bool:
    """
    Whether octets or the end of the connection have come that nobody has read
    yet. On an idle connection either means that it is not to be used.
    """
    if not IReadDescriptor.providedBy(client.transport):
        return False
    poll = select.poll()
    poll.register(client.transport.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def leave(client: SMTPClient) -> None:
    """Say good-bye in the background; the protocol gives it 5 s."""
    if client.state in (State.READY, State.CONNECTED, State.TURNED_AWAY):
        client.quit().addErrback(_is_over)
    elif client.state is not State.CLOSED:
        client.abort()


def _is_over(failure: Failure) -> None:
    """All was decided before QUIT: how the session ends does not matter."""
    failure.trap(SessionError)


def _is_tls_trouble(error: SessionError) -> bool:
    """STARTTLS refused or its handshake broken, as opposed to anything that plain text would meet as well."""
    return isinstance(error, TLSFailed) or (isinstance(error, Refused) and error.step == "STARTTLS")
