"""
Which policy is in force: kept, fetched and refreshed (RFC 8461 §3.3, §5.1, §10.2).

Policy hosts are real and on loopback; time and DNS are the test's.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.dns import Answer, RecordType, Verdict
from pymail_tx.core.mtasts import FETCH_PAUSE_S, REFRESH_AFTER_S, UNUSED_AFTER_S, CachedPolicy, read_policy
from pymail_tx.core.tlspolicy import STSFound
from pymail_tx.net.mtasts import LOOK_INTERVAL_S, MAX_DOMAINS, ROUND_INTERVAL_S, PolicyKeeper
from pymail_tx.net.policy_store import FilePolicyStore, MemoryPolicyStore, PolicyStore, PolicyStoreError
from pymail_tx.net.resolves import FindsPolicies
from tests.net.policy_server import DOMAIN, POLICY, PolicyTestCase, Records

NOW = 1_800_000_000.0
WEEK_S = 604_800
ENFORCE = read_policy(POLICY)
TESTING = read_policy(POLICY.replace(b"enforce", b"testing"))
TXT = (f"_mta-sts.{DOMAIN}", RecordType.TXT)


def cached(domain: str = DOMAIN, *, policy: bytes = POLICY, at: float = NOW, used_at: float = NOW) -> CachedPolicy:
    """A policy with the id 1."""
    return CachedPolicy(domain=domain, id="1", fetched_at=at, used_at=used_at, policy=read_policy(policy))


@define(eq=False)
class BrokenStore:
    """Neither reads nor writes."""

    def load(self, domain: str) -> Deferred[CachedPolicy | None]:
        """See L{PolicyStore.load}."""
        return fail(PolicyStoreError("cannot read"))

    def save(self, cached: CachedPolicy) -> Deferred[None]:
        """See L{PolicyStore.save}."""
        return fail(PolicyStoreError("cannot write"))

    def forget(self, domain: str) -> Deferred[None]:
        """See L{PolicyStore.forget}."""
        return fail(PolicyStoreError("cannot write"))

    def due(self, now: float) -> Deferred[Sequence[str]]:
        """See L{PolicyStore.due}."""
        return fail(PolicyStoreError("cannot read"))


class BrokenRecords(Records):
    """A resolver with a bug."""

    def resolve(self, name: str, kind: RecordType) -> Deferred[Answer]:
        """See L{pymail_tx.net.resolves.Resolves}."""
        return fail(KeyError(name))


class SlowStore(MemoryPolicyStore):
    """
    Keeps what it is given only later.

    @ivar kept: fires when it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: Deferred[None] = Deferred()

    def save(self, cached: CachedPolicy) -> Deferred[None]:
        """See L{PolicyStore.save}."""
        self.kept.addCallback(lambda _: MemoryPolicyStore.save(self, cached))
        done: Deferred[None] = Deferred()
        self.kept.addCallback(done.callback)
        return done


class KeeperTestCase(PolicyTestCase):
    """
    A keeper of the domain's policy.

    @ivar store: where it keeps policies.
    @ivar host: the policy host, which serves L{POLICY}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.store: PolicyStore = MemoryPolicyStore()
        self.host, self.port = self.serve_policy()
        self.keeper = self.new_keeper()
        self.events = self.enterContext(capturedLogs())

    @property
    def complaints(self) -> list[LogEvent]:
        """What operators hear."""
        return [event for event in self.events if event.get("event", "").startswith("policy_")]

    def new_keeper(self, store: PolicyStore | None = None) -> PolicyKeeper:
        """Another, which is closed at the end."""
        keeper = PolicyKeeper(
            self.reactor,
            self.records,
            wall_clock=self.now,
            store=store or self.store,
            trust_root=self.trust_root,
            port=self.port,
        )
        self.addCleanup(keeper.close)
        return keeper

    def now(self) -> float:
        """The wall clock's time."""
        return NOW + self.clock.seconds()

    async def passes(self, seconds: float) -> None:
        """Time does, and what is under way before and after comes to its end."""
        await self.settles()
        self.clock.advance(seconds)
        await self.settles()

    async def settles(self) -> None:
        """No fetch is under way any more."""
        await self.turns()
        await self.no_connection()

    def refused(self, status: int = 500) -> None:
        """From now on there is no policy at the policy host."""
        self.host.status = status

    async def kept(self) -> CachedPolicy | None:
        """What the store has."""
        return await self.store.load(DOMAIN)

    @property
    def fetches(self) -> int:
        """How often the policy host was asked."""
        return len(self.host.requests)

    @property
    def looks(self) -> int:
        """How often the TXT record was asked for."""
        return self.records.asked.count(TXT)


