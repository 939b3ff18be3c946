"""
Whom the next transaction is for, by the server's limits.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.limits import MAX_RECIPIENTS, ServerLimits, domains_of, transaction_of
from pymail_tx.core.reply import Reply


def _announced(*lines: str) -> ServerLimits:
    return ServerLimits.of(Extensions.of(Reply(250, ("mx.example", *lines))))


def _to(*domains: str) -> Envelope:
    return Envelope("", [f"bob{place}@{domain}" for place, domain in enumerate(domains)])


class Announced(SynchronousTestCase):
    def test_what_the_server_says_is_read(self) -> None:
        self.assertEqual(
            _announced("LIMITS MAILMAX=5 RCPTMAX=100 RCPTDOMAINMAX=1"),
            ServerLimits(rcpt_max=100, mail_max=5, rcpt_domain_max=1),
        )

    def test_names_may_come_in_any_case_and_on_several_lines(self) -> None:
        self.assertEqual(_announced("limits RcptMax=7", "LIMITS mailmax=9"), ServerLimits(rcpt_max=7, mail_max=9))

    def test_without_the_keyword_there_are_only_our_own(self) -> None:
        self.assertEqual(_announced("PIPELINING"), ServerLimits(rcpt_max=MAX_RECIPIENTS))

    def test_what_cannot_be_read_is_ignored(self) -> None:
        for word in ("", "=", "0", "-1", "+1", "1e3", "٣", "1.0", "1234567", "5x"):
            self.assertEqual(_announced(f"LIMITS RCPTMAX={word} MAILMAX={word}"), ServerLimits(), word)
        self.assertEqual(_announced("LIMITS RCPTMAX RCPTMAX=x UNKNOWN=5 =7 RCPTMAX=8"), ServerLimits(rcpt_max=8))

    def test_the_first_value_that_can_be_read_counts(self) -> None:
        self.assertEqual(_announced("LIMITS RCPTMAX=0 RCPTMAX=3 RCPTMAX=9").rcpt_max, 3)

    def test_six_digits_are_a_value_and_ours_is_the_least(self) -> None:
        self.assertEqual(_announced("LIMITS MAILMAX=999999").mail_max, 999_999)
        self.assertEqual(_announced("LIMITS RCPTMAX=999999").rcpt_max, MAX_RECIPIENTS)


class TheNextTransaction(SynchronousTestCase):
    def test_it_is_for_everybody_up_to_our_limit_and_one_more_has_to_wait(self) -> None:
        envelope = _to(*["example.org"] * (MAX_RECIPIENTS + 1))
        everybody = range(MAX_RECIPIENTS + 1)
        self.assertEqual(transaction_of(everybody[1:], envelope, ServerLimits()), list(everybody[1:]))
        self.assertEqual(transaction_of(everybody, envelope, ServerLimits()), list(everybody[:-1]))

    def test_it_takes_no_more_recipients_than_the_server_says(self) -> None:
        envelope = _to("a.example", "b.example", "c.example")
        self.assertEqual(transaction_of([0, 1, 2], envelope, ServerLimits(rcpt_max=2)), [0, 1])
        self.assertEqual(transaction_of([2], envelope, ServerLimits(rcpt_max=2)), [2])

    def test_a_domain_too_many_waits_and_others_behind_it_go_first(self) -> None:
        envelope = _to("a.example", "b.example", "A.example", "b.example", "c.example")
        self.assertEqual(transaction_of([0, 1, 2, 3, 4], envelope, ServerLimits(rcpt_domain_max=1)), [0, 2])
        self.assertEqual(transaction_of([0, 1, 2, 3, 4], envelope, ServerLimits(rcpt_domain_max=2)), [0, 1, 2, 3])

    def test_domains_count_for_the_whole_session(self) -> None:
        envelope = _to("a.example", "b.example")
        limits = ServerLimits(rcpt_domain_max=1)
        first = transaction_of([0, 1], envelope, limits)
        self.assertEqual(first, [0])
        self.assertEqual(transaction_of([1], envelope, limits, domains=domains_of(first, envelope)), [])
        self.assertEqual(transaction_of([1], envelope, limits), [1])

    @given(
        st.lists(st.sampled_from(("a.example", "b.example", "c.example", "d.example")), min_size=1, max_size=20),
        st.integers(1, 5),
        st.none() | st.integers(1, 5),
    )
    def test_in_sessions_one_after_the_other_everybody_has_their_turn_once(
        self, domains: list[str], rcpt_max: int, domain_max: int | None
    ) -> None:
        envelope, limits = _to(*domains), ServerLimits(rcpt_max=rcpt_max, rcpt_domain_max=domain_max)
        left, had = list(range(len(domains))), []
        named: frozenset[str] = frozenset()
        while left:
            places = transaction_of(left, envelope, limits, domains=named)
            named = named | domains_of(places, envelope) if places else frozenset()
            self.assertLessEqual(len(places), rcpt_max)
            self.assertLessEqual(len(named), domain_max or len(domains))
            had += places
            left = [place for place in left if place not in places]
        self.assertEqual(sorted(had), list(range(len(domains))))
