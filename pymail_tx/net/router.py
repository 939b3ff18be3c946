"""
Finds out where mail goes and how much TLS each host must have: asks, has
L{pymail_tx.core.routing} and L{pymail_tx.core.tlspolicy} decide, and remembers
their decisions for as long as what they rest on holds.

    domain -> MX -> each host's A and AAAA -> its TLSA -> the domain's MTA-STS -> Way

What is known is answered from an index, without asking anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from pymail_tx.core.dns import MX, Answer, RecordType
from pymail_tx.core.outcome import Status
from pymail_tx.core.routing import (
    NOBODY,
    Exchangers,
    Host,
    MailRoute,
    NoRoute,
    Ourselves,
    exchangers,
    in_order,
    lifetime_s,
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
from pymail_tx.net.resolves import FindsPolicies, Resolves

MAX_DECISIONS = 10_000
"""Remembered at a time, as many as the resolver keeps names; each takes 1 to 2 kB."""

MAX_POLICY_AGE_S = 300
"""How long a decision that MTA-STS had a part in is kept: the policy may be refreshed meanwhile."""

_ADDRESSES = (RecordType.A, RecordType.AAAA)
_SETTLED = frozenset({DANEState.USABLE, DANEState.BROKEN})


@frozen
class Hop:
    """
    A host, and the TLS that a session with it must have.

    @ivar key: equal for hops that may share connections: the same host and the
        same decision, whoever's domain led there and whatever words say so.
    """

    host: Host
    decision: TLSDecision
    key: TLSDecision = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "key", evolve(self.decision, reason=""))


@frozen
class Way:
    """
    Where mail goes, decided.

    @ivar hops: in order of preference.
    @ivar ttl_s: how long it holds.
    """

    hops: tuple[Hop, ...]
    ttl_s: float

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


class _Index:
    """Decisions, each for its time."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._decisions: dict[tuple[str, Wishes], tuple[float, Way | NoRoute]] = {}

    def get(self, next_hop: str, wishes: Wishes) -> Way | NoRoute | None:
        found = self._decisions.get((next_hop, wishes))
        if found is None or found[0] <= self._clock.seconds():
            return None
        return found[1]

    def keep(self, next_hop: str, wishes: Wishes, decision: Way | NoRoute, asked_at_s: float) -> None:
        self._decisions.pop((next_hop, wishes), None)
        if len(self._decisions) >= MAX_DECISIONS:
            del self._decisions[next(iter(self._decisions))]  # the oldest
        self._decisions[next_hop, wishes] = asked_at_s + decision.ttl_s, decision


class _Asking:
    """The questions about one host."""

    def __init__(self, resolver: Resolves, port: int) -> None:
        self._resolver = resolver
        self._port = port

    def addresses(self, host: str) -> Deferred[list[Answer]]:
        return gatherResults([self._resolver.resolve(host, kind) for kind in _ADDRESSES], consumeErrors=True)

    def about(
        self, host: Host, domain: str, mx: Answer | None, answers: Sequence[Answer], wishes: Wishes
    ) -> Deferred[_About]:
        """
        @param mx: the answer to the MX question, if one was asked.
        @param answers: to those for its addresses.
        """
        return Deferred.fromCoroutine(self._about(host, domain, mx, answers, wishes))

    async def _about(
        self, host: Host, domain: str, mx: Answer | None, answers: Sequence[Answer], wishes: Wishes
    ) -> _About:
        so_far = list(answers)
        while wishes.need_dane and (question := next_question(host.name, self._port, mx, so_far)):
            so_far.append(await self._resolver.resolve(question.name, question.kind))
        ttl_s = min((lifetime_s(answer) for answer in so_far), default=float("inf"))
        return _About(host, host_found(host.name, domain, mx, so_far), ttl_s)


@frozen
class _About:
    host: Host
    found: HostFound
    ttl_s: float


class ByMX:
    """
    The internet's way: by the MX of the recipients' domain. See L{Router}.
    """

    def __init__(  # noqa: PLR0913  # whom it asks, and what it must know
        self,
        clock: IReactorTime,
        resolver: Resolves,
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
        self._clock = clock
        self._resolver = resolver
        self._policies = policies
        self._asking = _Asking(resolver, port)
        self._random = random
        self._us = us
        self._index = _Index(clock)

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
        direct = literal(domain, self._us)
        if isinstance(direct, NoRoute):
            return direct
        if direct:
            return await self._decided(direct, None, {}, wishes)
        asked_at_s = self._clock.seconds()
        way = await self._by_dns(domain, wishes)
        self._index.keep(domain, wishes, way, asked_at_s)
        return way

    async def _by_dns(self, domain: str, wishes: Wishes) -> Way | NoRoute:
        mx = await self._resolver.resolve(domain, RecordType.MX)
        asked = exchangers(mx, self._us, random=self._random)
        if isinstance(asked, NoRoute):
            return asked
        answers = await gatherResults([self._asking.addresses(one.host) for one in asked.mx], consumeErrors=True)
        found = route(asked, answers, self._us)
        if isinstance(found, NoRoute):
            return found
        of_host = {one.host: answer for one, answer in zip(asked.mx, answers, strict=True)}
        return await self._decided(found, mx, of_host, wishes)

    async def _decided(
        self, found: MailRoute, mx: Answer | None, answers: dict[str, list[Answer]], wishes: Wishes
    ) -> Way:
        hosts = await gatherResults(
            [self._asking.about(host, found.domain, mx, answers.get(host.name, ()), wishes) for host in found.hosts],
            consumeErrors=True,
        )
        ttl_s = min([found.ttl_s, *(one.ttl_s for one in hosts)])
        if mx is None or not wishes.need_mta_sts or _is_settled(hosts, wishes):
            return _way(hosts, STSFound(), wishes, ttl_s)
        policy = await self._policies.find(found.domain)
        return _way(hosts, policy, wishes, min(ttl_s, MAX_POLICY_AGE_S))


class ToOneHost:
    """
    All mail to one host, by its TLSA records. See L{Router}.
    """

    def __init__(self, clock: IReactorTime, resolver: Resolves, *, host: str, port: int) -> None:
        """
        @param host: a name in ASCII, or an address.
        """
        self._clock = clock
        self._host = host.lower()
        self._asking = _Asking(resolver, port)
        self._index = _Index(clock)

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
        asked_at_s = self._clock.seconds()
        answers = await self._asking.addresses(host)
        only = Exchangers(domain=host, mx=(MX(0, host),), implicit=True, authenticated=True, ttl_s=float("inf"))
        found = route(only, [answers])
        way: Way | NoRoute
        if isinstance(found, NoRoute):
            words = found.reason.partition(" ")[2]
            way = evolve(found, status=Status.DEFERRED, reason=f"4.4.4 {words}")
        else:
            about = await self._asking.about(found.hosts[0], host, None, answers, wishes)
            way = _way([about], STSFound(), wishes, about.ttl_s)
        self._index.keep(host, wishes, way, asked_at_s)
        return way


def _way(hosts: Sequence[_About], policy: STSFound, wishes: Wishes, ttl_s: float) -> Way:
    return Way(tuple(Hop(one.host, decide(one.found, policy, wishes)) for one in hosts), ttl_s)


def _is_settled(hosts: Sequence[_About], wishes: Wishes) -> bool:
    """Whether DANE has said all: what MTA-STS says cannot change it, and a fetch takes its time."""
    return not wishes.requiretls and all(one.found.dane in _SETTLED for one in hosts)
