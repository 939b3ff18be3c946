"""
Fetches a domain's MTA-STS policy from its policy host, over HTTPS (RFC 8461 §3.3).

Everything that is told is distrusted until the certificate has verified for
C{mta-sts.DOMAIN}, and limited after: 60 s and 64 KiB, status 200, C{text/plain},
no redirect, no cache, no proxy. One connection, one request, and it is gone.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from pymail_tx.core.dns import Answer, RecordType
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.mtasts import MAX_POLICY_OCTETS, BadPolicy, Policy, policy_host, read_policy
from pymail_tx.core.reply import printable
from pymail_tx.net import eyeballs
from pymail_tx.net.resolves import Resolves
from pymail_tx.net.tls import ClientTLS

FETCH_TIMEOUT_S = 60
"""For addresses, connection, handshake and answer together (RFC 8461 §3.3 suggests it)."""

MAX_WIRE_OCTETS = 1_048_576
"""What a policy host may send in all: certificates, header fields, and chunks of one octet each included."""

MAX_ADDRESSES = 10
"""Of each family. Large providers' names have up to eight."""

HTTPS_PORT = 443

_PATH = "/.well-known/mta-sts.txt"
_OK = 200
_REDIRECTS = range(300, 400)


class FetchFailed(Exception):
    """No policy could be had, and why; the text names the URL."""


class PolicyHosts:
    """Fetches policies."""

    def __init__(
        self, reactor: IReactorTime, resolver: Resolves, *, trust_root: str | None = None, port: int = HTTPS_PORT
    ) -> None:
        """
        @param trust_root: a file of CA certificates in PEM; by default OpenSSL's
            store.
        @param port: where policy hosts listen. RFC 8461 knows no other than
            443; tests do.
        """
        self._reactor = reactor
        self._resolver = resolver
        self._trust_root = trust_root
        self._port = port

    def fetch(self, domain: str) -> Deferred[Policy]:
        """
        @param domain: in A-labels, lower case, without a trailing dot.
        @return: fires with the policy, or fails with L{FetchFailed}; cancelled,
            it leaves nothing behind.
        """
        return Deferred.fromCoroutine(self._fetch_in_time(domain))

    async def _fetch_in_time(self, domain: str) -> Policy:
        host = policy_host(domain)
        fetching = Deferred.fromCoroutine(self._fetch(host)).addTimeout(FETCH_TIMEOUT_S, self._reactor)
        try:
            return read_policy(await fetching)
        except DeferredTimeout:
            raise _failed(host, f"no policy within {FETCH_TIMEOUT_S} s") from None
        except (_Useless, BadPolicy) as problem:
            raise _failed(host, str(problem)) from None

    async def _fetch(self, host: str) -> bytes:
        try:
            tls = ClientTLS(host, must_verify=True, trust_root=self._trust_root)
        except BadArgument as problem:
            raise _Useless(str(problem)) from None
        way = _Way(self._reactor, await self._addresses(host), tls)
        try:
            return await _policy(await self._get(way, host))
        except (CancelledError, _Useless):
            raise
        except Exception as problem:  # noqa: BLE001  # the network's, OpenSSL's and twisted.web's, of many classes
            raise way.words(problem) from None
        finally:
            way.leave()

    async def _addresses(self, host: str) -> list[eyeballs.Address]:
        """IPv6 first (RFC 8305 §4)."""
        questions = [self._resolver.resolve(host, kind) for kind in (RecordType.AAAA, RecordType.A)]
        try:
            answers = [await question for question in questions]
        except CancelledError:
            for question in questions:
                question.addErrback(lambda failure: failure.trap(CancelledError)).cancel()
            raise
        found = [address for answer in answers for address in answer.addresses[:MAX_ADDRESSES]]
        if not found:
            raise _Useless(_no_address(answers))
        return eyeballs.by_turns([eyeballs.address_of(address, self._port) for address in found])

    def _get(self, way: _Way, host: str) -> Deferred[IResponse]:
        """The request is as for port 443, wherever the way leads to."""
        agent = Agent.usingEndpointFactory(self._reactor, way, HTTPConnectionPool(self._reactor, persistent=False))
        getting: Deferred[IResponse] = agent.request(
            b"GET", _url(host).encode("ascii"), Headers({"User-Agent": ["pymail-tx"]})
        )
        return getting