class FirstContact(KeeperTestCase):
    """Without a policy that applies."""

    def test_a_keeper_is_what_finds_policies(self) -> None:
        finder: FindsPolicies = self.keeper
        self.assertIs(finder, self.keeper)

    async def test_a_domain_without_a_record_has_no_policy_and_nothing_is_fetched(self) -> None:
        for texts in ([], ["v=spf1 -all"]):
            self.records.announce(*texts)
            self.assertEqual(await self.keeper.find(DOMAIN), STSFound())
        self.records.answers.clear()
        self.assertEqual(await self.keeper.find(DOMAIN), STSFound())
        self.assertEqual(self.fetches, 0)

    async def test_a_record_that_is_wrong_counts_as_none_and_the_problem_is_told(self) -> None:
        for texts in (["v=STSv1; id=1;", "v=STSv1; id=2;"], ["v=STSv1; id=;"]):
            self.records.announce(*texts)
            found = await self.keeper.find(DOMAIN)
            self.assertIsNone(found.policy)
            self.assertTrue(found.problem.startswith("_mta-sts.example.org: "), found)
        self.assertEqual(self.fetches, 0)

    async def test_a_question_that_nobody_can_answer_is_a_problem(self) -> None:
        for verdict in (Verdict.FAILED, Verdict.BOGUS):
            self.records.fail(*TXT, verdict=verdict, reason="no answer from 127.0.0.1")
            found = await self.keeper.find(DOMAIN)
            self.assertEqual(found, STSFound(problem="_mta-sts.example.org: no answer from 127.0.0.1"))
        self.assertEqual(self.fetches, 0)

    async def test_a_domain_with_a_record_has_its_policy_fetched_and_kept(self) -> None:
        self.assertEqual(await self.keeper.find(DOMAIN), STSFound(ENFORCE))
        self.assertEqual(await self.kept(), cached())
        self.assertEqual(await self.keeper.find(DOMAIN), STSFound(ENFORCE))
        self.assertEqual(self.fetches, 1)

    async def test_a_policy_that_cannot_be_fetched_is_a_problem_and_mail_goes_as_without_mta_sts(self) -> None:
        self.refused()
        found = await self.keeper.find(DOMAIN)
        self.assertEqual(found, STSFound(problem="https://mta-sts.example.org/.well-known/mta-sts.txt: status 500"))
        self.assertIsNone(await self.kept())
        self.assertEqual(self.complaints, [])

    async def test_a_fetch_that_failed_is_not_repeated_for_five_minutes_and_its_problem_still_told(self) -> None:
        self.refused()
        first = await self.keeper.find(DOMAIN)
        await self.passes(FETCH_PAUSE_S - 1)
        self.assertEqual(await self.keeper.find(DOMAIN), first)
        self.assertEqual(self.fetches, 1)
        self.host.status = 200
        await self.passes(1)
        self.assertEqual(await self.keeper.find(DOMAIN), STSFound(ENFORCE))

    async def test_another_id_is_fetched_at_once(self) -> None:
        self.refused()
        await self.keeper.find(DOMAIN)
        self.host.status = 200
        self.records.announce("v=STSv1; id=2;")
        self.assertEqual(await self.keeper.find(DOMAIN), STSFound(ENFORCE))

    async def test_a_policy_of_mode_none_is_found_as_such(self) -> None:
        self.host.body = b"version: STSv1\nmode: none\nmax_age: 86400\n"
        found = await self.keeper.find(DOMAIN)
        self.assertEqual(found.policy and found.policy.mode, "none")

    async def test_the_policy_of_the_domain_above_does_not_count(self) -> None:
        self.assertEqual(await self.keeper.find(f"mail.{DOMAIN}"), STSFound())
        self.assertEqual(self.records.asked, [(f"_mta-sts.mail.{DOMAIN}", RecordType.TXT)])

    async def test_an_address_literal_or_a_name_too_long_has_no_policy(self) -> None:
        for domain in ("[192.0.2.1]", "[IPv6:2001:db8::1]", ".".join(["a" * 61] * 4)[:245]):
            self.assertEqual(await self.keeper.find(domain), STSFound())
        self.assertEqual(self.records.asked, [])

    async def test_all_mail_for_a_domain_waits_for_one_look_and_one_fetch(self) -> None:
        found = [self.keeper.find(DOMAIN) for _ in range(3)]
        for one in found:
            self.assertEqual(await one, STSFound(ENFORCE))
        self.assertEqual((self.looks, self.fetches), (1, 1))

    async def test_a_cancel_is_one_mail_s_and_the_fetch_goes_on(self) -> None:
        first, second = self.keeper.find(DOMAIN), self.keeper.find(DOMAIN)
        first.cancel()
        await self.assertFailure(first, CancelledError)
        self.assertEqual(await second, STSFound(ENFORCE))
        self.assertEqual(self.fetches, 1)

    async def test_a_fetch_that_nobody_waits_for_any_more_serves_the_next(self) -> None:
        first = self.keeper.find(DOMAIN)
        first.cancel()
        await self.assertFailure(first, CancelledError)
        await self.settles()
        self.assertEqual(await self.kept(), cached())


