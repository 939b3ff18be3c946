"""
A server that follows a script, on real sockets, in threads of the test.

What it reads and how long it waits is bounded: a client that hangs is an error
of the test, not its end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence

from attrs import define, field, frozen
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx import client
from tests.net.certificates import Authority, Certificate

LIMIT_S = 20
"""How long a server waits for anything."""

HOST = "localhost"
"""The name that good certificates are for."""

Act = Callable[["Peer"], None]


def hang_up(peer: Peer) -> None:
    """For a reply: the connection is closed instead."""
    peer.close()


def say_nothing(peer: Peer) -> None:
    """For a reply: there is none, and nothing more is read until the client is gone."""
    peer.wait_until_gone()


@frozen
class Script:
    """
    What a server does.

    @ivar replies: what it says, or does, where that is not a plain yes: for
        each verb, C{"."} for the end of data. Several are for one time after
        the other, the last for all further ones.
    @ivar greeting: the same for the beginning.
    @ivar offers: its extensions, inside TLS C{offers_in_tls}.
    @ivar certificate: for its side of TLS.
    @ivar implicit_tls: TLS from the start.
    """

    replies: Mapping[str, bytes | Act | Sequence[bytes | Act]] = field(factory=dict)
    greeting: bytes | Act = b"220 mx.example.org ESMTP"
    offers: Sequence[str] = ()
    offers_in_tls: Sequence[str] = ()
    certificate: Certificate | None = None
    implicit_tls: bool = False


@define(eq=False)
class Peer:
    """
    One connection.

    @ivar heard: its command lines.
    @ivar content: what came behind DATA, to the end of data or of the
        connection.
    @ivar accepted: whether the end of data was seen.
    @ivar in_tls: whether it is encrypted.
    """

    script: Script
    socket: socket.socket
    heard: list[str] = field(factory=list)
    content: bytes = b""
    accepted: bool = False
    in_tls: bool = False
    _came: bytes = b""
    _asked: dict[str, int] = field(factory=dict)

    def serve(self) -> None:
        """The whole session."""
        self.socket.settimeout(LIMIT_S)
        if self.script.implicit_tls:
            self.secure()
        self._do(self.script.greeting)
        while line := self._line():
            self.heard.append(line.decode("utf-8", "backslashreplace").removesuffix("\r\n"))
            self._answer(line[:8].split()[0].decode("latin-1").upper() if line.split() else "")

    def say(self, octets: bytes) -> None:
        """Send octets as they are."""
        self.socket.sendall(octets)

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def wait_until_gone(self) -> None:
        """Read until the client closes, and say nothing."""
        while self.socket.recv(65_536):
            pass

    def secure(self) -> None:
        """TLS, from here on."""
        assert self.script.certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as pem:
            pem.write(self.script.certificate.with_key)
            pem.flush()
            context.load_cert_chain(pem.name)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.in_tls = True

    def _answer(self, verb: str) -> None:
        reply = self._reply(verb)
        self._do(reply)
        if reply == _REPLIES["STARTTLS"]:
            self.secure()
        elif reply == _REPLIES["DATA"]:
            self._take_content()

    def _reply(self, verb: str) -> bytes | Act:
        scripted = self.script.replies.get(verb)
        if isinstance(scripted, bytes) or callable(scripted):
            return scripted
        if scripted:
            number = self._asked.setdefault(verb, 0)
            self._asked[verb] = number + 1
            return scripted[min(number, len(scripted) - 1)]
        if verb == "EHLO":
            lines = [HOST, *(self.script.offers_in_tls if self.in_tls else self.script.offers)]
            return "\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"]).encode()
        return _REPLIES.get(verb, b"250 2.0.0 ok")

    def _take_content(self) -> None:
        while (line := self._line()) and line != b".\r\n":
            self.content += line
        self.accepted = line == b".\r\n"
        if self.accepted:
            self._do(self._reply("."))

    def _do(self, reply: bytes | Act) -> None:
        if isinstance(reply, bytes):
            self.say(reply + b"\r\n")
        else:
            reply(self)

    def _line(self) -> bytes:
        while b"\r\n" not in self._came:
            more = self.socket.recv(65_536)
            if not more:
                rest, self._came = self._came, b""
                return rest
            self._came += more
        line, _, self._came = self._came.partition(b"\r\n")
        return line + b"\r\n"


_REPLIES = {
    "STARTTLS": b"220 2.0.0 go ahead",
    "AUTH": b"235 2.7.0 welcome",
    "DATA": b"354 go on",
    ".": b"250 2.0.0 queued",
    "QUIT": b"221 2.0.0 bye",
}


@define(eq=False)
class Server:
    """
    Takes connections until it is stopped.

    @ivar peers: the connections, oldest first.
    """

    script: Script
    peers: list[Peer] = field(factory=list)
    _listener: socket.socket = field(factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _threads: list[threading.Thread] = field(factory=list)
    _problems: list[Exception] = field(factory=list)

    @classmethod
    def start(cls, case: SynchronousTestCase, script: Script | None = None) -> Server:
        """One that the test stops at its end, and that must not have had any problem then."""
        server = cls(script or Script())
        server._run(server._accept)
        case.addCleanup(server.stop)
        return server

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def peer(self) -> Peer:
        """The latest connection."""
        return self.peers[-1]

    def wait(self) -> Peer:
        """The latest connection, when the server has seen its end."""
        self._threads[-1].join(LIMIT_S)
        return self.peer

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(LIMIT_S)
            if thread.is_alive():
                raise AssertionError("a server that waits for its client still")
        if self._problems:
            raise self._problems[0]

    def _run(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listener.accept()
                self.peers.append(Peer(self.script, connected))
                self._run(lambda peer=self.peers[-1]: self._serve(peer))  # type: ignore[misc]

    def _serve(self, peer: Peer) -> None:
        try:
            peer.serve()
        except OSError:
            pass  # the client went, or its TLS failed
        except Exception as problem:  # noqa: BLE001  # told when the server is stopped
            self._problems.append(problem)
        finally:
            peer.close()


Ports = Mapping[int, Server] | Mapping[tuple[str, int], Server]


class SessionTestCase(SynchronousTestCase):
    """
    Sessions with scripted servers. The module's timeouts are short, so that a
    test ends in any case.
    """

    timeout = 60

    def setUp(self) -> None:
        self.patch(client, "REPLY_TIMEOUT", 5)
        self.patch(client, "END_OF_DATA_TIMEOUT", 5)
        self.attempts: list[tuple[str, int]] = []

    def server(self, **script: object) -> Server:
        """A server with that script."""
        return Server.start(self, Script(**script))  # type: ignore[arg-type]  # as Script's

    def session(
        self, ports: Ports | None = None, *, hosts: Sequence[str] = (HOST,), **others: object
    ) -> client.Session:
        """
        @param ports: who listens at a port of every host, or at (host, port);
            elsewhere connections are refused.
        @param others: further arguments of L{client.Session}.
        """
        listening: dict[object, Server] = dict(ports.items()) if ports else {}

        def connect(address: tuple[str, int], timeout_s: float) -> socket.socket:
            self.attempts.append(address)
            server = listening.get(address) or listening.get(address[1])
            if server is None:
                raise ConnectionRefusedError("nobody listens")
            return socket.create_connection(("127.0.0.1", server.port), timeout_s)

        arguments = {"source": "ann@example.net", "destination": "bob@example.org", "connect": connect} | others
        return client.Session(hosts, "client.example.net", "a test", **arguments)  # type: ignore[arg-type]  # as Session's

    def opened(self, **script: object) -> tuple[client.Session, Server]:
        """A session in plain text up to MAIL FROM."""
        server = self.server(**script)
        session = self.session({25: server})
        session.plain(25)
        return session, server

    def started(self, **script: object) -> tuple[client.Session, Server]:
        """A session in plain text whose envelope was accepted."""
        server = self.server(**script)
        session = self.session({587: server})
        session.start()
        return session, server

    def ca_file(self, authority: Authority) -> str:
        """A file with the authority's certificate."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(authority.root.pem)
        return str(os.path.abspath(path))
