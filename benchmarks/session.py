"""
What the blocking Session costs, beside smtplib on the same machine in the same minutes.

Two marks, each at most twice:

  - import: CPU time of `import pymail_tx.client` in a fresh interpreter, beside smtplib and Twisted's protocol base,
    above an interpreter that imports nothing.
  - message: CPU time (user and system, of this process) of one message of 1 KiB with a session of its own, in plain
    text, beside smtplib's. Both talk to the same server in another process.

Pairs are interleaved, and the median of their ratios counts: what else the machine does meets both sides alike.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import smtplib
import socket
import socketserver
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

from attrs import frozen

from pymail_tx.client import Session

MARK = 2.0
"""What a ratio may be at most."""

CONTENT = b"Subject: A message of 1 KiB\r\n\r\n" + b"0123456789abcdef" * 3 + b"\r\n"
CONTENT += (b"x" * 62 + b"\r\n") * ((1_024 - len(CONTENT)) // 64)
CONTENT += b"x" * (1_022 - len(CONTENT)) + b"\r\n"

BASE = "import smtplib, twisted.protocols.basic, twisted.internet.defer"
OURS = "import pymail_tx.client"

Measured = Callable[[], float]


@frozen
class Comparison:
    """
    Pairs of measurements, in seconds of CPU.

    @ivar ours: of pymail-tx.
    @ivar theirs: of what it is compared with.
    """

    what: str
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(our / their for our, their in zip(self.ours, self.theirs, strict=True))

    def row(self) -> str:
        ours_us, theirs_us = (statistics.median(one) * 1e6 for one in (self.ours, self.theirs))
        verdict = "holds" if self.ratio <= MARK else "MISSED"
        return f"{self.what:<10}{ours_us:>12,.0f}{theirs_us:>12,.0f}{self.ratio:>9.2f}{MARK:>9.2f}   {verdict}"


def main() -> int:
    options = _options()
    print(f"{'CPU':<10}{'pymail-tx':>12}{'beside':>12}{'ratio':>9}{'mark':>9}")
    print(f"{'':<10}{'us':>12}{'us':>12}{'median':>9}{'at most':>9}")
    comparisons = []
    for compare in (_imports, _messages):
        comparisons.append(compare(options))
        print(comparisons[-1].row(), flush=True)
    return 0 if all(one.ratio <= MARK for one in comparisons) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of measurements (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=50, help="messages in a measurement (default: %(default)s)")
    return parser.parse_args()


def _imports(options: argparse.Namespace) -> Comparison:
    nothing = statistics.median(_cpu_of_python("pass") for _ in range(options.pairs))
    ours, theirs = _pairs(options.pairs // 2, partial(_cpu_of_python, OURS), partial(_cpu_of_python, BASE))
    return Comparison("import", [one - nothing for one in ours], [one - nothing for one in theirs])


def _messages(options: argparse.Namespace) -> Comparison:
    with _sink() as port:
        ours = partial(_cpu_of, partial(_by_session, port), options.messages)
        theirs = partial(_cpu_of, partial(_by_smtplib, port), options.messages)
        return Comparison("message", *_pairs(options.pairs, ours, theirs))


def _pairs(count: int, ours: Measured, theirs: Measured) -> tuple[list[float], list[float]]:
    """Measure by turns, and each side first as often as the other."""
    ours(), theirs()
    pairs = []
    for number in range(count):
        if number % 2:
            their, our = theirs(), ours()
        else:
            our, their = ours(), theirs()
        pairs.append((our, their))
    return [our for our, _ in pairs], [their for _, their in pairs]


def _cpu_of_python(program: str) -> float:
    before = _cpu_s(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True)
    return _cpu_s(resource.RUSAGE_CHILDREN) - before


def _cpu_of(send: Callable[[], None], messages: int) -> float:
    before = _cpu_s(resource.RUSAGE_SELF)
    for _ in range(messages):
        send()
    return (_cpu_s(resource.RUSAGE_SELF) - before) / messages


def _cpu_s(whose: int) -> float:
    usage = resource.getrusage(whose)
    return usage.ru_utime + usage.ru_stime


def _by_session(port: int) -> None:
    session = Session(["127.0.0.1"], "client.example.net", "a message", "ann@example.net", "bob@example.org")
    session.plain(port)
    session.sendLine("MAIL FROM:<ann@example.net>")
    session.read()
    session.sendLine("RCPT TO:<bob@example.org>")
    session.read()
    session.startData()
    session.sendData(CONTENT)
    session.endData()
    session.close()


def _by_smtplib(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, "client.example.net") as server:
        server.sendmail("ann@example.net", ["bob@example.org"], CONTENT)


@contextlib.contextmanager
def _sink() -> Iterator[int]:
    """A server in a process of its own, which says yes to everything; gives its port."""
    with subprocess.Popen([sys.executable, __file__, "--sink"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield int(server.stdout.readline())
        finally:
            server.terminate()


class _Yes(socketserver.StreamRequestHandler):
    _REPLIES = {b"EHLO": b"250-sink.example.org\r\n250-PIPELINING\r\n250 8BITMIME\r\n", b"DATA": b"354 Go on\r\n"}

    def handle(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wfile.write(b"220 sink.example.org ESMTP\r\n")
        for line in self.rfile:
            verb = line[:4].upper()
            self.wfile.write(self._REPLIES.get(verb, b"250 Yes\r\n") if verb != b"QUIT" else b"221 Bye\r\n")
            if verb == b"QUIT":
                return
            if verb == b"DATA":
                self._content()

    def _content(self) -> None:
        for line in self.rfile:
            if line == b".\r\n":
                self.wfile.write(b"250 Taken\r\n")
                return


class _Sink(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


def _serve() -> int:
    with _Sink(("127.0.0.1", 0), _Yes) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    raise SystemExit(_serve() if sys.argv[1:] == ["--sink"] else main())
