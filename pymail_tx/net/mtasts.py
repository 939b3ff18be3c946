"""
Which MTA-STS policy is in force for a domain (RFC 8461): kept, fetched and
refreshed.

A policy that has not expired is given at once, and mail never waits for its
refreshing. Behind the mail's back its TXT record is looked at again, once a
minute at most, and the policy is fetched when its id has changed or it has
grown old (§3.3, §5.1); those for which no mail comes are looked after every
hour (§10.2). Only without such a policy does mail wait, for DNS and where that
announces a policy for the fetch, together with all other mail for the domain.
Mail that an outdated policy defers has thereby asked for a newer one, which its
next attempt finds: none fails for good before (§5.1, step 3).

Time here is the wall clock's: a policy's age counts across restarts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pymail_tx.core.dns import RecordType, Verdict
from pymail_tx.core.mtasts import (
    UNUSED_AFTER_S,
    BadPolicy,
    CachedPolicy,
    FailedFetch,
    Mode,
    Policy,
    announced_id,
    record_name,
    wants_fetch,
)
from pymail_tx.core.tlspolicy import STSFound
from pymail_tx.net.policy_host import HTTPS_PORT, FetchFailed, PolicyHosts
from pymail_tx.net.policy_store import MemoryPolicyStore, PolicyStore, PolicyStoreError
from pymail_tx.net.resolves import Resolves

MAX_DOMAINS = 10_000
"""Domains remembered, with a policy and without, the last that there was mail for: as many as names of DNS."""

LOOK_INTERVAL_S = 60
"""How often a policy's TXT record is looked at again, at most; the resolver may know it for longer."""

ROUND_INTERVAL_S = 3_600
"""How often the policies are looked through for those that are due, with mail or without."""

MAX_REFRESHES = 10
"""Policies refreshed at a time in such a round, so that it does not crowd out mail."""

COMPLAINT_INTERVAL_S = 3_600
"""How often the log says of a domain that its policy cannot be refreshed."""

_log = Logger()


@define(eq=False)
class _Domain:
    """
    What is known of one.

    @ivar cached: the last policy fetched, expired or not.
    @ivar failed: the last fetch, if it failed.
    @ivar used_at: when there was mail.
    @ivar look: under way; at its end those in C{waiting} hear its problem.
    """

    name: str
    cached: CachedPolicy | None = None
    failed: FailedFetch | None = None
    used_at: float = 0
    looked_at: float = float("-inf")
    complained_at: float = float("-inf")
    look: Deferred[str] | None = None
    waiting: list[Deferred[str]] = field(factory=list)

    def policy_at(self, now: float) -> Policy | None:
        """That which applies."""
        return self.cached.policy_at(now) if self.cached else None

    def wait(self) -> Deferred[str]:
        """Fires at the end of the next look; cancelled, the look goes on without."""
        waiter: Deferred[str] = Deferred(self.waiting.remove)
        self.waiting.append(waiter)
        return waiter


