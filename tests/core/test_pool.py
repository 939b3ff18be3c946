"""
Which connection sends which message: decided without any.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.pool import Decisions, Limits, Pool


class PoolCase(SynchronousTestCase):
    """
    Messages are numbers, connections letters. Time is C{now_s}.
    """

    def setUp(self) -> None:
        self.now_s = 100.0
        self.has(Limits())

    def has(self, limits: Limits) -> None:
        """There is a new pool with these limits."""
        self.pool: Pool[str, int] = Pool(limits)

    def decides(self) -> Decisions[str, int]:
        return self.pool.decide(self.now_s)

    def submits(self, *messages: int) -> None:
        for message in messages:
            self.pool.submit(message)

    def opens(self, *connections: str) -> None:
        """As many connections as were asked for come about, one second after the other."""
        for connection in connections:
            self.now_s += 1
            self.pool.opened(connection, self.now_s)

    def idles(self, *connections: str) -> None:
        """There are idle connections, the last one for the shortest time."""
        self.submits(*range(-len(connections), 0))
        self.assertEqual(self.decides().open, len(connections))
        self.opens(*connections)
        self.decides()
        for connection in connections:
            self.now_s += 1
            self.pool.free(connection, self.now_s)

    def used(self) -> tuple[tuple[str, int], ...]:
        return self.decides().use

    def counts(self) -> tuple[int, int, int, int]:
        return self.pool.waiting, self.pool.opening, self.pool.idle, self.pool.busy


class Service(PoolCase):
    def test_a_pool_without_messages_does_nothing(self) -> None:
        self.assertEqual(self.decides(), Decisions())

    def test_a_connection_is_opened_for_each_message(self) -> None:
        self.submits(1, 2, 3)
        self.assertEqual(self.decides(), Decisions(open=3))

    def test_none_is_opened_twice_for_the_same_message(self) -> None:
        self.submits(1)
        self.decides()
        self.submits(2)
        self.assertEqual(self.decides().open, 1)
        self.assertEqual(self.decides().open, 0)

    def test_messages_are_served_in_the_order_in_which_they_came(self) -> None:
        self.has(Limits(max_connections=1))
        self.submits(1, 2, 3)
        self.decides()
        self.opens("a")
        for message in (1, 2, 3):
            self.assertEqual(self.used(), (("a", message),))
            self.pool.free("a", self.now_s)
        self.assertEqual(self.used(), ())

    def test_a_connection_that_is_idle_serves_before_one_is_opened(self) -> None:
        self.idles("a")
        self.submits(1, 2)
        decisions = self.decides()
        self.assertEqual((decisions.use, decisions.open), ((("a", 1),), 1))

    def test_of_idle_connections_the_one_used_last_serves_first(self) -> None:
        self.idles("a", "b", "c")
        self.submits(1, 2)
        self.assertEqual(self.used(), (("c", 1), ("b", 2)))

    def test_a_connection_that_sends_takes_what_waits_and_no_more(self) -> None:
        self.has(Limits(max_connections=1))
        self.submits(1, 2)
        self.decides()
        self.opens("a")
        self.decides()
        self.assertEqual(self.pool.take("a", self.now_s), 2)
        self.assertIsNone(self.pool.take("a", self.now_s))

    def test_a_connection_that_is_gone_takes_nothing(self) -> None:
        self.idles("a")
        self.pool.gone("a")
        self.submits(1)
        self.assertIsNone(self.pool.take("a", self.now_s))

    def test_a_message_that_came_back_is_the_next(self) -> None:
        self.idles("a")
        self.submits(1, 2)
        self.assertEqual(self.pool.take("a", self.now_s), 1)
        self.pool.resubmit(1)
        self.assertEqual(self.pool.first, 1)
        self.pool.free("a", self.now_s)
        self.assertEqual(self.used(), (("a", 1),))

    def test_a_message_that_was_withdrawn_is_not_served(self) -> None:
        self.idles("a")
        self.submits(1, 2)
        self.assertTrue(self.pool.withdraw(1))
        self.assertEqual(self.used(), (("a", 2),))

    def test_a_message_that_a_connection_has_cannot_be_withdrawn(self) -> None:
        self.idles("a")
        self.submits(1)
        self.decides()
        self.assertFalse(self.pool.withdraw(1))

    def test_the_message_that_waits_longest_is_told(self) -> None:
        self.assertIsNone(self.pool.first)
        self.submits(1, 2)
        self.assertEqual(self.pool.first, 1)

    def test_it_counts(self) -> None:
        self.has(Limits(max_connections=3))
        self.submits(1, 2, 3, 4)
        self.decides()
        self.assertEqual(self.counts(), (4, 3, 0, 0))
        self.opens("a", "b")
        self.assertEqual(self.counts(), (4, 1, 2, 0))
        self.decides()
        self.assertEqual(self.counts(), (2, 1, 0, 2))
        self.pool.free("a", self.now_s)
        self.assertEqual(self.counts(), (2, 1, 1, 1))
        self.assertEqual(self.pool.connections, ("a", "b"))

    def test_connections_opened_for_messages_that_were_withdrawn_are_surplus(self) -> None:
        self.submits(1, 2)
        self.decides()
        self.assertEqual(self.pool.surplus, 0)
        self.pool.withdraw(1)
        self.assertEqual(self.pool.surplus, 1)
        self.pool.abandoned()
        self.assertEqual((self.pool.surplus, self.pool.opening), (0, 1))


class LimitOnConnections(PoolCase):
    def test_no_more_are_opened_than_allowed(self) -> None:
        for waiting, opened in ((1, 1), (2, 2), (3, 2)):
            self.has(Limits(max_connections=2))
            self.submits(*range(waiting))
            self.assertEqual(self.decides().open, opened)
            self.assertEqual(self.decides().open, 0)

    def test_those_that_send_count(self) -> None:
        self.has(Limits(max_connections=2))
        self.idles("a")
        self.submits(1, 2, 3)
        decisions = self.decides()
        self.assertEqual((decisions.use, decisions.open), ((("a", 1),), 1))

    def test_one_that_says_good_bye_counts_until_it_is_gone(self) -> None:
        self.has(Limits(max_connections=1, max_messages_per_connection=1))
        self.idles("a")
        self.submits(1)
        decisions = self.decides()
        self.assertEqual((decisions.close, decisions.open), (("a",), 0))
        self.assertEqual(self.decides(), Decisions())
        self.pool.gone("a")
        self.assertEqual(self.decides().open, 1)

    def test_one_that_is_gone_makes_room(self) -> None:
        self.has(Limits(max_connections=1))
        self.submits(1, 2)
        self.decides()
        self.opens("a")
        self.decides()
        self.assertEqual(self.decides().open, 0)
        self.pool.gone("a")
        self.assertEqual(self.decides().open, 1)

    def test_less_than_one_is_refused(self) -> None:
        for limit in ("max_connections", "max_messages_per_connection"):
            for number in (0, -1):
                self.assertRaises(BadArgument, Limits, **{limit: number})
            Limits(**{limit: 1})


class LimitOnMessages(PoolCase):
    def test_a_connection_takes_as_many_as_allowed_and_not_one_more(self) -> None:
        self.has(Limits(max_connections=1, max_messages_per_connection=3))
        self.submits(1, 2, 3, 4)
        self.decides()
        self.opens("a")
        self.assertEqual(self.used(), (("a", 1),))
        self.assertEqual(self.pool.take("a", self.now_s), 2)
        self.assertEqual(self.pool.take("a", self.now_s), 3)
        self.assertIsNone(self.pool.take("a", self.now_s))

    def test_then_it_is_closed_even_if_nobody_waits(self) -> None:
        self.has(Limits(max_messages_per_connection=1))
        self.submits(1)
        self.decides()
        self.opens("a")
        self.assertEqual(self.decides().close, ())
        self.pool.free("a", self.now_s)
        self.assertEqual(self.decides().close, ("a",))
        self.assertEqual(self.pool.connections, ())

    def test_and_another_is_opened_for_who_waits(self) -> None:
        self.has(Limits(max_connections=2, max_messages_per_connection=1))
        self.idles("a")
        self.submits(1)
        decisions = self.decides()
        self.assertEqual((decisions.use, decisions.close, decisions.open), ((), ("a",), 1))


class IdleTimeout(PoolCase):
    def test_a_connection_is_closed_when_it_is_over_and_not_before(self) -> None:
        self.has(Limits(idle_timeout_s=30))
        self.idles("a")
        self.now_s += 29
        self.assertEqual(self.decides(), Decisions(look_again_s=1))
        self.now_s += 1
        self.assertEqual(self.decides(), Decisions(close=("a",)))

    def test_each_has_its_own(self) -> None:
        self.has(Limits(idle_timeout_s=30))
        self.idles("a", "b")
        self.now_s += 29
        self.assertEqual(self.decides(), Decisions(close=("a",), look_again_s=1))

    def test_a_message_begins_it_anew(self) -> None:
        self.has(Limits(idle_timeout_s=30))
        self.idles("a")
        self.now_s += 29
        self.submits(1)
        self.assertEqual(self.decides(), Decisions(use=(("a", 1),)))
        self.now_s += 100
        self.assertEqual(self.decides(), Decisions())
        self.pool.free("a", self.now_s)
        self.assertEqual(self.decides(), Decisions(look_again_s=30))

    def test_a_message_that_comes_when_it_is_over_is_served_all_the_same(self) -> None:
        self.has(Limits(idle_timeout_s=30))
        self.idles("a")
        self.now_s += 30
        self.submits(1)
        self.assertEqual(self.decides(), Decisions(use=(("a", 1),)))

    def test_zero_keeps_no_connection(self) -> None:
        self.has(Limits(idle_timeout_s=0))
        self.idles("a")
        self.assertEqual(self.decides(), Decisions(close=("a",)))

    def test_less_is_refused(self) -> None:
        self.assertRaises(BadArgument, Limits, idle_timeout_s=-0.001)


class Rate(PoolCase):
    def test_messages_start_that_far_apart_over_all_connections(self) -> None:
        self.idles("a", "b")
        self.pool.limits = Limits(rate=2)
        self.submits(1, 2)
        decisions = self.decides()
        self.assertEqual((decisions.use, decisions.look_again_s), ((("b", 1),), 0.5))
        self.now_s += 0.25
        self.assertEqual((self.used(), self.decides().look_again_s), ((), 0.25))
        self.now_s += 0.25
        self.assertEqual(self.used(), (("a", 2),))

    def test_a_connection_that_sends_takes_none_before_its_time(self) -> None:
        self.has(Limits(rate=1, max_connections=1))
        self.submits(1, 2)
        self.decides()
        self.opens("a")
        self.decides()
        self.assertIsNone(self.pool.take("a", self.now_s + 0.999))
        self.assertEqual(self.pool.take("a", self.now_s + 1), 2)

    def test_none_is_opened_before_its_time(self) -> None:
        self.has(Limits(rate=1, max_connections=2))
        self.submits(1)
        self.decides()
        self.opens("a")
        self.decides()
        self.submits(2)
        self.assertEqual(self.decides(), Decisions(look_again_s=1))
        self.now_s += 1
        self.assertEqual(self.decides().open, 1)

    def test_it_is_nothing_to_wait_for_while_a_message_waits_for_something_else(self) -> None:
        self.has(Limits(rate=2, max_connections=1))
        self.submits(1, 2)
        self.assertEqual(self.decides(), Decisions(open=1))
        self.opens("a")
        self.assertEqual(self.decides().look_again_s, 0.5)
        self.now_s += 0.5
        self.assertIsNone(self.decides().look_again_s)

    def test_time_without_messages_is_not_made_up_for(self) -> None:
        self.idles("a", "b")
        self.pool.limits = Limits(rate=1)
        self.now_s += 20
        self.submits(1, 2, 3)
        self.assertEqual(len(self.used()), 1)

    def test_none_or_less_is_refused(self) -> None:
        for rate in (0, -1):
            self.assertRaises(BadArgument, Limits, rate=rate)
        Limits(rate=0.001)


class NotOpened(PoolCase):
    def test_if_nothing_else_could_serve_them_all_who_wait_are_told(self) -> None:
        self.has(Limits(max_connections=1))
        self.submits(1, 2, 3)
        self.decides()
        self.assertEqual(self.pool.not_opened(), (1, 2, 3))
        self.assertEqual(self.counts(), (0, 0, 0, 0))

    def test_the_next_message_is_another_try(self) -> None:
        self.submits(1)
        self.decides()
        self.pool.not_opened()
        self.submits(2)
        self.assertEqual(self.decides().open, 1)

    def test_while_another_is_being_opened_they_wait_for_it(self) -> None:
        self.submits(1, 2)
        self.decides()
        self.assertEqual(self.pool.not_opened(), ())
        self.assertEqual(self.decides(), Decisions())
        self.opens("a")
        self.assertEqual(self.used(), (("a", 1),))

    def test_if_that_fails_too_they_are_told(self) -> None:
        self.submits(1, 2)
        self.decides()
        self.pool.not_opened()
        self.assertEqual(self.pool.not_opened(), (1, 2))

    def test_while_another_sends_they_wait_for_it_and_none_is_opened(self) -> None:
        self.idles("a")
        self.submits(1, 2)
        self.assertEqual(self.decides().open, 1)
        self.assertEqual(self.pool.not_opened(), ())
        self.submits(3)
        self.assertEqual(self.decides().open, 0)
        self.assertEqual(self.pool.take("a", self.now_s), 2)

    def test_once_that_is_gone_one_is_opened(self) -> None:
        self.idles("a")
        self.submits(1, 2)
        self.decides()
        self.pool.not_opened()
        self.pool.gone("a")
        self.assertEqual(self.decides().open, 1)

    def test_once_another_came_about_more_are_opened(self) -> None:
        self.submits(1, 2, 3)
        self.decides()
        self.pool.not_opened()
        self.opens("a")
        self.submits(4)
        self.assertEqual(self.decides().open, 2)

    def test_one_that_says_good_bye_serves_nobody(self) -> None:
        self.has(Limits(max_connections=2, max_messages_per_connection=1))
        self.idles("a")
        self.submits(1)
        self.decides()
        self.assertEqual(self.pool.not_opened(), (1,))

    def test_once_the_other_is_closed_by_us_the_next_message_is_another_try(self) -> None:
        self.has(Limits(idle_timeout_s=30))
        self.idles("a")
        self.submits(1, 2)
        self.decides()
        self.pool.not_opened()
        self.assertEqual(self.pool.take("a", self.now_s), 2)
        self.pool.free("a", self.now_s)
        self.now_s += 30
        self.assertEqual(self.decides().close, ("a",))
        self.submits(3)
        self.assertEqual(self.decides().open, 1)

    def test_once_the_last_is_not_wanted_any_more_the_next_message_is_another_try(self) -> None:
        self.submits(1, 2)
        self.decides()
        self.pool.not_opened()
        self.pool.withdraw(1)
        self.pool.withdraw(2)
        self.pool.abandoned()
        self.submits(3)
        self.assertEqual(self.decides().open, 1)


class AnyHistory(RuleBasedStateMachine):
    """
    A pool, and beside it where its messages and connections are.
    """

    @initialize(
        max_connections=st.integers(1, 3), max_messages=st.integers(1, 3), rate=st.sampled_from([None, None, 2.0])
    )
    def begin(self, max_connections: int, max_messages: int, rate: float | None) -> None:
        self.limits = Limits(
            max_connections=max_connections, max_messages_per_connection=max_messages, idle_timeout_s=5, rate=rate
        )
        self.pool: Pool[int, int] = Pool(self.limits)
        self.now_s = 0.0
        self.names = iter(range(1_000_000))
        self.waiting: list[int] = []
        self.under_way: dict[int, list[int]] = {}
        self.served: dict[int, int] = {}
        self.leaving: set[int] = set()
        self.opening = 0
        self.look_again_s: float | None = None
        self.starts_s: list[float] = []

    # What happens

    @rule(count=st.integers(1, 4))
    def messages_come(self, count: int) -> None:
        for _ in range(count):
            message = next(self.names)
            self.waiting.append(message)
            self.pool.submit(message)
        self.decide()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def one_is_withdrawn(self, data: st.DataObject) -> None:
        message = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(message)
        assert self.pool.withdraw(message)
        for _ in range(self.pool.surplus):
            self.opening -= 1
            self.pool.abandoned()
        self.decide()

    @precondition(lambda self: self.opening)
    @rule()
    def one_is_opened(self) -> None:
        self.opening -= 1
        connection = next(self.names)
        self.under_way[connection], self.served[connection] = [], 0
        self.pool.opened(connection, self.now_s)
        self.decide()

    @precondition(lambda self: self.opening)
    @rule()
    def one_is_not_opened(self) -> None:
        self.opening -= 1
        told = self.pool.not_opened()
        serves_nobody = not self.under_way and not self.opening
        assert list(told) == (self.waiting if serves_nobody else [])
        self.waiting = [] if serves_nobody else self.waiting
        self.decide()

    @precondition(lambda self: any(self.under_way.values()))
    @rule(data=st.data())
    def one_takes_another_message(self, data: st.DataObject) -> None:
        connection = self.a_busy_one(data)
        message = self.pool.take(connection, self.now_s)
        if message is not None:
            self.starts(connection, message)

    @precondition(lambda self: any(self.under_way.values()))
    @rule(data=st.data())
    def one_is_done(self, data: st.DataObject) -> None:
        connection = self.a_busy_one(data)
        self.under_way[connection] = []
        self.pool.free(connection, self.now_s)
        self.decide()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), comes_back=st.booleans())
    def one_is_lost(self, data: st.DataObject, comes_back: bool) -> None:
        """The last message on it may come back untouched."""
        connection = data.draw(st.sampled_from(sorted(self.under_way)))
        messages = self.under_way.pop(connection)
        if messages and comes_back:
            self.waiting.insert(0, messages[-1])
            self.pool.resubmit(messages[-1])
        self.pool.gone(connection)
        self.decide()

    @precondition(lambda self: self.leaving)
    @rule()
    def a_good_bye_is_said(self) -> None:
        self.pool.gone(self.leaving.pop())
        self.decide()

    @rule(seconds=st.sampled_from([0.25, 0.5, 1, 5]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.decide()

    # What is done about it

    def decide(self) -> None:
        decisions = self.pool.decide(self.now_s)
        for connection, message in decisions.use:
            assert not self.under_way[connection]
            self.starts(connection, message)
        for connection in decisions.close:
            assert not self.under_way.pop(connection)
            self.leaving.add(connection)
        self.opening += decisions.open
        self.look_again_s = decisions.look_again_s

    def starts(self, connection: int, message: int) -> None:
        assert message == self.waiting.pop(0)
        self.under_way[connection].append(message)
        self.served[connection] += 1
        self.starts_s.append(self.now_s)

    def a_busy_one(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(name for name, messages in self.under_way.items() if messages)))

    # What always holds

    @invariant()
    def it_knows_what_waits_and_what_there_is(self) -> None:
        assert self.pool.waiting == len(self.waiting)
        assert self.pool.opening == self.opening
        assert set(self.pool.connections) == set(self.under_way)
        assert self.pool.busy == sum(bool(messages) for messages in self.under_way.values())

    @invariant()
    def there_are_never_more_connections_than_allowed(self) -> None:
        assert len(self.under_way) + self.opening + len(self.leaving) <= self.limits.max_connections

    @invariant()
    def none_gets_more_messages_than_allowed(self) -> None:
        assert all(served <= self.limits.max_messages_per_connection for served in self.served.values())

    @invariant()
    def it_is_never_asked_again_at_once(self) -> None:
        assert self.look_again_s is None or self.look_again_s > 0

    @invariant()
    def messages_keep_to_the_rate(self) -> None:
        if self.limits.rate:
            assert all(later - sooner >= 1 / self.limits.rate for sooner, later in pairwise(self.starts_s))

    def teardown(self) -> None:
        """From now on all goes well, and nobody waits for ever."""
        while self.waiting:
            before = len(self.waiting), self.opening, len(self.leaving), self.now_s
            while self.opening:
                self.one_is_opened()
            while self.leaving:
                self.a_good_bye_is_said()
            for connection in [name for name, messages in self.under_way.items() if messages]:
                self.under_way[connection] = []
                self.pool.free(connection, self.now_s)
                self.decide()
            if self.waiting and self.look_again_s is not None:
                self.time_passes(self.look_again_s)
            assert before != (len(self.waiting), self.opening, len(self.leaving), self.now_s)


class Histories(SynchronousTestCase):
    def test_no_message_is_lost_or_given_twice_and_none_waits_for_ever(self) -> None:
        run_state_machine_as_test(
            AnyHistory, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
        )
