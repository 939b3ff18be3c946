"""
Our agent as a process of its own, measured from within.

    python benchmarks/sender.py SERVER --messages N --connections N [--file FILE] [--known] <CONTENT

It sends the content on its standard input, or that of a file, and prints the seconds from the first C{send} to the last
Report, its CPU time for that and its peak memory, as JSON. Unless every message was delivered, it fails.

As many messages are under way as the connections can keep moving.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react

from benchmarks.measure import memory_kib
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Report, Status
from pymail_tx.core.pool import MAX_MESSAGES_PER_CONNECTION
from pymail_tx.net.agent import SMTPAgent

MESSAGES_A_CONNECTION = 50
"""Under way at a time: the burst that is measured against a distant server."""

ENVELOPE = Envelope("ann@example.net", ["bob@example.org"])


class _Sender:
    """Keeps so many messages under way until all are delivered."""

    def __init__(self, agent: SMTPAgent, content: bytes | BinaryIO, messages: int) -> None:
        self.all_delivered: Deferred[None] = Deferred()
        self._agent = agent
        self._content = content
        self._left = self._unsent = messages

    def start(self, at_once: int) -> Deferred[None]:
        for _ in range(min(at_once, self._unsent)):
            self._send_one()
        return self.all_delivered

    def _send_one(self) -> None:
        self._unsent -= 1
        self._agent.send(ENVELOPE, self._content).addCallbacks(self._reported, self.all_delivered.errback)

    def _reported(self, report: Report) -> None:
        (outcome,) = report.outcomes
        if outcome.status is not Status.DELIVERED:
            self.all_delivered.errback(RuntimeError(f"not delivered: {outcome}"))
            return
        self._left -= 1
        if self._unsent:
            self._send_one()
        elif not self._left:
            self.all_delivered.callback(None)


async def _measure(reactor: IReactorTime, options: argparse.Namespace) -> None:
    content = options.file.open("rb") if options.file else sys.stdin.buffer.read()
    agent = SMTPAgent(
        reactor, options.server, hostname="client.example.net", max_connections=options.connections,
        max_messages_per_connection=1 if options.known else MAX_MESSAGES_PER_CONNECTION,
    )  # fmt: skip
    if options.known:
        await _Sender(agent, content, 1).start(1)
    gc.freeze()  # what was imported stays, and need not be looked through again: see docs/explanation/performance.md
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await _Sender(agent, content, options.messages).start(options.connections * MESSAGES_A_CONNECTION)
    elapsed_s, used_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    await agent.close()
    print(json.dumps({"elapsed_s": elapsed_s, "cpu_s": used_s, "peak_kib": memory_kib("self", "VmHWM")}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="such as smtp://127.0.0.1:2525")
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--file", type=Path, help="send it as an open file")
    parser.add_argument("--known", action="store_true", help="send one before, and each over a connection of its own")
    return parser.parse_args()


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    react(lambda reactor: Deferred.fromCoroutine(_measure(reactor, _options())))


if __name__ == "__main__":
    main()
