"""
Who is done with a host, who goes on to the next, and what is told in the end.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.nexthost import Tries
from pymail_tx.core.outcome import Outcome, Peer, Status, by_reason, by_reply
from pymail_tx.core.reply import Reply

_WHO = "bob@example.org"

DELIVERED = by_reply(_WHO, Reply(250, ("2.0.0 queued",)), Peer())
REFUSED = by_reply(_WHO, Reply(550, ("5.1.1 unknown",)), Peer())
BUSY = by_reply(_WHO, Reply(451, ("4.3.0 one",)), Peer())
BUSY_TOO = by_reply(_WHO, Reply(450, ("4.2.0 two",)), Peer())
SILENT = by_reason(_WHO, Status.DEFERRED, "4.4.1 no connection", Peer())
UNPROVED = by_reason(_WHO, Status.DEFERRED, "4.7.5 certificate", Peer())
DOUBTFUL = by_reason(_WHO, Status.DEFERRED, "4.4.2 lost", Peer(), uncertain=True)
NO_MAIL = by_reply(_WHO, Reply(521, ("none",)), Peer())
LACKING = by_reason(_WHO, Status.FAILED, "5.7.30 no REQUIRETLS", Peer())

ABOUT_HOST = (NO_MAIL, LACKING, SILENT, UNPROVED)
ON = (BUSY, BUSY_TOO, *ABOUT_HOST)
"""After these the next host is tried."""

ALL = (DELIVERED, REFUSED, DOUBTFUL, *ON)


def _after(*outcomes: Outcome) -> Tries:
    """One recipient, and what each host said."""
    tries = Tries(1)
    for outcome in outcomes:
        tries.heard([0], [outcome], about_host=[0] if outcome in ABOUT_HOST else [])
    return tries


class GoingOn(SynchronousTestCase):
    def test_delivered_refused_and_in_doubt_is_the_end(self) -> None:
        for outcome in (DELIVERED, REFUSED, DOUBTFUL):
            tries = _after(BUSY, outcome)
            self.assertEqual((tries.left, tries.outcomes()), ([], (outcome,)))

    def test_everything_else_goes_on(self) -> None:
        for outcome in (BUSY, *ABOUT_HOST):
            self.assertEqual(_after(outcome).left, [0])

    def test_each_recipient_for_himself_and_all_in_their_order(self) -> None:
        tries = Tries(3)
        tries.heard([0, 1, 2], [BUSY, DELIVERED, SILENT])
        self.assertEqual(tries.left, [0, 2])
        tries.heard([0, 2], [REFUSED, BUSY_TOO])
        self.assertEqual((tries.left, tries.outcomes()), ([2], (REFUSED, DELIVERED, BUSY_TOO)))


class AnyHosts(SynchronousTestCase):
    @given(st.lists(st.lists(st.sampled_from(ALL), min_size=3, max_size=3), min_size=1, max_size=5))
    def test_whatever_they_say_nobody_is_tried_again_who_is_done_and_all_have_a_verdict(
        self, hosts: list[list[Outcome]]
    ) -> None:
        tries, heard = Tries(3), [list[Outcome]() for _ in range(3)]
        for said in hosts:
            places = tries.left
            outcomes = [said[place] for place in places]
            about_host = [index for index, outcome in enumerate(outcomes) if outcome in ABOUT_HOST]
            tries.heard(places, outcomes, about_host=about_host)
            for place, outcome in zip(places, outcomes, strict=True):
                heard[place].append(outcome)
        for place, outcome in enumerate(tries.outcomes()):
            self.assertIn(outcome, heard[place])
            self.assertTrue(all(before in ON for before in heard[place][:-1]))
            self.assertEqual(place in tries.left, heard[place][-1] in ON)
            if outcome in (NO_MAIL, LACKING):
                self.assertTrue(set(map(id, heard[place])) <= {id(NO_MAIL), id(LACKING)})


class TheMostTelling(SynchronousTestCase):
    def test_a_reply_before_a_policy_before_silence_before_what_fails_only_if_all_do(self) -> None:
        ranked = (BUSY, UNPROVED, SILENT, NO_MAIL)
        for place, better in enumerate(ranked):
            for worse in ranked[place + 1 :]:
                for order in ((better, worse), (worse, better)):
                    self.assertEqual(_after(*order).outcomes(), (better,))

    def test_of_equals_the_first(self) -> None:
        self.assertEqual(_after(SILENT, BUSY, BUSY_TOO).outcomes(), (BUSY,))
        self.assertEqual(_after(NO_MAIL, LACKING).outcomes(), (NO_MAIL,))
