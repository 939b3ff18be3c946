"""
A server that follows a script, on loopback, and a reactor whose time a test turns.

The sockets and the TLS between client and server are real; deadlines and names
are not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from attrs import define, field
from OpenSSL import SSL, crypto
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IHostnameResolver,
    IHostResolution,
    IPushProducer,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
    IReactorUDP,
    IResolutionReceiver,
    ITLSTransport,
)
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from tests.net.certificates import Authority, Certificate

SILENCE = b""
"""For a reply: there is none."""

HANG_UP = b"hang up"
"""For a reply: the connection is closed, with close_notify inside TLS."""

HOST = "mx.example.org"
"""Every name leads to loopback; this one is for good certificates."""

Conversation = Generator[bytes, bytes, None]
"""A server's side of an authentication: is sent lines, the AUTH command first, and yields replies without CRLF."""

_REPLIES = {
    "STARTTLS": b"220 2.0.0 go ahead",
    "AUTH": b"235 2.7.0 welcome",
    "DATA": b"354 go on",
    ".": b"250 2.0.0 queued",
    "ClientHello": SILENCE,
    "QUIT": b"221 2.0.0 bye",
}


@define(eq=False)
class Script:
    """
    What a server does.

    @ivar replies: what it says to a verb, without CRLF, where that is not a
        plain yes; or several, one each time. The end of data has the verb C{"."}.
    @ivar offers: its extensions, inside TLS C{offers_in_tls}.
    @ivar certificate: for its side of TLS; without one, it answers a
        ClientHello as C{replies} says for C{"ClientHello"}.
    @ivar wants_certificate: whether the client needs one as well.
    @ivar trusts: the authority of clients; without one, no certificate will do.
    @ivar newest_tls: the newest version that it speaks, as OpenSSL numbers them.
    @ivar sasl: begins the authentications of a session, given its side of TLS.
    @ivar deaf_behind: a verb behind whose reply the server reads no more.
    """

    replies: dict[str, bytes | list[bytes]] = field(factory=dict)
    greeting: bytes = b"220 mx.example.org ESMTP"
    offers: Sequence[str] = ()
    offers_in_tls: Sequence[str] = ()
    certificate: Certificate | None = None
    wants_certificate: bool = False
    trusts: Certificate | None = None
    newest_tls: int = SSL.TLS1_3_VERSION
    sasl: Callable[[SSL.Connection], Conversation] | None = None
    deaf_behind: str = ""

    def reply(self, verb: str, *, in_tls: bool) -> bytes:
        """What to say to a verb."""
        said = self.replies.get(verb)
        if said is not None:
            return said.pop(0) if isinstance(said, list) else said
        if verb == "EHLO":
            lines = [HOST, *(self.offers_in_tls if in_tls else self.offers)]
            return "\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"]).encode()
        return _REPLIES.get(verb, b"250 2.0.0 ok")

    def options(self) -> CertificateOptions:
        """For the server's side of TLS."""
        assert self.certificate
        options = self.certificate.options()
        context = options.getContext()
        context.set_max_proto_version(self.newest_tls)
        if self.wants_certificate:
            must = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
            context.set_verify(must, lambda *found: bool(self.trusts and found[-1]))
        store = context.get_cert_store()
        if self.trusts and store:
            store.add_cert(crypto.X509.from_cryptography(self.trusts.certificate))
        return options


@implementer(IHandshakeListener)
class _Session(LineReceiver):
    """One connection to a L{Server}."""

    transport: ITLSTransport
    delimiter = b"\r\n"

    def __init__(self, server: Server) -> None:
        self.heard: list[str] = []
        self._server = server
        self._script = server.script
        self._in_tls = False
        self._in_content = False
        self._sasl: Conversation | None = None

    def connectionMade(self) -> None:
        self._server.sessions.append(self)
        self._say(self._script.greeting)

    def lineReceived(self, line: bytes) -> None:
        if self._in_content and line != b".":
            return
        self._server.lines.append(line)
        if self._sasl:
            self._go_on(line)
            return
        verb = line.split(b" ")[0].split(b":")[0].decode().upper()
        if verb == "AUTH" and self._script.sasl:
            self._begin_sasl(self._script.sasl, line)
            return
        reply = self._script.reply(verb, in_tls=self._in_tls)
        self._in_content = verb == "DATA" and reply.startswith(b"354")
        self._say(reply)
        if verb == "STARTTLS" and reply.startswith(b"220"):
            self._start_tls()
        if verb == self._script.deaf_behind:
            IPushProducer(self.transport).pauseProducing()
        self._hear(verb)

    def _begin_sasl(self, begin: Callable[[SSL.Connection], Conversation], line: bytes) -> None:
        self._sasl = begin(self.transport.getHandle())  # type: ignore[attr-defined]  # inside TLS there is one
        next(self._sasl)
        self._go_on(line)
        self._hear("AUTH")

    def _go_on(self, line: bytes) -> None:
        assert self._sasl
        reply = self._sasl.send(line)
        if not reply.startswith(b"334"):
            self._sasl = None
        self._say(reply)

    def listen_again(self) -> None:
        """Read what came meanwhile."""
        IPushProducer(self.transport).resumeProducing()

    def rawDataReceived(self, data: bytes) -> None:
        self._hear("ClientHello")
        self._say(self._script.reply("ClientHello", in_tls=False))

    def handshakeCompleted(self) -> None:
        self._in_tls = True
        self._hear("(TLS)")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._server.lost()

    def _start_tls(self) -> None:
        if self._script.certificate:
            self.transport.startTLS(self._script.options())
        else:
            self.setRawMode()

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        self._server.heard(what)

    def _say(self, reply: bytes) -> None:
        if reply == HANG_UP:
            self.transport.loseConnection()
        elif reply:
            self.transport.write(reply + b"\r\n")