class PolicyKeeper:
    """
    Knows the policies of all domains. It is a L{FindsPolicies
    <pymail_tx.net.resolves.FindsPolicies>}.
    """

    def __init__(  # noqa: PLR0913  # what it asks, where it keeps, and what time it is
        self,
        reactor: IReactorTime,
        resolver: Resolves,
        *,
        wall_clock: Callable[[], float],
        store: PolicyStore | None = None,
        trust_root: str | None = None,
        port: int = HTTPS_PORT,
    ) -> None:
        """
        @param wall_clock: seconds since the epoch.
        @param store: where policies are kept; by default in memory.
        @param trust_root: see L{PolicyHosts <pymail_tx.net.policy_host.PolicyHosts>}.
        @param port: see there.
        """
        self._reactor = reactor
        self._resolver = resolver
        self._wall_clock = wall_clock
        self._store: PolicyStore = store or MemoryPolicyStore()
        self._hosts = PolicyHosts(reactor, resolver, trust_root=trust_root, port=port)
        self._domains: OrderedDict[str, _Domain] = OrderedDict()
        self._storing: set[Deferred[None]] = set()
        self._is_closed = False
        self._round: Deferred[None] | None = None
        self._rounds = LoopingCall(self._begin_round)
        self._rounds.clock = reactor
        self._rounds.start(ROUND_INTERVAL_S, now=False)

    def find(self, domain: str) -> Deferred[STSFound]:
        """
        The policy in force for mail to a domain.

        @param domain: the recipients', or a smart host's (RFC 8461 §3.4), in
            A-labels, lower case, without a trailing dot. Policies of the domains
            above it do not count. An address literal has none.
        @return: fires with the policy, one of mode C{none} included, or without
            it and with the problem if it could not be had. It never fails, but
            when cancelled or after L{close}; what is under way for others goes
            on then.
        """
        return Deferred.fromCoroutine(self._find(domain))

    def close(self) -> Deferred[None]:
        """
        Give up what is under way.

        @return: fires when the store has what it was given and nothing is left.
            It cannot be cancelled.
        """
        self._is_closed = True
        if self._rounds.running:
            self._rounds.stop()
        if self._round:
            self._round.cancel()
        for look in [known.look for known in self._domains.values() if known.look]:
            look.cancel()
        return DeferredList(list(self._storing)).addCallback(lambda _: None)

    async def _find(self, domain: str) -> STSFound:
        if not record_name(domain):
            return STSFound()
        known = await self._known(domain)
        now = known.used_at = self._wall_clock()
        policy = known.policy_at(now)
        if policy is None:
            problem = await self._look(known)
            policy = known.policy_at(self._wall_clock())
            return STSFound(policy, "" if policy else problem)
        if not 0 <= now - known.looked_at < LOOK_INTERVAL_S:
            self._begin_look(known)
        return STSFound(policy)

    async def _known(self, domain: str) -> _Domain:
        if domain not in self._domains:
            cached = await self._loaded(domain)
            self._domains.setdefault(domain, _Domain(domain, cached, used_at=cached.used_at if cached else 0))
        self._domains.move_to_end(domain)
        if len(self._domains) > MAX_DOMAINS:
            self._make_room()
        if self._is_closed:
            raise CancelledError
        return self._domains[domain]

    async def _loaded(self, domain: str) -> CachedPolicy | None:
        try:
            return await self._store.load(domain)
        except PolicyStoreError as problem:
            _complain_of_store(problem)
            return None

    def _make_room(self) -> None:
        """Forget whom nobody asked for the longest, but never the last or one whose policy is on its way."""
        *others, _ = self._domains
        idle = next((name for name in others if not self._domains[name].look), None)
        if idle:
            del self._domains[idle]

    def _look(self, known: _Domain) -> Deferred[str]:
        """
        Look at the TXT record, and fetch the policy if that says so.

        @return: fires with the problem, if there is one.
        """
        looked = known.wait()
        self._begin_look(known)
        return looked

    def _begin_look(self, known: _Domain) -> None:
        if known.look is None:
            known.look = Deferred.fromCoroutine(self._refresh(known))
            known.look.addBoth(self._end_look, known)

    def _end_look(self, result: str | Failure, known: _Domain) -> None:
        known.look = None
        waiting, known.waiting = known.waiting, []
        if isinstance(result, Failure) and not result.check(CancelledError):
            _log.failure("looking for the policy of {domain} failed", result, event="policy_broken", domain=known.name)
            result = f"MTA-STS of {known.name}: {result.getErrorMessage()}"
        elif isinstance(result, str) and result:
            self._complain(known, result)
        while waiting:
            waiting.pop(0).callback(result)

    async def _refresh(self, known: _Domain) -> str:
        name = record_name(known.name)
        answer = await self._resolver.resolve(name, RecordType.TXT)
        now = known.looked_at = self._wall_clock()
        if answer.verdict in (Verdict.FAILED, Verdict.BOGUS):
            return f"{name}: {answer.reason or answer.verdict.value}"
        try:
            announced = announced_id(answer.texts)
        except BadPolicy as problem:
            return f"{name}: {problem}"
        if announced is None:
            return f"{name}: no record of MTA-STS any more" if known.policy_at(now) else ""
        if not wants_fetch(announced, known.cached, known.failed, now):
            return known.failed.problem if known.failed and known.failed.is_recent(announced, now) else ""
        return await self._fetch(known, announced)

    async def _fetch(self, known: _Domain, announced: str) -> str:
        try:
            policy = await self._hosts.fetch(known.name)
        except FetchFailed as problem:
            known.failed = FailedFetch(id=announced, at=self._wall_clock(), problem=str(problem))
            return str(problem)
        known.cached = CachedPolicy(
            domain=known.name, id=announced, fetched_at=self._wall_clock(), used_at=known.used_at, policy=policy
        )
        self._in_the_store(self._store.save(known.cached))
        return ""

    def _complain(self, known: _Domain, problem: str) -> None:
        """Administrators are told where a policy applies, unless it is C{none} (RFC 8461 §3.3)."""
        now = self._wall_clock()
        policy = known.policy_at(now)
        if policy and policy.mode is not Mode.NONE and now - known.complained_at >= COMPLAINT_INTERVAL_S:
            known.complained_at = now
            _log.warn(
                "the MTA-STS policy of {domain} cannot be refreshed, and stays as it was: {problem}",
                event="policy_not_refreshed",
                domain=known.name,
                problem=problem,
            )

    def _in_the_store(self, storing: Deferred[None]) -> None:
        """Mail does not wait for the store, and goes without it; L{close} waits."""
        self._storing.add(storing)
        storing.addErrback(_not_stored).addBoth(lambda _: self._storing.discard(storing))

    def _begin_round(self) -> Deferred[None]:
        self._round = Deferred.fromCoroutine(self._refresh_due()).addErrback(_round_ended)
        return self._round

    async def _refresh_due(self) -> None:
        try:
            due = await self._store.due(self._wall_clock())
        except PolicyStoreError as problem:
            _complain_of_store(problem)
            return
        room = DeferredSemaphore(MAX_REFRESHES)
        await DeferredList([room.run(self._look_after, domain).addErrback(_round_ended) for domain in due])

    def _look_after(self, domain: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._look_after_policy(domain))

    async def _look_after_policy(self, domain: str) -> None:
        """Expired, it is forgotten; without mail for long, it is left to expire."""
        known = await self._known(domain)
        now = self._wall_clock()
        if known.policy_at(now) is None:
            self._in_the_store(self._store.forget(domain))
        elif now - known.used_at <= UNUSED_AFTER_S:
            await self._look(known)


def _complain_of_store(problem: PolicyStoreError) -> None:
    _log.warn("the store of MTA-STS policies: {problem}", event="policy_store_broken", problem=str(problem))


def _not_stored(failure: Failure) -> None:
    if isinstance(failure.value, PolicyStoreError):
        _complain_of_store(failure.value)
    else:
        _log.failure("an MTA-STS policy was not stored", failure, event="policy_store_broken")


def _round_ended(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.failure("looking after the MTA-STS policies failed", failure, event="policy_round_broken")