class Kept(KeeperTestCase):
    """With a policy that applies."""

    def setUp(self) -> None:
        super().setUp()
        self.store.save(cached())

    async def test_a_policy_that_was_kept_is_found_at_once(self) -> None:
        self.records.silent.add(TXT[0])
        self.assertEqual(self.successResultOf(self.keeper.find(DOMAIN)), STSFound(ENFORCE))
        self.assertEqual(self.looks, 1)

    async def test_no_record_or_a_wrong_one_or_no_answer_leaves_it_in_force(self) -> None:
        for texts in ([], ["v=STSv1; id=1;", "v=STSv1; id=2;"], ["v=STSv1; id=;"]):
            self.records.announce(*texts)
            await self.passes(LOOK_INTERVAL_S)
            self.assertEqual(await self.keeper.find(DOMAIN), STSFound(ENFORCE))
        for verdict in (Verdict.FAILED, Verdict.BOGUS):
            self.records.fail(*TXT, verdict=verdict)
            await self.passes(LOOK_INTERVAL_S)
            self.assertEqual(await self.keeper.find(DOMAIN), STSFound(ENFORCE))
        self.assertEqual((self.looks, self.fetches), (5, 0))
        self.assertEqual(await self.kept(), cached())

    async def test_an_id_that_is_unchanged_fetches_nothing(self) -> None:
        await self.keeper.find(DOMAIN)
        await self.settles()
        self.assertEqual((self.looks, self.fetches), (1, 0))

    async def test_an_id_that_changed_has_the_policy_fetched_and_mail_does_not_wait(self) -> None:
        self.records.announce("v=STSv1; id=2;")
        self.host.body = POLICY.replace(b"enforce", b"testing")
        self.assertEqual(self.successResultOf(self.keeper.find(DOMAIN)), STSFound(ENFORCE))
        await self.settles()
        self.assertEqual(self.successResultOf(self.keeper.find(DOMAIN)), STSFound(TESTING))
        kept = await self.kept()
        self.assertEqual(kept and kept.id, "2")

    async def test_a_changed_id_whose_fetch_fails_leaves_the_policy_in_force(self) -> None:
        self.records.announce("v=STSv1; id=2;")
        self.refused()
        for _ in range(3):
            self.assertEqual(await self.keeper.find(DOMAIN), STSFound(ENFORCE))
            await self.passes(LOOK_INTERVAL_S)
        self.assertEqual((self.looks, self.fetches), (3, 1))
        await self.passes(FETCH_PAUSE_S)
        await self.keeper.find(DOMAIN)
        await self.settles()
        self.assertEqual(self.fetches, 2)

    async def test_the_record_is_looked_at_once_a_minute_at_most(self) -> None:
        for _ in range(3):
            await self.keeper.find(DOMAIN)
        await self.passes(LOOK_INTERVAL_S - 1)
        await self.keeper.find(DOMAIN)
        self.assertEqual(self.looks, 1)
        await self.passes(1)
        await self.keeper.find(DOMAIN)
        self.assertEqual(self.looks, 2)

    async def test_a_policy_a_day_old_is_fetched_again_behind_the_mail_s_back(self) -> None:
        self.store.save(cached(at=NOW - REFRESH_AFTER_S))
        self.assertEqual(self.successResultOf(self.keeper.find(DOMAIN)), STSFound(ENFORCE))
        await self.settles()
        self.assertEqual(await self.kept(), cached())

    async def test_an_expired_policy_is_fetched_again_before_mail_goes(self) -> None:
        self.store.save(cached(at=NOW - WEEK_S - 1))
        self.host.body = POLICY.replace(b"enforce", b"testing")
        self.assertEqual(await self.keeper.find(DOMAIN), STSFound(TESTING))

    async def test_an_expired_policy_that_cannot_be_fetched_again_does_not_apply(self) -> None:
        self.store.save(cached(at=NOW - WEEK_S - 1))
        self.refused(404)
        found = await self.keeper.find(DOMAIN)
        self.assertIsNone(found.policy)
        self.assertTrue(found.problem.endswith("status 404"), found)

    async def test_an_expired_policy_whose_record_is_gone_is_no_problem(self) -> None:
        self.store.save(cached(at=NOW - WEEK_S - 1))
        self.records.announce()
        self.assertEqual(await self.keeper.find(DOMAIN), STSFound())

    async def test_operators_hear_once_an_hour_of_a_policy_that_cannot_be_refreshed(self) -> None:
        self.store.save(cached(at=NOW - REFRESH_AFTER_S))
        self.refused()
        for _ in range(3):
            await self.keeper.find(DOMAIN)
            await self.passes(FETCH_PAUSE_S)
        (complaint,) = self.complaints
        self.assertEqual(complaint["event"], "policy_not_refreshed")
        self.assertEqual(complaint["domain"], DOMAIN)
        self.assertTrue(complaint["problem"].endswith("status 500"))
        self.assertEqual(self.fetches, 3)
        await self.passes(ROUND_INTERVAL_S)
        self.assertEqual(len(self.complaints), 2)

    async def test_operators_hear_nothing_of_a_policy_of_mode_none(self) -> None:
        none = POLICY.replace(b"enforce", b"none")
        self.store.save(cached(policy=none, at=NOW - REFRESH_AFTER_S))
        self.refused()
        await self.keeper.find(DOMAIN)
        await self.settles()
        self.assertEqual((self.fetches, self.complaints), (1, []))


