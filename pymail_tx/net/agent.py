"""
The agent: from a message and a server to a L{Report}.

It connects, secures and authenticates the session as the target asks, has the
message sent and says good-bye. Whatever a server, DNS or the network can do
becomes an Outcome here, once; above, outcomes are values.

Policy of TLS (protocol-wise see RFC 3207, RFC 8314):

  - C{none}: plain text.
  - C{opportunistic}: TLS with any certificate; if STARTTLS is refused or its
    handshake breaks, plain text over a fresh connection. In TLS 1.3 a server
    judges the handshake when ours is over already (RFC 8446 §2), so a
    connection lost before the EHLO behind it counts as broken as well.
  - C{required}: TLS with any certificate, or the message waits.
  - C{verified}: TLS with a certificate that verifies, or the message waits.

Credentials that a server refused (535) are not tried again for five minutes:
one rotated password must neither bounce a queue nor lock an account.
"""

from __future__ import annotations

from typing import TypeVar

from attrs import frozen
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure

from pymail_tx.core.address import ascii_domain
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument, NoConnection, OutOfOrder, Refused, SessionError, SessionLost, TLSFailed
from pymail_tx.core.outcome import Peer, Report
from pymail_tx.core.reply import Reply
from pymail_tx.core.routes import Scheme, Target, TLSPolicy
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.state import State
from pymail_tx.core.verdicts import Verdicts
from pymail_tx.net import opening
from pymail_tx.net.protocol import SMTPClient, SMTPClientFactory
from pymail_tx.net.tls import ClientTLS

CONNECT_TIMEOUT_S = 30
"""For the look-up of the name and all its addresses; Twisted tries them side by side (RFC 8305)."""

CREDENTIALS_PAUSE_S = 300
"""How long refused credentials are left in peace at their server."""

_INVALID_CREDENTIALS = 535

_Result = TypeVar("_Result")


@frozen
class _CredentialsRefused:
    """When the server refused our credentials, and in which words."""

    at_s: float
    reply: Reply


