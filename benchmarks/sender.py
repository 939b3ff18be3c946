"""
Our agent as a process of its own, measured from within.

    python benchmarks/sender.py SERVER --messages N --connections N [--file FILE] [--known] <CONTENT

It sends the content on its standard input, or that of a file, and prints the seconds from the first C{send} to the last
Report, its CPU time for that and its peak memory, as JSON. Unless every message was delivered, it fails.

Where the agent has a pool, as many messages are under way as the pool can keep moving; without one, each has a
connection of its own, and there are as many messages as connections.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react

from benchmarks.measure import memory_kib
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Status
from pymail_tx.net.agent import SMTPAgent

MESSAGES_A_CONNECTION = 50
"""Under way at a time, where there is a pool: the burst that is measured against a distant server."""

ENVELOPE = Envelope("ann@example.net", ["bob@example.org"])

HAS_POOL = "max_connections" in inspect.signature(SMTPAgent).parameters
"""Whether the agent can send several messages over a connection."""

TAKES_FILES = inspect.signature(SMTPAgent.send).parameters["content"].annotation not in ("bytes", bytes)
"""Whether it takes content as an open file."""


async def _measure(reactor: IReactorTime, options: argparse.Namespace) -> None:
    content = cast("bytes", options.file.open("rb")) if options.file else sys.stdin.buffer.read()  # see TAKES_FILES
    pool: dict[str, Any] = {"max_connections": options.connections} if HAS_POOL else {}
    if options.known:
        pool["max_messages_per_connection"] = 1
    agent = SMTPAgent(reactor, options.server, hostname="client.example.net", **pool)
    at_once = options.connections * (MESSAGES_A_CONNECTION if HAS_POOL else 1)
    todo = iter(range(options.messages))
    if options.known:
        await _send(agent, content, iter([0]))
    gc.freeze()  # what was imported stays, and need not be looked through again: see docs/explanation/performance.md
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    senders = [Deferred.fromCoroutine(_send(agent, content, todo)) for _ in range(min(at_once, options.messages))]
    await gatherResults(senders, consumeErrors=True)
    elapsed_s, used_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    await agent.close()
    print(json.dumps({"elapsed_s": elapsed_s, "cpu_s": used_s, "peak_kib": memory_kib("self", "VmHWM")}))


async def _send(agent: SMTPAgent, content: bytes, todo: Iterator[int]) -> None:
    for _ in todo:
        report = await agent.send(ENVELOPE, content)
        (outcome,) = report.outcomes
        if outcome.status is not Status.DELIVERED:
            raise RuntimeError(f"not delivered: {outcome}")


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