class Rounds(KeeperTestCase):
    """Without mail."""

    async def test_a_policy_that_is_due_is_fetched_again_within_the_hour(self) -> None:
        self.store.save(cached(at=NOW - REFRESH_AFTER_S))
        await self.passes(ROUND_INTERVAL_S)
        self.assertEqual(await self.kept(), cached(at=NOW + ROUND_INTERVAL_S))

    async def test_a_policy_that_is_not_due_is_left_alone(self) -> None:
        self.store.save(cached())
        await self.passes(ROUND_INTERVAL_S)
        self.assertEqual((self.looks, self.fetches), (0, 0))

    async def test_a_policy_without_mail_for_30_days_is_left_to_expire(self) -> None:
        year = POLICY.replace(b"604800", b"31557600")
        unused = cached(policy=year, at=NOW - REFRESH_AFTER_S, used_at=NOW - UNUSED_AFTER_S)
        self.store.save(unused)
        await self.passes(ROUND_INTERVAL_S)
        self.assertEqual((self.looks, await self.kept()), (0, unused))
        self.assertEqual((await self.keeper.find(DOMAIN)).policy, unused.policy)
        await self.settles()
        self.assertEqual(self.fetches, 1)

    async def test_mail_counts_when_it_was_since_the_last_fetch(self) -> None:
        year = POLICY.replace(b"604800", b"31557600")
        self.store.save(cached(policy=year, used_at=NOW - UNUSED_AFTER_S))
        await self.keeper.find(DOMAIN)
        await self.passes(REFRESH_AFTER_S)
        self.assertEqual(self.fetches, 1)
        kept = await self.kept()
        self.assertEqual(kept and kept.used_at, NOW)

    async def test_an_expired_policy_is_forgotten(self) -> None:
        self.store.save(cached(at=NOW - WEEK_S - 1))
        await self.passes(ROUND_INTERVAL_S)
        self.assertEqual((self.looks, await self.kept()), (0, None))

    async def test_a_round_with_a_domain_that_does_not_answer_is_left_at_the_close(self) -> None:
        for number in range(30):
            domain = f"d{number}.example"
            self.records.silent.add(f"_mta-sts.{domain}")
            self.store.save(cached(domain, at=NOW - REFRESH_AFTER_S))
        await self.passes(ROUND_INTERVAL_S)
        self.assertEqual(len(self.records.asked), 10)
        await self.keeper.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((len(self.records.asked), self.complaints), (10, []))


