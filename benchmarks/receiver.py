"""
A receiver that takes its time: what a sender needs memory for.

    python benchmarks/receiver.py [--octets-per-s N] [--hold] [--chunking] [--certificate FILE]

It prints the port it listens on, and serves until it is ended. With C{--octets-per-s} it reads no faster than that;
with C{--hold} it never answers the end of data, and prints a line for every session that waits there.
"""

from __future__ import annotations

import argparse
import resource
import socket
import typing
from pathlib import Path

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import react

BACKLOG = 4_096
RECEIVE_BUFFER_OCTETS = 65_536
"""Of the kernel; left to itself, it takes some megabytes in that nobody has read."""

_END_OF_DATA = b"\r\n.\r\n"


class Connection(typing.Protocol):
    """What a receiver needs of a transport; Twisted's TCP connections have it."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def setTcpNoDelay(self, enabled: bool) -> None: ...
    def startTLS(self, contextFactory: CertificateOptions) -> object: ...


class Receiver(Protocol):
    """One session. It says yes to everything."""

    transport: Connection  # type: ignore[assignment]  # narrower than ITransport, and there once connected

    def __init__(self, clock: IReactorTime, options: argparse.Namespace, tls: CertificateOptions | None) -> None:
        self._clock = clock
        self._options = options
        self._tls = tls
        self._input = b""
        self._state = self._commands
        self._chunk_octets = 0
        self._last = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._say(b"220 slow.example.org ESMTP")

    def dataReceived(self, data: bytes) -> None:
        if self._options.octets_per_s:
            self.transport.pauseProducing()
            self._clock.callLater(len(data) / self._options.octets_per_s, self.transport.resumeProducing)
        self._input += data
        while self._state():
            pass

    def _commands(self) -> bool:
        line, ending, rest = self._input.partition(b"\r\n")
        if not ending:
            return False
        self._input = rest
        verb, _, argument = line.upper().partition(b" ")
        {b"EHLO": self._ehlo, b"DATA": self._data, b"BDAT": self._bdat, b"STARTTLS": self._starttls,
         b"QUIT": self._quit}.get(verb, self._yes)(argument)  # fmt: skip
        return True

    def _yes(self, argument: bytes) -> None:
        self._say(b"250 2.0.0 Yes")

    def _ehlo(self, argument: bytes) -> None:
        offered = [b"slow.example.org", b"8BITMIME", b"ENHANCEDSTATUSCODES"]
        offered += [b"PIPELINING"] * (not self._options.hold)  # else others queue behind the message that is held
        offered += [b"CHUNKING"] * self._options.chunking
        offered += [b"STARTTLS"] * (self._tls is not None)
        for keyword in offered[:-1]:
            self._say(b"250-" + keyword)
        self._say(b"250 " + offered[-1])

    def _starttls(self, argument: bytes) -> None:
        self._say(b"220 2.0.0 Go on")
        assert self._tls
        self.transport.startTLS(self._tls)
        self._tls = None

    def _quit(self, argument: bytes) -> None:
        self._say(b"221 2.0.0 Bye")
        self.transport.loseConnection()

    def _data(self, argument: bytes) -> None:
        self._say(b"354 Go on")
        self._input = b"\r\n" + self._input
        self._state = self._content

    def _content(self) -> bool:
        before, found, rest = self._input.partition(_END_OF_DATA)
        if not found:
            self._input = before[-len(_END_OF_DATA) + 1 :]
            return False
        self._input = rest
        self._taken()
        return True

    def _bdat(self, argument: bytes) -> None:
        size, _, last = argument.partition(b" ")
        self._chunk_octets, self._last = int(size), last == b"LAST"
        self._state = self._chunk

    def _chunk(self) -> bool:
        octets = len(self._input)
        self._input = self._input[self._chunk_octets :]
        self._chunk_octets -= min(octets, self._chunk_octets)
        if self._chunk_octets:
            return False
        if self._last:
            self._taken()
        else:
            self._state = self._commands
            self._yes(b"")
        return True

    def _taken(self) -> None:
        self._state = self._commands
        if self._options.hold:
            print("waiting", flush=True)
        else:
            self._yes(b"")

    def _say(self, line: bytes) -> None:
        self.transport.write(line + b"\r\n")


async def _serve(reactor: PosixReactorBase, options: argparse.Namespace) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    certificate = options.certificate and PrivateCertificate.loadPEM(options.certificate.read_bytes()).options()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_OCTETS)  # connections inherit it
        listening.bind(("127.0.0.1", 0))
        listening.listen(BACKLOG)
        listening.setblocking(False)
        factory = ServerFactory.forProtocol(lambda: Receiver(reactor, options, certificate))
        address = reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, factory).getHost()
    assert isinstance(address, IPv4Address)
    print(address.port, flush=True)
    await Deferred()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--octets-per-s", type=int, default=0, metavar="N", help="read so much (default: all there is)")
    parser.add_argument("--hold", action="store_true", help="never answer the end of data")
    parser.add_argument("--chunking", action="store_true", help="offer CHUNKING")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="offer STARTTLS with this key and chain")
    return parser.parse_args()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(_serve(reactor, _options())))
