"""
What the asynchronous client does in a second, over a distance and with memory, beside others in the same minutes.

Three parts:

  - a: messages a second. Messages of 1 KiB into Postfix's smtp-sink, over 20 connections and over one, beside
    smtp-source -d (Postfix's load generator, in C) and aiosmtplib on uvloop. Each sender is a process with one thread.
  - b: round trips. A real server behind a proxy that delays every octet by 50 ms each way, beside smtplib. Postfix: one
    cold message, from connecting to its Report, and 50 messages given at once to an agent with one connection. Exim: a
    cold message, and another when it is known to offer PIPECONNECT.
  - c: memory. A large file to a receiver that reads slowly, beside a message of 1 KiB; and what each of many sessions
    takes while it waits for the answer to its end of data.

All sides are measured by turns, and medians count. A mark that is missed makes the exit status 1; what the agent cannot
do yet is said and fails nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from attrs import frozen

from benchmarks import measure, peers
from benchmarks.measure import MISSED, Mark, Row, median_ratio, memory_kib
from benchmarks.peers import Measured, NotHere
from benchmarks.sender import MESSAGES_A_CONNECTION
from tests.peers.exim import Exim
from tests.peers.postfix import Postfix

BODY_OCTETS = 1_024
CONTENT = peers.message(BODY_OCTETS)

MANY_CONNECTIONS = 20
DELAY_MS = 50
ROUND_TRIP_S = 2 * DELAY_MS / 1_000
LOCKSTEP_MESSAGES = 5
"""Of a client that waits for every reply: it needs four round trips for each."""

SLOW_OCTETS_PER_S = 30 * 1024 * 1024
KIB_PER_MIB = 1_024

OURS = "pymail-tx"
SMTP_SOURCE = "smtp-source -d"
AIOSMTPLIB = "aiosmtplib on uvloop"
SMTPLIB = "smtplib"


def main() -> int:
    options = _options()
    try:
        peers.require_postfix_tools()
    except NotHere as problem:
        print(problem, file=sys.stderr)
        return 1
    print(_setting(), flush=True)
    rows: list[Row] = []
    for part in options.only:
        found = list(PARTS[part](options))
        print(f"\n{part}\n{measure.text_table(found)}", flush=True)
        rows += found
    if options.write:
        measure.write_section("client", options.date, _setting(), rows)
    return 1 if any(row.verdict == MISSED for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, what in (
        ("--messages", 10_000, "messages in a measurement of part a"),
        ("--repeat", 5, "rounds of parts a and b"),
        ("--sessions", 2_000, "sessions open at once in part c"),
        ("--file-mib", 300, "size of the file in part c, in MiB"),
    ):
        parser.add_argument(name, type=int, metavar="N", default=default, help=f"{what} (default: {default:,})")
    parser.add_argument("--only", type=_parts, default=list(PARTS), metavar="a,b,c", help="these parts (default: all)")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reference/benchmarks.md")
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="the day that --write writes down")
    options = parser.parse_args()
    if options.write and (not options.date or options.only != list(PARTS)):
        parser.error("--write needs --date and all parts: the page shows figures of one run")
    return options


def _parts(text: str) -> list[str]:
    chosen = text.split(",")
    if not set(chosen) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r} is not made of {', '.join(PARTS)}")
    return sorted(set(chosen))


def _setting() -> str:
    return f"{measure.machine()}, beside {peers.versions()}"


# Part a, messages a second


@frozen
class Throughput:
    """
    @ivar messages_s: a second.
    @ivar cpu_us: of the sender, a message.
    @ivar sink_share: how busy the sink was; near 1 it is what was measured.
    """

    messages_s: float
    cpu_us: float
    sink_share: float


def throughput(options: argparse.Namespace) -> Iterator[Row]:
    with peers.smtp_sink() as sink:
        yield from _at(sink, options, MANY_CONNECTIONS, {SMTP_SOURCE: Mark(1, 1.5, at_least=True),
                                                         AIOSMTPLIB: Mark(4, at_least=True)})  # fmt: skip
        yield from _at(sink, options, 1, {SMTP_SOURCE: Mark(2, at_least=True), AIOSMTPLIB: None})


def _at(
    sink: peers.Server, options: argparse.Namespace, connections: int, marks: Mapping[str, Mark | None]
) -> Iterator[Row]:
    counts = (sink.port, options.messages, connections)
    senders: dict[str, Callable[[], Measured]] = {
        OURS: partial(peers.agent, *counts, CONTENT),
        SMTP_SOURCE: partial(peers.smtp_source, *counts, BODY_OCTETS),
        AIOSMTPLIB: partial(peers.aiosmtplib, *counts, CONTENT),
    }
    missing = _missing(peers.require_aiosmtplib)
    if missing:
        del senders[AIOSMTPLIB]
    sides = {name: partial(_throughput, sink, options.messages, send) for name, send in senders.items()}
    found = measure.rounds(options.repeat, sides)
    for peer, mark in marks.items():
        what = f"{connections} connection{'s' * (connections > 1)}, beside {peer}"
        if peer in found:
            yield _throughput_row(what, found[OURS], found[peer], mark)
        else:
            yield Row(what=what, unit="messages/s", mark=mark, remark=missing)


def _throughput(sink: peers.Server, messages: int, send: Callable[[], Measured]) -> Throughput:
    before_s = measure.cpu_s(sink.pid)
    measured = send()
    sink_s = measure.cpu_s(sink.pid) - before_s
    elapsed_s = measured["elapsed_s"]
    return Throughput(messages / elapsed_s, measured["cpu_s"] / messages * 1e6, sink_s / elapsed_s)


def _throughput_row(what: str, ours: Sequence[Throughput], theirs: Sequence[Throughput], mark: Mark | None) -> Row:
    sides = ours, theirs
    our_rates, their_rates = ([one.messages_s for one in side] for side in sides)
    our_cpu, their_cpu = (statistics.median(one.cpu_us for one in side) for side in sides)
    our_sink, their_sink = (statistics.median(one.sink_share for one in side) for side in sides)
    return Row(
        what=what,
        unit="messages/s",
        ours=statistics.median(our_rates),
        theirs=statistics.median(their_rates),
        ratio=median_ratio(our_rates, their_rates),
        mark=mark,
        remark=f"CPU {our_cpu:.0f} and {their_cpu:.0f} us a message; sink {our_sink:.0%} and {their_sink:.0%} busy",
    )


# Part b, round trips


@frozen
class Way:
    """
    What is timed against a distant server.

    @ivar send: does it, given the port.
    @ivar ours: how many messages that are.
    @ivar theirs: and how many smtplib sends.
    """

    what: str
    mark: Mark
    send: Callable[[int], Measured]
    ours: int = 1
    theirs: int = 1


def round_trips(options: argparse.Namespace) -> Iterator[Row]:
    burst = min(MESSAGES_A_CONNECTION, options.messages)
    lockstep = min(LOCKSTEP_MESSAGES, options.messages)
    one, many = (partial(peers.agent, messages=count, connections=1, content=CONTENT) for count in (1, burst))
    known = partial(peers.agent_known, content=CONTENT)
    to_postfix = (
        Way("cold message to Postfix", Mark(4.2, 3.7), one),
        Way(f"each of {burst} messages to Postfix, one connection", Mark(0.2, 0.1), many, burst, lockstep),
    )
    to_exim = (
        Way("cold message to Exim", Mark(4.2, 3.7), one),
        Way("cold message to Exim that offered PIPECONNECT before", Mark(3.2, 2.7), known),
    )
    yield from _distant(Postfix, to_postfix, options.repeat)
    yield from _distant(Exim, to_exim, options.repeat)


def _distant(server: type[Exim] | type[Postfix], ways: Sequence[Way], repeat: int) -> Iterator[Row]:
    try:
        with peers.of_tests(server) as port, peers.delay_proxy(port, DELAY_MS) as proxy:
            peers.by_smtplib(port, 1, CONTENT)  # Postfix starts its processes with the first message
            for way in ways:
                yield _round_trips(way, proxy.port, repeat)
    except NotHere as problem:
        for way in ways:
            yield Row(what=way.what, unit="round trips", mark=way.mark, remark=str(problem))


def _round_trips(way: Way, port: int, repeat: int) -> Row:
    sides: dict[str, Callable[[], Measured]] = {
        OURS: partial(way.send, port),
        SMTPLIB: partial(peers.by_smtplib, port, way.theirs, CONTENT),
    }
    found = measure.rounds(repeat, sides)
    our_trips, their_trips = (
        [one["elapsed_s"] / ROUND_TRIP_S / count for one in found[side]]
        for side, count in zip((OURS, SMTPLIB), (way.ours, way.theirs), strict=True)
    )
    return Row(
        what=f"{way.what}, beside {SMTPLIB}",
        unit="round trips",
        ours=statistics.median(our_trips),
        theirs=statistics.median(their_trips),
        ratio=median_ratio(our_trips, their_trips),
        mark=way.mark,
    )


# Part c, memory


def memory(options: argparse.Namespace) -> Iterator[Row]:
    for verb, chunking in (("DATA", ()), ("BDAT", ("--chunking",))):
        what = f"{options.file_mib} MiB from a file by {verb} to a slow reader, above 1 KiB"
        yield _file_row(what, options, chunking)
    yield _sessions_row("a session that waits, plain text", options.sessions, Mark(16))
    with peers.certificate() as certificate:
        yield _sessions_row("a session that waits, TLS", options.sessions, None, certificate)


def _file_row(what: str, options: argparse.Namespace, chunking: Sequence[str]) -> Row:
    mark = Mark(16)
    with ExitStack() as stack:
        slow = stack.enter_context(peers.receiver("--octets-per-s", str(SLOW_OCTETS_PER_S), *chunking))
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))) / "message"
        with path.open("wb") as file:
            for _ in range(options.file_mib):
                file.write(peers.message(KIB_PER_MIB * KIB_PER_MIB))
        large_kib = peers.agent_with_file(slow.port, path)["peak_kib"]
        path.write_bytes(CONTENT)
        small_kib = peers.agent_with_file(slow.port, path)["peak_kib"]
    remark = f"peaks of {large_kib / KIB_PER_MIB:.0f} and {small_kib / KIB_PER_MIB:.0f} MiB"
    return Row(what=what, unit="MiB", ours=(large_kib - small_kib) / KIB_PER_MIB, mark=mark, remark=remark)


def _sessions_row(what: str, sessions: int, mark: Mark | None, certificate: Path | None = None) -> Row:
    """Above one session, so that what every process has once does not count."""
    one_kib, all_kib = (_waiting_kib(count, certificate) for count in (1, sessions))
    remark = f"{sessions:,} at once: {all_kib / KIB_PER_MIB:.0f} MiB in all"
    return Row(what=what, unit="KiB", ours=(all_kib - one_kib) / (sessions - 1), mark=mark, remark=remark)


def _waiting_kib(sessions: int, certificate: Path | None) -> int:
    """The sender's memory when every session has sent its message and waits."""
    options, tls = (["--certificate", str(certificate)], "required") if certificate else ([], "none")
    with peers.receiver("--hold", *options) as slow, peers.waiting_agent(slow.port, sessions, tls=tls) as pid:
        for waiting in range(sessions):
            if not slow.output.readline():
                raise RuntimeError(f"only {waiting} of {sessions} sessions came to their end of data")
        return memory_kib(pid, "VmRSS")


def _missing(require: Callable[[], None]) -> str:
    """Why a peer cannot be used; C{""} if it can."""
    try:
        require()
    except NotHere as problem:
        return str(problem)
    return ""


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {"a": throughput, "b": round_trips, "c": memory}


if __name__ == "__main__":
    raise SystemExit(main())