class Stores(KeeperTestCase):
    async def test_a_policy_outlives_the_process_in_a_file(self) -> None:
        path = self.mktemp()
        first = self.new_keeper(FilePolicyStore(self.reactor, path))
        await first.find(DOMAIN)
        await first.close()
        self.records.answers.clear()
        second = self.new_keeper(FilePolicyStore(self.reactor, path))
        self.assertEqual(self.successResultOf(second.find(DOMAIN)), STSFound(ENFORCE))

    async def test_mail_goes_without_a_store_that_does_not_work_and_operators_hear(self) -> None:
        keeper = self.new_keeper(BrokenStore())
        for _ in range(2):
            self.assertEqual(await keeper.find(DOMAIN), STSFound(ENFORCE))
        await self.passes(ROUND_INTERVAL_S)
        self.assertEqual(self.fetches, 1)
        problems = [event["problem"] for event in self.complaints]
        self.assertEqual(problems, ["cannot read", "cannot write", "cannot read"])

    async def test_mail_does_not_wait_for_the_store_but_the_close_does(self) -> None:
        store = SlowStore()
        keeper = self.new_keeper(store)
        self.assertEqual(await keeper.find(DOMAIN), STSFound(ENFORCE))
        closing = keeper.close()
        self.assertNoResult(closing)
        store.kept.callback(None)
        self.assertIsNone(self.successResultOf(closing))

    async def test_a_bug_is_a_problem_and_logged_and_holds_up_no_mail(self) -> None:
        self.records = BrokenRecords()
        keeper = self.new_keeper()
        found = await keeper.find(DOMAIN)
        self.assertEqual(found, STSFound(problem="MTA-STS of example.org: '_mta-sts.example.org'"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class Closing(KeeperTestCase):
    async def test_a_fetch_under_way_is_given_up(self) -> None:
        self.host.body = None
        found = self.keeper.find(DOMAIN)
        await self.host.is_asked()
        await self.keeper.close()
        await self.assertFailure(found, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_afterwards_nothing_is_found_or_begun(self) -> None:
        await self.keeper.close()
        await self.assertFailure(self.keeper.find(DOMAIN), CancelledError)
        self.assertEqual((self.records.asked, self.fetches), ([], 0))

    async def test_it_can_be_closed_twice(self) -> None:
        await self.keeper.close()
        await self.keeper.close()


class Memory(SynchronousTestCase):
    def test_10000_domains_are_remembered_and_the_one_that_waits_longest_is_forgotten(self) -> None:
        clock, records, store = Clock(), Records(), CountingStore()
        keeper = PolicyKeeper(clock, records, wall_clock=clock.seconds, store=store)
        for number in range(MAX_DOMAINS):
            self.successResultOf(keeper.find(f"d{number}.example"))
        self.successResultOf(keeper.find("d0.example"))
        self.assertEqual(store.loads, MAX_DOMAINS)
        self.successResultOf(keeper.find("another.example"))
        self.successResultOf(keeper.find("d0.example"))
        self.assertEqual(store.loads, MAX_DOMAINS + 1)
        self.successResultOf(keeper.find("d1.example"))
        self.assertEqual(store.loads, MAX_DOMAINS + 2)
        self.successResultOf(keeper.close())
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_a_closed_keeper_does_not_go_on_with_its_round(self) -> None:
        clock, store = Clock(), CountingStore()
        keeper = PolicyKeeper(clock, Records(), wall_clock=clock.seconds, store=store)
        clock.advance(ROUND_INTERVAL_S)
        self.successResultOf(keeper.close())
        store.round.callback([DOMAIN])
        self.assertEqual((store.loads, clock.getDelayedCalls()), (0, []))

    def test_a_domain_that_is_looked_for_is_not_forgotten_meanwhile(self) -> None:
        clock, records = Clock(), Records(silent={"_mta-sts.d0.example"})
        keeper = PolicyKeeper(clock, records, wall_clock=clock.seconds)
        waiting = keeper.find("d0.example")
        for number in range(1, MAX_DOMAINS + 2):
            self.successResultOf(keeper.find(f"d{number}.example"))
        another = keeper.find("d0.example")
        self.assertEqual(records.asked.count(("_mta-sts.d0.example", RecordType.TXT)), 1)
        self.successResultOf(keeper.close())
        self.failureResultOf(waiting, CancelledError)
        self.failureResultOf(another, CancelledError)


class CountingStore(MemoryPolicyStore):
    """
    @ivar loads: how often it was asked.
    @ivar round: what is due is told when this fires.
    """

    loads = 0

    def __init__(self) -> None:
        super().__init__()
        self.round: Deferred[Sequence[str]] = Deferred()

    def due(self, now: float) -> Deferred[Sequence[str]]:
        """See L{PolicyStore.due}."""
        return self.round

    def load(self, domain: str) -> Deferred[CachedPolicy | None]:
        """See L{PolicyStore.load}."""
        self.loads += 1
        return super().load(domain)
