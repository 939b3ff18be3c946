"""
The command as people have it: a process, with servers on loopback.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.net.certificates import Authority
from tests.peers import eventually, free_port, is_listening

COMMAND = [sys.executable, "-c", "from pymail_tx.cli.main import program; program(prog_name='pymail-tx')"]

LIMIT_S = 60


@frozen
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


def on_a_terminal(*words: str) -> tuple[int, str]:
    """Run a program with standard error on a terminal; its exit status, and what the terminal got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()
    with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
        while chunk := os.read(ours, 4_096):
            seen += chunk
    os.close(ours)
    return process.wait(LIMIT_S), seen.decode()


class Server(threading.Thread):
    """
    Answers each verb as it is told; the end of the content has the verb C{"."}.

    @ivar replies: to verbs and whole lines that do not get 250.
    """

    def __init__(self, replies: Mapping[str, str] | None, context: ssl.SSLContext | None) -> None:
        super().__init__(daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.replies = {"DATA": "354 go on", "QUIT": "221 bye", **(replies or {})}
        self._context = context
        self.lines: list[str] = []
        self.contents: list[bytes] = []

    @property
    def url(self) -> str:
        """Where to send to."""
        return f"smtp://127.0.0.1:{self.port}"

    def run(self) -> None:
        """See L{threading.Thread}."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with contextlib.suppress(OSError):
                    if self._context:
                        connection = self._context.wrap_socket(connection, server_side=True)
                    self._serve(connection)

    def close(self) -> None:
        """Take no more connections."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 mx.example ESMTP\r\n")
            for line in lines:
                self._answer(connection, line.decode().rstrip("\r\n"))
                if line == b"DATA\r\n" and self.replies["DATA"].startswith("354"):
                    self.contents.append(b"".join(iter(lines.readline, b".\r\n")))
                    self._answer(connection, ".")

    def _answer(self, connection: socket.socket, line: str) -> None:
        self.lines.append(line)
        reply = self.replies.get(line) or self.replies.get(line.split(" ")[0].upper()) or "250 2.0.0 ok"
        connection.sendall(reply.encode() + b"\r\n")


class ProcessCase(SynchronousTestCase):
    """
    @ivar directory: where the commands run.
    """

    timeout = 120

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)

    def server(self, replies: Mapping[str, str] | None = None, *, context: ssl.SSLContext | None = None) -> Server:
        """
        A server that is there until the test ends.

        @param context: with one, it speaks TLS from the first octet.
        """
        server = Server(replies, context)
        server.start()
        self.addCleanup(server.close)
        return server

    def provider(self, answer_to_auth: str = "235 2.7.0 welcome") -> Server:
        """A server with TLS from the first octet, which wants to know who is there; C{ca.pem} has its authority."""
        authority = Authority()
        pem = self.directory / "server.pem"
        pem.write_bytes(authority.issue("127.0.0.1").with_key)
        (self.directory / "ca.pem").write_bytes(authority.root.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return self.server(
            {"EHLO": "250-mail.example.org\r\n250 AUTH PLAIN", "AUTH": answer_to_auth},
            context=context,
        )

    def run_command(self, *words: str, text: str | bytes = "", environment: Mapping[str, str] | None = None) -> Ended:
        """
        Run C{pymail-tx} to its end.

        @param text: its standard input.
        """
        ended = subprocess.run(
            [*COMMAND, *words], cwd=self.directory, capture_output=True, timeout=LIMIT_S, check=False,
            input=text.encode() if isinstance(text, str) else text, env=os.environ | (environment or {}),
        )  # fmt: skip
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    def sink(self, *words: str) -> Sink:
        """A sink that is there until the test ends."""
        sink = Sink(self.directory, words)
        self.addCleanup(sink.stop)
        sink.start()
        return sink


class Sink:
    """C{pymail-tx sink}, running."""

    def __init__(self, directory: Path, words: Sequence[str]) -> None:
        self.port = free_port()
        self._out, self._err = directory / f"sink-{self.port}.out", directory / f"sink-{self.port}.err"
        self._words = [*COMMAND, "sink", "--listen", f"tcp:{self.port}:interface=127.0.0.1", *words]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where to send to."""
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def out(self) -> str:
        """What it has shown."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it has said otherwise."""
        return self._err.read_text()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(self._words, cwd=self._directory, stdout=out, stderr=err)
        eventually("the sink listens", lambda: is_listening(self.port), within_s=LIMIT_S)

    def stop(self) -> int:
        """Press Ctrl-C; its exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        return self._process.wait(LIMIT_S)