class Server(ServerFactory):
    """
    Follows its script.

    @ivar sessions: one for each connection there was.
    @ivar lines: all commands of all of them.
    """

    noisy = False

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sessions: list[_Session] = []
        self.lines: list[bytes] = []
        self._open = 0
        self._waiting: list[tuple[str, int, Deferred[None]]] = []
        self._idle: list[Deferred[None]] = []

    def buildProtocol(self, addr: IAddress | None) -> _Session:
        """See L{ServerFactory}."""
        self._open += 1
        return _Session(self)

    @property
    def conversations(self) -> list[str]:
        """The verbs of each connection, and where TLS began."""
        return [" ".join(session.heard) for session in self.sessions]

    def hears(self, what: str, *, times: int = 1) -> Deferred[None]:
        """Fires when that verb has come so many times."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append((what, times, waiter))
        self.heard(what)
        return waiter

    def is_left(self) -> Deferred[None]:
        """Fires when no connection is left."""
        waiter: Deferred[None] = Deferred()
        self._idle.append(waiter)
        self._tell_idle()
        return waiter

    def heard(self, what: str) -> None:
        """For a session."""
        count = sum(session.heard.count(what) for session in self.sessions)
        fitting = [waiting for waiting in self._waiting if waiting[0] == what and waiting[1] <= count]
        for waiting in fitting:
            self._waiting.remove(waiting)
            waiting[2].callback(None)

    def lost(self) -> None:
        """For a session."""
        self._open -= 1
        self._tell_idle()

    def _tell_idle(self) -> None:
        while self._idle and not self._open:
            self._idle.pop().callback(None)


@implementer(IHostResolution)
@define
class _Resolution:
    name: str

    def cancel(self) -> None:
        raise NotImplementedError


@implementer(IHostnameResolver)
@define(eq=False)
class Names:
    """
    Resolves every name to loopback.

    @ivar unknown: but not these.
    @ivar unanswered: and not these, ever.
    @ivar loopback: the addresses there, in the order in which they are told.
    """

    unknown: set[str] = field(factory=set)
    unanswered: set[str] = field(factory=set)
    loopback: Sequence[str] = ("127.0.0.1",)

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See L{IHostnameResolver}."""
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        if hostName not in self.unknown | self.unanswered:
            for address in self.loopback:
                kind = IPv6Address if ":" in address else IPv4Address
                resolutionReceiver.addressResolved(kind("TCP", address, portNumber))
        if hostName not in self.unanswered:
            resolutionReceiver.resolutionComplete()
        return resolution


@implementer(IReactorTime, IReactorPluggableNameResolver, IReactorThreads, IReactorUDP)
class TimeApart:
    """The real reactor's sockets and threads, a L{Clock}'s time and L{Names}."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.nameResolver = Names()
        self.connectTCP = IReactorTCP(reactor).connectTCP
        self.listenUDP = IReactorUDP(reactor).listenUDP
        threads = IReactorThreads(reactor)
        self.getThreadPool, self.suggestThreadPoolSize = threads.getThreadPool, threads.suggestThreadPoolSize
        self.callInThread, self.callFromThread = threads.callInThread, threads.callFromThread

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """See L{IReactorPluggableNameResolver}."""
        raise NotImplementedError

    def seconds(self) -> float:
        """See L{IReactorTime}."""
        return self.clock.seconds()

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object) -> IDelayedCall:  # noqa: A002
        """See L{IReactorTime}."""
        return self.clock.callLater(delay, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """See L{IReactorTime}."""
        return self.clock.getDelayedCalls()


class LoopbackTestCase(TestCase):
    """
    A test with servers on loopback, whose client must leave nothing behind.

    @ivar authority: the one that is trusted by who is given C{trust_root}.
    """

    timeout = 20

    def setUp(self) -> None:
        self.reactor = TimeApart()
        self.clock = self.reactor.clock
        self.authority = Authority()
        self.trust_root = self.mktemp()
        Path(self.trust_root).write_bytes(self.authority.root.pem)

    def serve(
        self, script: Script, *, implicit_tls: bool = False, address: str = "127.0.0.1", port: int = 0
    ) -> tuple[Server, int]:
        """
        Start a server.

        @param port: any by default.
        @return: it, and its port.
        """
        server = Server(script)
        factory: ServerFactory = server
        if implicit_tls:
            factory = TLSMemoryBIOFactory(script.options(), False, server)  # type: ignore[assignment]  # typed as a client's
        listening = IReactorTCP(reactor).listenTCP(port, factory, interface=address)
        host = listening.getHost()
        assert isinstance(host, IPv4Address | IPv6Address)
        self.addCleanup(self.nothing_is_left, server)
        self.addCleanup(listening.stopListening)
        return server, host.port

    async def nothing_is_left(self, server: Server) -> None:
        """No connection and no delayed call."""
        await server.is_left()
        self.assertEqual(self.clock.getDelayedCalls(), [])
