"""
One resolver and one keeper of policies for all routes of a relay.
"""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.routing import Ourselves
from pymail_tx.net.policy_store import MemoryPolicyStore
from pymail_tx.relay.lookups import LookUps


class AllRoutes(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def look_ups(self, host: str = "127.0.0.1", *, name: str = "relay.example") -> LookUps:
        us = Ourselves(names=[name])
        return LookUps(reactor=self.reactor, wall_clock=float, servers=[(host, 53)], us=us, store=MemoryPolicyStore())

    def test_they_are_made_once_when_a_route_needs_them_and_leave_nothing(self) -> None:
        look_ups = self.look_ups()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        first, second = look_ups(), look_ups()
        self.assertIs(first.resolver, second.resolver)
        self.assertIs(first.policies, second.policies)
        self.assertEqual(first.us.names, {"relay.example"})
        self.successResultOf(look_ups.close())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_those_never_needed_have_nothing_to_close(self) -> None:
        self.successResultOf(self.look_ups().close())

    def test_two_are_the_same_that_ask_the_same_servers_for_the_same_relay(self) -> None:
        used = self.look_ups()
        used()
        self.addCleanup(used.close)
        self.assertEqual(used, self.look_ups())
        for other in (self.look_ups("127.0.0.2"), self.look_ups(name="other.example")):
            self.assertNotEqual(used, other)
