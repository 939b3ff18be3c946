"""
A server as hostile as a test wants it, over a transport that is only a buffer
and a clock that stands still until it is told to go on.

    server = self.server()
    server.opens("PIPELINING")
    replied = server.client.noop()
    server.expects("NOOP")
    server.says("250 ok")

What the server says in one call arrives in one packet. L{ScriptedCase} sees to
it that no test leaves a delayed call, or an error that nobody heard of, behind.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import TypeVar

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IPushProducer, ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pymail_tx.core.command import Verb
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Outcome, Report
from pymail_tx.core.reply import Reply
from pymail_tx.net.protocol import SMTPClient
from pymail_tx.net.tls import ClientTLS
from pymail_tx.net.transcript import Transcript

_Result = TypeVar("_Result")
_Error = TypeVar("_Error", bound=Exception)


@implementer(ITCPTransport)
class Wire(StringTransport):
    """
    @ivar writes: every write by itself.
    @ivar tls: whose ClientHello went out.
    @ivar window: how many octets a producer may write before it is paused; C{None} for any number.
    @ivar no_delay: whether Nagle's algorithm was turned off.
    @ivar handle: OpenSSL's connection, for who looks at the TLS.
    """

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.25", 25))
        self.writes: list[bytes] = []
        self.tls: list[ClientTLS] = []
        self.window: int | None = None
        self.no_delay = False
        self.handle = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)
        if self.window is not None and self.producer:
            self.window -= len(data)
            if self.window <= 0:
                self._pushing().pauseProducing()

    def widen(self, octets: int) -> None:
        """The peer reads so many octets."""
        self.window = (self.window or 0) + octets
        if self.producer and self.window > 0:
            self._pushing().resumeProducing()

    def _pushing(self) -> IPushProducer:
        return IPushProducer(self.producer)

    def startTLS(self, contextFactory: ClientTLS) -> None:
        self.tls.append(contextFactory)

    @property
    def tls_started(self) -> bool:
        return bool(self.tls)

    def getHandle(self) -> SSL.Connection:
        return self.handle

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    def getTcpKeepAlive(self) -> bool:
        return False

    def loseWriteConnection(self) -> None: ...


class ScriptedPeer:
    """
    The server's end of one connection.

    @ivar lingers: it does not close when the client does; as a peer under TLS
        that sends no close_notify.
    """

    def __init__(self, case: SynchronousTestCase, protocol: IProtocol, clock: Clock) -> None:
        self.clock = clock
        self.wire = Wire()
        self.lingers = False
        self._case = case
        self._protocol = protocol
        self._is_lost = False
        self._read = 0
        protocol.makeConnection(self.wire)

    # What the server does

    def says(self, *lines: str) -> None:
        """Reply lines, in one packet."""
        self.sends("".join(line + "\r\n" for line in lines).encode())

    def sends(self, octets: bytes) -> None:
        self._protocol.dataReceived(octets)
        self._settle()

    def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._settle()

    def loses_connection(self, reason: Exception | None = None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._protocol.connectionLost(Failure(reason or ConnectionLost("reset")))

    # What the test sees

    def wrote(self) -> bytes:
        """What the client wrote since this was asked last."""
        written = self.wire.value()[self._read :]
        self._read += len(written)
        return bytes(written)

    def expects(self, *lines: str) -> None:
        """These lines came, and nothing else."""
        self._case.assertEqual(self.wrote().decode(), "".join(line + "\r\n" for line in lines))

    @property
    def is_closed(self) -> bool:
        return bool(self.wire.disconnecting)

    def _settle(self) -> None:
        """A transport that was closed reports the loss after the call, as a reactor's does."""
        if self.wire.disconnected:
            self.loses_connection(ConnectionAborted())
        elif self.wire.disconnecting and not self.lingers:
            self.loses_connection(ConnectionDone())


class ScriptedServer(ScriptedPeer):
    """
    The same for a client that is made here.
    """

    def __init__(
        self, case: SynchronousTestCase, *, implicit_tls: ClientTLS | None = None,
        timeouts_s: Mapping[Verb, float] | None = None, lmtp: bool = False, transcript: Transcript | None = None,
    ) -> None:  # fmt: skip
        clock = Clock()
        self.client = SMTPClient(
            clock, host="mx.example", implicit_tls=implicit_tls, timeouts_s=timeouts_s, lmtp=lmtp, transcript=transcript
        )
        super().__init__(case, self.client, clock)

    def opens(self, *keywords: str) -> None:
        """Greet, and answer EHLO, or LHLO, with these keywords."""
        client = self.client
        hello = settled(client.lhlo("me.example") if client.lmtp else client.ehlo("me.example"))
        self.says("220 mx.example ESMTP")
        self.expects("LHLO me.example" if client.lmtp else "EHLO me.example")
        self.says(*ehlo_lines(*keywords))
        self._case.assertEqual(len(hello), 1)

    def shakes_hands(self) -> None:
        """The TLS handshake is over."""
        self.client.handshakeCompleted()
        self._settle()

    def ends(self) -> None:
        """Close what is still open. Nothing must be left that would happen later."""
        if not self._is_lost:
            self.loses_connection(ConnectionDone())
        self._case.assertEqual(self.clock.getDelayedCalls(), [])


def ehlo_lines(*keywords: str) -> list[str]:
    lines = ["mx.example", *keywords]
    return [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]


class ScriptedCase(SynchronousTestCase):
    timeout = 60

    def setUp(self) -> None:
        self.addCleanup(gc.collect)  # comes last: a Deferred that failed unheard says so when it is collected

    def server(
        self, *keywords: str, implicit_tls: ClientTLS | None = None, timeouts_s: Mapping[Verb, float] | None = None,
        lmtp: bool = False, transcript: Transcript | None = None,
    ) -> ScriptedServer:  # fmt: skip
        """A server that the client has just connected to; with keywords, one that answered EHLO with them."""
        server = ScriptedServer(
            self, implicit_tls=implicit_tls, timeouts_s=timeouts_s, lmtp=lmtp, transcript=transcript
        )
        self.addCleanup(server.ends)
        if keywords:
            server.opens(*keywords)
        return server

    def code_of(self, replied: Deferred[Reply]) -> int:
        return self.successResultOf(replied).code

    def fails_with(self, kind: type[_Error], result: Deferred[_Result]) -> _Error:
        error = self.failureResultOf(result, kind).value
        assert isinstance(error, kind)
        return error


def settled(deferred: Deferred[_Result]) -> list[_Result | Failure]:
    """What the Deferred fires with, once it does; failures too, so that nobody misses them."""
    results: list[_Result | Failure] = []
    deferred.addBoth(results.append)
    return results


def outcomes(report: Report) -> list[tuple[str, str]]:
    """Status and enhanced status code of each recipient; the status is followed by a question mark if uncertain."""
    return [(_status(outcome), outcome.reason.split()[0]) for outcome in report.outcomes]


def _status(outcome: Outcome) -> str:
    return outcome.status.value + ("?" if outcome.uncertain else "")


def envelope(*recipients: str, sender: str = "joe@example.org") -> Envelope:
    return Envelope(sender, recipients or ("ann@example.com",))
