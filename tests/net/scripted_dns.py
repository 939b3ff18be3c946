"""
DNS, and policies of MTA-STS, as a test says they are.
"""

from __future__ import annotations

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from pymail_tx.core.dns import MX, TLSA, Answer, RecordType, Verdict
from pymail_tx.core.dns_cache import DNSCache
from pymail_tx.core.tlspolicy import STSFound

_ADDRESSES = (RecordType.A, RecordType.AAAA)


@define(eq=False)
class ScriptedDNS:
    """
    Asked for what no test spoke of, it says that there is no such name, or
    nothing of that type.

    @ivar clock: for how long answers are remembered.
    @ivar signed: whether DNSSEC proves all of it.
    @ivar asked: every question so far.
    @ivar silent: questions that get no answer.
    """

    clock: Clock
    signed: bool = False
    asked: list[tuple[str, RecordType]] = field(factory=list)
    silent: set[tuple[str, RecordType]] = field(factory=set)
    waiting: list[Deferred[Answer]] = field(factory=list)
    _answers: dict[tuple[str, RecordType], Answer] = field(factory=dict)
    _cache: DNSCache = field(factory=DNSCache)

    def has_mx(self, domain: str, *hosts: str, ttl_s: float = 300) -> None:
        """A domain's hosts: the first is preferred; with a digit and a blank before it a host has that preference."""
        listed = []
        for place, host in enumerate(hosts):
            preference, _, name = host.rpartition(" ")
            listed.append(MX(int(preference or 10 * place), name))
        self._says(domain, RecordType.MX, mx=tuple(listed), ttl_s=ttl_s)

    def has_addresses(self, host: str, *addresses: str, ttl_s: float = 300) -> None:
        """Of both families."""
        for kind in _ADDRESSES:
            of_kind = tuple(one for one in addresses if (":" in one) == (kind is RecordType.AAAA))
            if of_kind:
                self._says(host, kind, addresses=of_kind, ttl_s=ttl_s)

    def has_tlsa(self, name: str, *records: TLSA) -> None:
        """At C{_port._tcp.host}."""
        self._says(name, RecordType.TLSA, tlsa=records, ttl_s=300)

    def fails(self, name: str, kind: RecordType, verdict: Verdict = Verdict.FAILED) -> None:
        """A question that cannot be answered."""
        self._answers[name, kind] = Answer(
            name=name, kind=kind, verdict=verdict, canonical_name=name, reason="no server answers", ttl_s=30
        )

    def forgets(self) -> None:
        """As if all times were over."""
        self._cache = DNSCache()

    def resolve(self, name: str, kind: RecordType) -> Deferred[Answer]:
        """See L{Resolves <pymail_tx.net.resolves.Resolves>}."""
        known = self.cached(name, kind)
        if known:
            return succeed(known)
        self.asked.append((name, kind))
        if (name, kind) in self.silent:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        answer = self._answers.get((name, kind)) or self._nothing(name, kind)
        self._cache.keep(answer, 0, self.clock.seconds())
        return succeed(answer)

    def cached(self, name: str, kind: RecordType) -> Answer | None:
        """See L{Knows <pymail_tx.net.resolves.Knows>}."""
        return self._cache.get(name, kind, self.clock.seconds())

    def _nothing(self, name: str, kind: RecordType) -> Answer:
        exists = any(known == name for known, _ in self._answers)
        verdict = Verdict.NODATA if exists else Verdict.NXDOMAIN
        return Answer(name=name, kind=kind, verdict=verdict, authenticated=self.signed, canonical_name=name, ttl_s=300)

    def _says(
        self,
        name: str,
        kind: RecordType,
        *,
        mx: tuple[MX, ...] = (),
        addresses: tuple[str, ...] = (),
        tlsa: tuple[TLSA, ...] = (),
        ttl_s: float,
    ) -> None:
        self._answers[name, kind] = Answer(
            name=name, kind=kind, verdict=Verdict.DATA, authenticated=self.signed, canonical_name=name,
            mx=mx, addresses=addresses, tlsa=tlsa, ttl_s=ttl_s,
        )  # fmt: skip


@frozen
class ScriptedPolicy:
    """See L{STSPolicy <pymail_tx.core.tlspolicy.STSPolicy>}."""

    mode: str
    hosts: tuple[str, ...]

    def matches(self, host: str) -> bool:
        """Whether it lists the host."""
        return host in self.hosts


@define(eq=False)
class ScriptedPolicies:
    """
    @ivar found: by the domain.
    @ivar asked: every question so far.
    """

    found: dict[str, STSFound] = field(factory=dict)
    asked: list[str] = field(factory=list)

    def find(self, domain: str) -> Deferred[STSFound]:
        """See L{FindsPolicies <pymail_tx.net.resolves.FindsPolicies>}."""
        self.asked.append(domain)
        return succeed(self.found.get(domain, STSFound()))
