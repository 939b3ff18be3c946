"""
What mail's questions to DNS cost: MX of a domain, then A, AAAA and TLSA of its host.

Two parts:

  - a: domains a second that the resolver does not know. A thousand of them, a few under way at a time, in a signed zone
    of a real bind9 behind a real, validating unbound on loopback. First nobody knows them, so unbound asks bind9 and
    validates; then unbound knows them and the resolver, a new one, does not. The servers share the machine's cores.
  - b: microseconds for what the resolver knows.

Medians of the rounds count. A mark that is missed makes the exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial

from attrs import frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from benchmarks import measure
from benchmarks.measure import MISSED, Mark, Row
from pymail_tx.core.dns import Answer, RecordType, Verdict
from pymail_tx.core.tlspolicy import Wishes
from pymail_tx.net.dns import Resolver
from pymail_tx.net.mtasts import PolicyKeeper
from pymail_tx.net.router import ByMX, Way
from tests.peers.zones import Zone, Zones

ZONE = "bench.test"
AT_ONCE = 40
"""Domains under way: as many deliveries as a relay begins at a time."""

QUESTIONS = 4
"""For a domain."""


def main() -> int:
    options = _options()
    print(measure.machine(), flush=True)
    try:
        rows = _in_reactor(partial(_rows, options))
    except SkipTest as problem:
        print(problem, file=sys.stderr)
        return 1
    if options.write:
        measure.write_section("dns", options.date, measure.machine(), rows)
    return 1 if any(row.verdict == MISSED for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, metavar="N", default=1_000, help="in a round (default: %(default)s)")
    parser.add_argument("--repeat", type=int, metavar="N", default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reference/benchmarks.md")
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="the day that --write writes down")
    options = parser.parse_args()
    if options.write and not options.date:
        parser.error("--write needs --date")
    return options


async def _rows(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for name, part in PARTS.items():
        found = await part(options)
        print(f"\n{name}\n{measure.text_table(found)}", flush=True)
        rows += found
    return rows


def _in_reactor(work: Callable[[], Coroutine[Deferred[object], object, list[Row]]]) -> list[Row]:
    """What the coroutine returns or raises; the reactor runs for as long."""
    ended: list[list[Row] | Failure] = []

    def stop(result: list[Row] | Failure) -> None:
        ended.append(result)
        IReactorCore(reactor).stop()

    IReactorCore(reactor).callWhenRunning(lambda: Deferred.fromCoroutine(work()).addBoth(stop))
    IReactorCore(reactor).run()
    (result,) = ended
    if isinstance(result, Failure):
        result.raiseException()
    return result


@contextlib.contextmanager
def _servers(domains: int) -> Iterator[Zones]:
    """bind9 and unbound, which knows nothing yet."""
    records = "\n".join(
        f"d{number} MX 10 mail.d{number}\nmail.d{number} A 127.0.0.2\nmail.d{number} AAAA ::1\n"
        f"_25._tcp.mail.d{number} TLSA 3 1 1 {number:064x}"
        for number in range(domains)
    )
    owner = SynchronousTestCase()
    try:
        yield Zones.start(owner, Zone(ZONE, records))
    finally:
        owner.doCleanups()


async def _look_up(resolver: Resolver, number: int) -> None:
    """All that has to be known of a domain before its server is connected to."""
    exchangers = _good(await resolver.resolve(f"d{number}.{ZONE}", RecordType.MX))
    host = exchangers.mx[0].host
    asking = [resolver.resolve(host, RecordType.A), resolver.resolve(host, RecordType.AAAA)]
    asking.append(resolver.resolve(f"_25._tcp.{host}", RecordType.TLSA))
    for answer in await gatherResults(asking):
        _good(answer)


def _good(answer: Answer) -> Answer:
    if answer.verdict is not Verdict.DATA or not answer.authenticated:
        raise RuntimeError(f"not what is measured: {answer}")
    return answer


# Part a, what is not known


@frozen
class Rate:
    """
    @ivar domains_s: a second.
    @ivar cpu_us: of this process, a domain.
    """

    domains_s: float
    cpu_us: float


async def unknown(options: argparse.Namespace) -> list[Row]:
    cold: list[Rate] = []
    warm: list[Rate] = []
    for _ in range(options.repeat):
        with _servers(options.domains) as zones:
            cold.append(await _rate(zones, options.domains))
            warm.append(await _rate(zones, options.domains))
    return [
        _rate_row(f"{options.domains:,} domains that the server does not know either", cold),
        _rate_row(f"{options.domains:,} domains that the server knows", warm),
    ]


async def _rate(zones: Zones, domains: int) -> Rate:
    resolver = Resolver(IReactorTime(reactor), [zones.resolver])
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    looking_up = (Deferred.fromCoroutine(_look_up(resolver, number)) for number in range(domains))
    cooperator = Cooperator()
    await gatherResults([cooperator.coiterate(looking_up) for _ in range(AT_ONCE)])
    elapsed_s, used_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    await resolver.close()
    return Rate(domains / elapsed_s, used_s / domains * 1e6)


def _rate_row(what: str, rates: Sequence[Rate]) -> Row:
    cpu_us = statistics.median(rate.cpu_us for rate in rates)
    return Row(
        what=what,
        unit="domains/s",
        ours=statistics.median(rate.domains_s for rate in rates),
        mark=Mark(500, at_least=True, of_ratio=False),
        remark=f"CPU {cpu_us:.0f} us a domain, of {QUESTIONS} questions",
    )


# Part b, what is known


CALLS = 20_000


async def known(options: argparse.Namespace) -> list[Row]:
    with _servers(1) as zones:
        resolver = Resolver(IReactorTime(reactor), [zones.resolver])
        await _look_up(resolver, 0)
        question = f"d0.{ZONE}", RecordType.MX
        at_once_us, deferred_us = (
            statistics.median(_call_us(partial(ask, *question)) for _ in range(options.repeat))
            for ask in (resolver.cached, resolver.resolve)
        )
        decided_us = await _decided_us(resolver, options.repeat)
        await resolver.close()
    return [
        Row(
            what="a known way of a domain: hosts in their order, addresses, TLS",
            unit="us",
            ours=decided_us,
            mark=Mark(50, at_least=False, of_ratio=False),
        ),
        Row(what="a known answer, by Resolver.cached", unit="us", ours=at_once_us),
        Row(what="a known answer, by Resolver.resolve", unit="us", ours=deferred_us),
    ]


async def _decided_us(resolver: Resolver, repeat: int) -> float:
    """What the agent asks for each message, of a domain whose MX, A, AAAA and TLSA are known."""
    clock = IReactorTime(reactor)
    policies = PolicyKeeper(clock, resolver, wall_clock=time.time)
    router = ByMX(clock, resolver, policies, port=25, random=random.random)
    domain, wishes = f"d0.{ZONE}", Wishes()
    if not isinstance(await router.find(domain, wishes), Way):
        raise RuntimeError("there is no way to what is measured")

    def decide() -> None:
        way = router.known(domain, wishes)
        assert isinstance(way, Way)
        for _ in way.in_order(random.random):
            pass

    decided_us = statistics.median(_call_us(decide) for _ in range(repeat))
    await policies.close()
    return decided_us


def _call_us(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began_s) / CALLS * 1e6


PARTS = {"a": unknown, "b": known}


if __name__ == "__main__":
    raise SystemExit(main())
