"""
What domains ask of TLS, kept in the real spool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.mtasts import CachedPolicy, Mode, Policy
from pymail_tx.net.policy_store import PolicyStoreError
from pymail_tx.relay.policies import SpooledPolicies
from pymail_tx.spool.policies import StoredPolicy
from pymail_tx.spool.sqlite import SQLiteSpool

POLICY = Policy(mode=Mode.ENFORCE, mx=("mx.example.org", "*.example.net"), max_age_s=86_400)
CACHED = CachedPolicy(domain="example.org", id="1", fetched_at=1_000.0, used_at=2_000.0, policy=POLICY)


def _at_once(job: Callable[[], object]) -> None:
    job()


class InTheSpool(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = f"{self.mktemp()}/spool.sqlite"
        self.open()

    def open(self) -> None:
        self.spool = SQLiteSpool.open(self.path, run_in_thread=_at_once, call_in_caller=_at_once)
        self.addCleanup(self.spool.close)
        self.store = SpooledPolicies(lambda: self.spool)

    def test_a_policy_is_found_as_it_was_kept_after_a_restart_too(self) -> None:
        self.successResultOf(self.store.save(CACHED))
        self.successResultOf(self.spool.close())
        self.open()
        self.assertEqual(self.successResultOf(self.store.load("example.org")), CACHED)
        self.assertIsNone(self.successResultOf(self.store.load("example.com")))

    def test_the_later_takes_the_place_of_the_earlier_and_can_be_forgotten(self) -> None:
        later = evolve(CACHED, id="2")
        for cached in (CACHED, later):
            self.successResultOf(self.store.save(cached))
        self.assertEqual(self.successResultOf(self.store.load("example.org")), later)
        self.successResultOf(self.store.forget("example.org"))
        self.assertIsNone(self.successResultOf(self.store.load("example.org")))

    def test_those_due_are_told(self) -> None:
        self.successResultOf(self.store.save(CACHED))
        for now, due in ((CACHED.refresh_at - 1, []), (CACHED.refresh_at, ["example.org"])):
            found: list[Sequence[str]] = []
            self.store.due(now).addCallback(found.append)
            self.assertEqual([list(domains) for domains in found], [due])

    def test_what_is_no_policy_any_more_is_the_stores_fault(self) -> None:
        row = StoredPolicy(
            domain="example.org", policy_id="1", fetched_at=1, used_at=1, refresh_at=1, policy="version: other"
        )
        self.successResultOf(self.spool.save_policy(row))
        problem = self.failureResultOf(self.store.load("example.org"), PolicyStoreError)
        self.assertIn("the policy of example.org in the spool", str(problem.value))

    def test_so_is_a_spool_that_cannot_be_read(self) -> None:
        self.successResultOf(self.spool.close())
        self.failureResultOf(self.store.load("example.org"), PolicyStoreError)
        self.failureResultOf(self.store.save(CACHED), PolicyStoreError)
