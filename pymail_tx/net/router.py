"""
Finds out where mail goes and how much TLS each host must have: asks, has
L{pymail_tx.core.routing} and L{pymail_tx.core.tlspolicy} decide, and remembers
their decisions for as long as what they rest on holds::

    domain -> MX -> each host's A and AAAA -> its TLSA -> the domain's MTA-STS -> Way

What is known is answered from an index, without asking anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from pymail_tx.core.dns import MX, Answer, RecordType
from pymail_tx.core.outcome import Status
from pymail_tx.core.routing import (
    NOBODY,
    Exchangers,
    Host,
    NoRoute,
    Ourselves,
    exchangers,
    in_order,
    literal,
    route,
)
from pymail_tx.core.tlspolicy import (
    DANEState,
    HostFound,
    STSFound,
    TLSDecision,
    Wishes,
    decide,
    host_found,
    next_question,
)
from pymail_tx.net.resolves import FindsPolicies, Knows, Resolves

MAX_DECISIONS = 10_000
"""Remembered at a time, as many as the resolver keeps names; one with one host takes 1.2 kB, with five 3.4."""

MAX_POLICY_AGE_S = 300
"""How long a decision that MTA-STS had a part in is kept: the policy may be refreshed meanwhile."""

_ADDRESSES = (RecordType.A, RecordType.AAAA)
_SETTLED = frozenset({DANEState.USABLE, DANEState.BROKEN})


@frozen
class Hop:
    """
    A host, and the TLS that a session with it must have.
    """

    host: Host
    decision: TLSDecision


@frozen
class Way:
    """
    Where mail goes, decided.

    @ivar hops: in order of preference.
    """

    hops: tuple[Hop, ...]

    def in_order(self, random: Callable[[], float]) -> Iterable[Hop]:
        """For one delivery; see L{pymail_tx.core.routing.in_order}."""
        if len(self.hops) == 1:
            return self.hops
        by_host = {hop.host: hop for hop in self.hops}
        return [by_host[host] for host in in_order(by_host, random)]


class Router(Protocol):
    """Knows the ways."""

    def next_hop(self, domain: str) -> str:
        """What recipients must have in common to travel together."""
        ...

    def known(self, next_hop: str, wishes: Wishes) -> Way | NoRoute | None:
        """The way, if it is known."""
        ...

    def find(self, next_hop: str, wishes: Wishes) -> Deferred[Way | NoRoute]:
        """The way; it is known afterwards."""
        ...


@frozen
class _Decided:
    """
    @ivar rests_on: what DNS said.
    @ivar until_s: when to look again all the same.
    """

    way: Way | NoRoute
    rests_on: Sequence[Answer]
    until_s: float


class _Index:
    """Decisions, each for as long as every answer that it rests on."""

    def __init__(self, clock: IReactorTime, resolver: Knows) -> None:
        self._clock = clock
        self._cached = resolver.cached
        self._decisions: dict[tuple[str, Wishes], _Decided] = {}

    def get(self, next_hop: str, wishes: Wishes) -> Way | NoRoute | None:
        found = self._decisions.get((next_hop, wishes))
        if found is None or found.until_s <= self._clock.seconds():
            return None
        for answer in found.rests_on:
            if self._cached(answer.name, answer.kind) is not answer:
                return None
        return found.way

    def keep(
        self, next_hop: str, wishes: Wishes, way: Way | NoRoute, rests_on: Sequence[Answer], for_s: float
    ) -> Way | NoRoute:
        self._decisions.pop((next_hop, wishes), None)
        if len(self._decisions) >= MAX_DECISIONS:
            del self._decisions[next(iter(self._decisions))]  # the oldest
        self._decisions[next_hop, wishes] = _Decided(way, rests_on, self._clock.seconds() + for_s)
        return way


class _Asking:
    """
    The questions about one domain or host.

    @ivar answers: to all of them.
    """

    def __init__(self, resolver: Resolves, port: int, wishes: Wishes) -> None:
        self.answers: list[Answer] = []
        self._resolver = resolver
        self._port = port
        self._wishes = wishes

    async def ask(self, name: str, kind: RecordType) -> Answer:
        answer = await self._resolver.resolve(name, kind)
        self.answers.append(answer)
        return answer

    def addresses(self, host: str) -> Deferred[list[Answer]]:
        return gatherResults([Deferred.fromCoroutine(self.ask(host, kind)) for kind in _ADDRESSES], consumeErrors=True)

    def about(self, host: Host, domain: str, mx: Answer | None, answers: Sequence[Answer]) -> Deferred[_About]:
        """
        @param mx: the answer to the MX question, if one was asked.
        @param answers: to those for its addresses.
        """
        return Deferred.fromCoroutine(self._about(host, domain, mx, list(answers)))

    async def _about(self, host: Host, domain: str, mx: Answer | None, answers: list[Answer]) -> _About:
        while self._wishes.need_dane and (question := next_question(host.name, self._port, mx, answers)):
            answers.append(await self.ask(question.name, question.kind))
        return _About(host, host_found(host.name, domain, mx, answers))


@frozen
class _About:
    host: Host
    found: HostFound


class ByMX:
    """
    The internet's way: by the MX of the recipients' domain. See L{Router}.
    """

    def __init__(  # noqa: PLR0913  # whom it asks, and what it must know
        self,
        clock: IReactorTime,
        resolver: Knows,
        policies: FindsPolicies,
        *,
        port: int,
        random: Callable[[], float],
        us: Ourselves = NOBODY,
    ) -> None:
        """
        @param policies: of MTA-STS.
        @param port: of all hosts.
        @param random: makes numbers from 0 to 1.
        @param us: where mail must not go.
        """
        self._resolver = resolver
        self._policies = policies
        self._port = port
        self._random = random
        self._us = us
        self._index = _Index(clock, resolver)

    def next_hop(self, domain: str) -> str:
        """See L{Router}."""
        return domain.lower()

    def known(self, next_hop: str, wishes: Wishes) -> Way | NoRoute | None:
        """See L{Router}."""
        return self._index.get(next_hop, wishes)

    def find(self, next_hop: str, wishes: Wishes) -> Deferred[Way | NoRoute]:
        """See L{Router}."""
        return Deferred.fromCoroutine(self._find(next_hop, wishes))

    async def _find(self, domain: str, wishes: Wishes) -> Way | NoRoute:
        asking = _Asking(self._resolver, self._port, wishes)
        direct = literal(domain, self._us)
        if isinstance(direct, NoRoute):
            return direct
        if direct:
            return _way([await asking.about(host, domain, None, ()) for host in direct.hosts], STSFound(), wishes)
        found = await self._hosts(domain, asking)
        if isinstance(found, NoRoute):
            return self._index.keep(domain, wishes, found, asking.answers, float("inf"))
        if not wishes.need_mta_sts or _is_settled(found, wishes):
            return self._index.keep(domain, wishes, _way(found, STSFound(), wishes), asking.answers, float("inf"))
        policy = await self._policies.find(domain)
        return self._index.keep(domain, wishes, _way(found, policy, wishes), asking.answers, MAX_POLICY_AGE_S)

    async def _hosts(self, domain: str, asking: _Asking) -> list[_About] | NoRoute:
        mx = await asking.ask(domain, RecordType.MX)
        asked = exchangers(mx, self._us, random=self._random)
        if isinstance(asked, NoRoute):
            return asked
        answers = await gatherResults([asking.addresses(one.host) for one in asked.mx], consumeErrors=True)
        found = route(asked, answers, self._us)
        if isinstance(found, NoRoute):
            return found
        of_host = {one.host: answer for one, answer in zip(asked.mx, answers, strict=True)}
        about = [asking.about(host, domain, mx, of_host[host.name]) for host in found.hosts]
        return await gatherResults(about, consumeErrors=True)


class ToOneHost:
    """
    All mail to one host, by its TLSA records. See L{Router}.
    """

    def __init__(self, clock: IReactorTime, resolver: Knows, *, host: str, port: int) -> None:
        """
        @param host: a name in ASCII, or an address.
        """
        self._host = host.lower()
        self._resolver = resolver
        self._port = port
        self._index = _Index(clock, resolver)

    def next_hop(self, domain: str) -> str:
        """See L{Router}."""
        return self._host

    def known(self, next_hop: str, wishes: Wishes) -> Way | NoRoute | None:
        """See L{Router}."""
        return self._index.get(next_hop, wishes)

    def find(self, next_hop: str, wishes: Wishes) -> Deferred[Way | NoRoute]:
        """See L{Router}. What is wrong with a host that the operator named fails no mail."""
        return Deferred.fromCoroutine(self._find(next_hop, wishes))

    async def _find(self, host: str, wishes: Wishes) -> Way | NoRoute:
        asking = _Asking(self._resolver, self._port, wishes)
        answers = await asking.addresses(host)
        only = Exchangers(domain=host, mx=(MX(0, host),), implicit=True, authenticated=True)
        found = route(only, [answers])
        way: Way | NoRoute
        if isinstance(found, NoRoute):
            words = found.reason.partition(" ")[2]
            way = NoRoute(status=Status.DEFERRED, reason=f"4.4.4 {words}")
        else:
            way = _way([await asking.about(found.hosts[0], host, None, answers)], STSFound(), wishes)
        return self._index.keep(host, wishes, way, asking.answers, float("inf"))


def _way(hosts: Sequence[_About], policy: STSFound, wishes: Wishes) -> Way:
    return Way(tuple(Hop(one.host, decide(one.found, policy, wishes)) for one in hosts))


def _is_settled(hosts: Sequence[_About], wishes: Wishes) -> bool:
    """Whether DANE has said all: what MTA-STS says cannot change it, and a fetch takes its time."""
    return not wishes.requiretls and all(one.found.dane in _SETTLED for one in hosts)