class SMTPAgent:
    """
    Sends messages to one server.
    """

    def __init__(
        self, reactor: IReactorTime, server: str, *, hostname: str = "localhost", trust_root: str | None = None
    ) -> None:
        """
        @param reactor: makes connections and keeps the time.
        @param server: C{smtp://[user:password@]host[:port][?tls=…]} or
            C{smtps://…}.
        @param hostname: our name, for EHLO.
        @param trust_root: a file of CA certificates in PEM; by default OpenSSL's
            store.
        @raise BadArgument: C{server} or C{hostname} is not what it should be, or
            C{trust_root} cannot be read.
        """
        self._reactor = reactor
        self._target = target = Target.parse(server)
        if target.scheme not in (Scheme.SMTP, Scheme.SMTPS) or target.tls is TLSPolicy.DANE:
            raise BadArgument("server", f"{target} is not built yet; use smtp://host:port or smtps://host:port")
        self._credentials = target.credentials
        self._hostname = ascii_domain("hostname", hostname)
        self._trust_root = trust_root
        self._peer = Peer(host=target.host, port=target.port)
        self._credentials_refused: _CredentialsRefused | None = None
        self._under_way: set[Deferred[Report]] = set()
        self._clients: set[SMTPClient] = set()
        self._closed: Deferred[None] | None = None
        if target.tls is not TLSPolicy.NONE:
            self._creator()  # what is wrong with the CA file is wrong now, and not with a message later

    def send(self, envelope: Envelope, content: bytes) -> Deferred[Report]:
        """
        Send a message.

        @param content: header and body.
        @return: fires with the outcome for each recipient, whatever a server
            or the network does. Fails with L{OutOfOrder} after L{close}.
            Cancelled, it fails with CancelledError and its connection is
            closed; other messages are not harmed.
        """
        if self._closed:
            return fail(OutOfOrder("the agent is closed"))
        sending = Deferred.fromCoroutine(self._send(envelope, content))
        self._under_way.add(sending)
        return sending.addBoth(self._over, sending)

    def close(self) -> Deferred[None]:
        """
        Send no more, finish what is under way and say good-bye (5 s at most).

        @return: fires when no connection and no delayed call is left. It is not
            to be cancelled; cancel what is under way.
        """
        if self._closed is None:
            self._closed = Deferred()
            self._maybe_closed()
        waiter: Deferred[None] = Deferred()
        self._closed.chainDeferred(waiter)
        return waiter

    def _over(self, result: _Result, sending: Deferred[Report]) -> _Result:
        self._under_way.discard(sending)
        self._maybe_closed()
        return result

    def _maybe_closed(self) -> None:
        if self._closed and not self._closed.called and not self._under_way and not self._clients:
            self._closed.callback(None)

    async def _send(self, envelope: Envelope, content: bytes) -> Report:
        verdicts = Verdicts(envelope, self._peer)
        try:
            client = await self._open_as_policy_asks(verdicts)
        except SessionError as error:
            verdicts.lost(error, uncertain=False)
            return verdicts.report()
        try:
            return await client.send(envelope, content)
        finally:
            self._leave(client)

    async def _open_as_policy_asks(self, verdicts: Verdicts) -> SMTPClient:
        self._heed_refused_credentials()
        starttls = self._target.scheme is Scheme.SMTP and self._target.tls is not TLSPolicy.NONE
        try:
            return await self._open(verdicts, starttls=starttls)
        except SessionError as error:
            if self._target.tls is TLSPolicy.OPPORTUNISTIC and _is_tls_trouble(error):
                return await self._open(verdicts, starttls=False)
            raise

    async def _open(self, verdicts: Verdicts, *, starttls: bool) -> SMTPClient:
        client = await self._connect()
        try:
            await self._negotiate(client, starttls=starttls, helo=not verdicts.envelope.needs_smtputf8)
        except SessionError:
            verdicts.peer = client.peer()
            self._leave(client)
            raise
        except BaseException:  # a cancel, which closed it already, or a bug: no session outlives its message
            client.abort()
            raise
        return client

    async def _negotiate(self, client: SMTPClient, *, starttls: bool, helo: bool) -> None:
        opportunistic = self._target.tls in (TLSPolicy.NONE, TLSPolicy.OPPORTUNISTIC)
        await opening.greet(client, self._hostname, helo=helo and opportunistic)
        if starttls and not (opportunistic and "STARTTLS" not in client.extensions):
            await self._secure(client)
        if self._credentials:
            await self._authenticate(client, self._credentials)

    async def _secure(self, client: SMTPClient) -> None:
        try:
            await opening.secure(client, self._hostname, self._creator())
        except SessionLost as lost:
            raise TLSFailed(f"STARTTLS: {lost}") from None

    async def _authenticate(self, client: SMTPClient, credentials: Credentials) -> None:
        self._heed_refused_credentials()  # another message may have met the refusal since
        try:
            await opening.authenticate(client, credentials)
        except Refused as refused:
            if refused.reply and refused.reply.code == _INVALID_CREDENTIALS:
                self._credentials_refused = _CredentialsRefused(self._reactor.seconds(), refused.reply)
            raise

    async def _connect(self) -> SMTPClient:
        implicit_tls = self._creator if self._target.scheme is Scheme.SMTPS else None
        factory = SMTPClientFactory(self._reactor, host=self._target.host, implicit_tls=implicit_tls)
        connecting = _cancellable(self._endpoint().connect(factory))
        try:
            client = await connecting.addTimeout(CONNECT_TIMEOUT_S, self._reactor)
        except (DeferredTimeout, ConnectTimeout):
            raise self._no_connection(f"no answer within {CONNECT_TIMEOUT_S} s") from None
        except (ConnectError, OSError, ValueError) as problem:
            raise self._no_connection(str(problem)) from None
        assert isinstance(client, SMTPClient)
        self._clients.add(client)
        client.when_gone().addCallback(lambda _: self._gone(client))
        return client

    def _no_connection(self, problem: str) -> NoConnection:
        return NoConnection(f"no connection to {self._target.host} port {self._target.port}: {problem}")

    def _endpoint(self) -> IStreamClientEndpoint:
        host, port = self._target.host, self._target.port
        if isIPAddress(host) or "_" in host:  # containers are named so, and HostnameEndpoint takes no such name
            return TCP4ClientEndpoint(self._reactor, host, port, CONNECT_TIMEOUT_S)
        if isIPv6Address(host):
            return TCP6ClientEndpoint(self._reactor, host, port, CONNECT_TIMEOUT_S)
        return HostnameEndpoint(self._reactor, host, port, CONNECT_TIMEOUT_S)

    def _creator(self) -> ClientTLS:
        must_verify = self._target.tls is TLSPolicy.VERIFIED
        return ClientTLS(self._target.host, must_verify=must_verify, trust_root=self._trust_root)

    def _leave(self, client: SMTPClient) -> None:
        """Say good-bye in the background; the protocol gives it 5 s."""
        if client.state is State.CLOSED:
            return
        if client.state in (State.READY, State.CONNECTED, State.TURNED_AWAY):
            client.quit().addErrback(_is_over)
        else:
            client.abort()

    def _gone(self, client: SMTPClient) -> None:
        self._clients.discard(client)
        self._maybe_closed()

    def _heed_refused_credentials(self) -> None:
        refused = self._credentials_refused
        age_s = self._reactor.seconds() - refused.at_s if refused else 0
        if refused and age_s < CREDENTIALS_PAUSE_S:
            raise Refused(f"AUTH, last tried {age_s:.0f} s ago,", refused.reply)


def _cancellable(connecting: Deferred[IProtocol]) -> Deferred[IProtocol]:
    """
    Cancelled while it looks a name up, Twisted's endpoint says that the host is
    unknown; this fails with CancelledError then as at any other time.
    """
    detached = False

    def cancel(_: Deferred[IProtocol]) -> None:
        nonlocal detached
        detached = True
        connecting.cancel()

    def hand_over(result: IProtocol | Failure) -> None:
        if not detached:
            connected.callback(result)

    connected: Deferred[IProtocol] = Deferred(cancel)
    connecting.addBoth(hand_over)
    return connected


def _is_over(failure: Failure) -> None:
    """All was decided before QUIT: how the session ends does not matter."""
    failure.trap(SessionError)


def _is_tls_trouble(error: SessionError) -> bool:
    """STARTTLS refused or its handshake broken, as opposed to anything that plain text would meet as well."""
    return isinstance(error, TLSFailed) or (isinstance(error, Refused) and error.step == "STARTTLS")