class _Useless(Exception):
    """What came of asking a policy host; the text is L{FetchFailed}'s, without the URL."""


class _OneConnection(TLSMemoryBIOProtocol):
    """
    TLS with a limit. Small writes go out at once: there is one.

    @ivar is_too_long: more came than L{MAX_WIRE_OCTETS}.
    """

    is_too_long = False
    _octets = 0

    def dataReceived(self, data: bytes) -> None:
        """See L{IProtocol}."""
        self._octets += len(data)
        self.is_too_long = self._octets > MAX_WIRE_OCTETS
        if self.is_too_long:
            self.abort()
        else:
            super().dataReceived(data)  # type: ignore[no-untyped-call]  # Twisted's

    def abort(self) -> None:
        """Hang up without a word."""
        self.abortConnection()  # type: ignore[no-untyped-call]  # Twisted's


class _OverTLS(TLSMemoryBIOFactory):
    protocol = _OneConnection


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
@define(eq=False)
class _Way:
    """Connects to one policy host, once."""

    _reactor: IReactorTime
    _addresses: list[eyeballs.Address]
    _tls: ClientTLS
    _connection: _OneConnection | None = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See L{IAgentEndpointFactory}: there is one URI."""
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See L{IStreamClientEndpoint}."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        over_tls = _OverTLS(self._tls, True, factory, clock=self._reactor)
        connection = await eyeballs.connect_to(self._reactor, self._addresses, over_tls, source=None)
        assert isinstance(connection, _OneConnection)
        self._connection = connection
        return connection.wrappedProtocol

    def leave(self) -> None:
        """A policy host that does not hang up must not hold us."""
        if self._connection and self._connection.connected:
            self._connection.abort()

    def words(self, problem: Exception) -> Exception:
        """What is to be raised for an exception of Twisted's, which may hold the true ones."""
        reasons: list[Failure] = getattr(problem, "reasons", None) or [Failure(problem)]
        if any(reason.check(CancelledError) for reason in reasons):
            return CancelledError()
        if self._connection and self._connection.is_too_long:
            return _Useless(f"more than {MAX_WIRE_OCTETS} octets")
        if self._tls.problem:
            return _Useless(self._tls.problem)
        if reasons[0].check(SSL.Error):
            return _Useless(str(self._tls.failure(reasons[0])))
        return _Useless(printable(reasons[0].getErrorMessage()))


@define(eq=False)
class _Body(Protocol):
    """
    Collects a response's body.

    @ivar whole: fires with it.
    """

    whole: Deferred[bytes] = field(factory=Deferred)
    _octets: bytearray = field(factory=bytearray)

    def dataReceived(self, data: bytes) -> None:
        """See L{IProtocol}."""
        self._octets += data
        if len(self._octets) > MAX_POLICY_OCTETS:
            self._end(lambda whole: whole.errback(_Useless(f"a policy of more than {MAX_POLICY_OCTETS} octets")))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """A body whose end nobody has marked may be half of one."""
        if reason.check(ResponseDone):
            self._end(lambda whole: whole.callback(bytes(self._octets)))
        else:
            self._end(lambda whole: whole.errback(_Useless("the connection was lost before the policy's end")))

    def _end(self, tell: Callable[[Deferred[bytes]], None]) -> None:
        if not self.whole.called:
            tell(self.whole)


async def _policy(response: IResponse) -> bytes:
    if response.code in _REDIRECTS:
        raise _Useless(f"status {response.code}: redirects are not followed")
    if response.code != _OK:
        raise _Useless(f"status {response.code}")
    types = response.headers.getRawHeaders("Content-Type") or [""]
    if types[0].partition(";")[0].strip().lower() != "text/plain":
        raise _Useless(f"media type {printable(types[0][:60])!r} instead of text/plain")
    body = _Body()
    response.deliverBody(body)
    return await body.whole


def _no_address(answers: list[Answer]) -> str:
    reasons = [answer.reason for answer in answers if answer.reason]
    return f"no address: {reasons[0]}" if reasons else "no address"


def _url(host: str) -> str:
    return f"https://{host}{_PATH}"


def _failed(host: str, problem: str) -> FetchFailed:
    return FetchFailed(f"{_url(host)}: {problem}")
