"""
MTA-STS policies are kept, a row for each domain.
"""

from __future__ import annotations

from attrs import evolve

from pymail_tx.spool.policies import StoredPolicy
from tests.spool.turns import SpoolTestCase

POLICY = StoredPolicy(
    domain="example.net",
    policy_id="20261125T000000",
    fetched_at=1_700_000_000.0,
    used_at=1_700_000_060.0,
    refresh_at=1_700_086_400.0,
    policy="version: STSv1\nmode: enforce\nmx: mx.example.net\nmax_age: 604800\n",
)


class PolicyTests(SpoolTestCase):
    def test_a_policy_comes_back_as_it_was_saved_after_a_restart_too(self) -> None:
        self.got(self.spool.save_policy(POLICY))
        self.reopened()
        self.assertEqual(self.got(self.spool.load_policy("example.net")), POLICY)

    def test_a_domain_without_one_has_none(self) -> None:
        self.assertIsNone(self.got(self.spool.load_policy("example.net")))

    def test_a_domain_has_one_policy_the_last(self) -> None:
        later = evolve(POLICY, policy_id="2", policy="version: STSv1\nmode: none\nmax_age: 1\n")
        self.got(self.spool.save_policy(POLICY))
        self.got(self.spool.save_policy(later))
        self.assertEqual(self.got(self.spool.load_policy("example.net")), later)

    def test_a_policy_is_forgotten_and_so_is_one_that_is_not_there(self) -> None:
        self.got(self.spool.save_policy(POLICY))
        for _ in range(2):
            self.got(self.spool.forget_policy("example.net"))
        self.assertIsNone(self.got(self.spool.load_policy("example.net")))

    def test_those_to_refresh_are_named_the_longest_due_first(self) -> None:
        for domain, refresh_at in (("a.example", 20.0), ("b.example", 10.0), ("c.example", 30.0)):
            self.got(self.spool.save_policy(evolve(POLICY, domain=domain, refresh_at=refresh_at)))
        self.assertEqual(self.got(self.spool.policies_due(20.0)), ["b.example", "a.example"])
