"""
What the blocking Session costs, beside smtplib on the same machine in the same minutes.

Two marks, each at most twice:

  - import: CPU time of `import pymail_tx.client` in a fresh interpreter, beside smtplib and Twisted's protocol base,
    above an interpreter that imports nothing.
  - message: CPU time (user and system, of this process) of one message of 1 KiB with a session of its own, in plain
    text, beside smtplib's. Both talk to the same server in another process.

Both sides are measured by turns, and the median of their ratios counts: what else the machine does meets both alike.
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

from benchmarks import measure
from benchmarks.measure import MISSED, Mark, Row, median_ratio
from pymail_tx.client import Session

MARK = Mark(2, of_ratio=True)

CONTENT = b"Subject: A message of 1 KiB\r\n\r\n" + b"0123456789abcdef" * 3 + b"\r\n"
CONTENT += (b"x" * 62 + b"\r\n") * ((1_024 - len(CONTENT)) // 64)
CONTENT += b"x" * (1_022 - len(CONTENT)) + b"\r\n"

BASE = "import smtplib, twisted.protocols.basic, twisted.internet.defer"
OURS = "import pymail_tx.client"


def main() -> int:
    options = _options()
    print(measure.machine(), flush=True)
    rows = [_imports(options), _messages(options)]
    print(f"\n{measure.text_table(rows)}")
    if options.write:
        measure.write_section("session", options.date, measure.machine(), rows)
    return 1 if any(row.verdict == MISSED for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of measurements (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=50, help="messages in a measurement (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reference/benchmarks.md")
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="the day that --write writes down")
    options = parser.parse_args()
    if options.write and not options.date:
        parser.error("--write needs --date")
    return options


def _imports(options: argparse.Namespace) -> Row:
    nothing_s = statistics.median(_cpu_of_python("pass") for _ in range(options.pairs))
    ours, theirs = (partial(_cpu_of_python, program, above_s=nothing_s) for program in (OURS, BASE))
    return _row("import, beside smtplib and Twisted's protocol base", options.pairs // 2, ours, theirs)


def _messages(options: argparse.Namespace) -> Row:
    with _sink() as port:
        ours, theirs = (
            partial(_cpu_of, partial(send, port), options.messages) for send in (_by_session, _by_smtplib)
        )  # fmt: skip
        return _row("a session with a message of 1 KiB, beside smtplib", options.pairs, ours, theirs)


def _row(what: str, pairs: int, ours: Callable[[], float], theirs: Callable[[], float]) -> Row:
    """What both cost, in seconds of CPU, after a first time that does not count."""
    ours(), theirs()
    found = measure.rounds(pairs, {"ours": ours, "theirs": theirs})
    return Row(
        what=what,
        unit="us of CPU",
        ours=statistics.median(found["ours"]) * 1e6,
        theirs=statistics.median(found["theirs"]) * 1e6,
        ratio=median_ratio(found["ours"], found["theirs"]),
        mark=MARK,
    )


def _cpu_of_python(program: str, above_s: float = 0) -> float:
    before = _cpu_s(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True)
    return _cpu_s(resource.RUSAGE_CHILDREN) - before - above_s


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
