"""
What replies and failures mean for each recipient.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import (
    NoConnection,
    NotOffered,
    ProtocolViolation,
    Refused,
    ReplyTimeout,
    SessionError,
    SessionLost,
    TLSFailed,
)
from pymail_tx.core.outcome import Outcome, Peer, Status
from pymail_tx.core.reply import Reply
from pymail_tx.core.verdicts import Verdicts

_OK = Reply(250, ("2.0.0 ok",))
_NO = Reply(550, ("5.1.1 no",))
_LATER = Reply(451, ("4.3.0 later",))
_MANY = Reply(452, ("4.5.3 too many",))
_D, _L, _F = Status.DELIVERED, Status.DEFERRED, Status.FAILED


def _verdicts(recipients: int = 3) -> Verdicts:
    names = [f"user{number}@example.com" for number in range(recipients)]
    return Verdicts(Envelope("joe@example.org", names), Peer(host="mx.example", port=25))


def _statuses(verdicts: Verdicts) -> list[Status]:
    return [outcome.status for outcome in verdicts.report().outcomes]


def _only(verdicts: Verdicts) -> Outcome:
    [outcome] = verdicts.report().outcomes
    return outcome


class Replies(SynchronousTestCase):
    def test_end_of_datas_reply_is_for_the_accepted_only(self) -> None:
        verdicts = _verdicts()
        for index, reply in enumerate((_OK, _NO, _LATER)):
            verdicts.rcpt(index, reply)
        verdicts.end(_OK)
        self.assertFalse(verdicts.transaction_over())
        self.assertEqual(_statuses(verdicts), [_D, _F, _L])

    def test_a_refusal_of_mail_is_for_everybody_without_a_verdict(self) -> None:
        verdicts = _verdicts()
        verdicts.refuse({0: "5.6.7 no"})
        verdicts.all(_LATER)
        self.assertEqual(_statuses(verdicts), [_F, _L, _L])

    def test_the_servers_words_and_code_are_the_reason_and_begin_with_an_enhanced_code(self) -> None:
        for reply, reason in (
            (_NO, "5.1.1 no (reply 550)"),
            (Reply(550, ("no",)), "5.0.0 no (reply 550)"),
            (Reply(451, ("5.1.1 which?",)), "4.0.0 5.1.1 which? (reply 451)"),
            (Reply(550, ("",)), "5.0.0 (reply 550)"),
        ):
            verdicts = _verdicts(1)
            verdicts.rcpt(0, reply)
            self.assertEqual((_only(verdicts).reason, _only(verdicts).reply), (reason, reply))

    def test_an_outcome_says_whom_the_transaction_was_with(self) -> None:
        verdicts = _verdicts(1)
        verdicts.all(_NO)
        self.assertEqual((_only(verdicts).host, _only(verdicts).port), ("mx.example", 25))


class TooMany(SynchronousTestCase):
    def judged(self, reply: Reply, *, one_accepted: bool) -> tuple[Status | None, bool]:
        """The verdict of the recipient who got the reply, C{None} if it is open, and whether to go on at once."""
        verdicts = _verdicts(2)
        if one_accepted:
            verdicts.rcpt(0, _OK)
        else:
            verdicts.rcpt(0, _NO)
        verdicts.rcpt(1, reply)
        verdicts.end(_OK)
        again = verdicts.transaction_over()
        if verdicts.open:
            return None, again
        return _statuses(verdicts)[1], again

    def test_452_and_552_without_another_enhanced_code_behind_an_accepted_one_ask_for_another_transaction(self) -> None:
        for code, words in ((452, "many"), (452, "4.5.3 many"), (552, "many"), (552, "5.5.3 many"), (552, "4.2.2 odd")):
            self.assertEqual(self.judged(Reply(code, (words,)), one_accepted=True), (None, True))

    def test_they_are_a_deferral_with_nobody_accepted(self) -> None:
        for code, words in ((452, "many"), (452, "4.5.3 many"), (552, "many"), (552, "5.5.3 many")):
            self.assertEqual(self.judged(Reply(code, (words,)), one_accepted=False), (_L, False))

    def test_another_enhanced_code_is_about_that_mailbox(self) -> None:
        for code, words, status in (
            (552, "5.2.2 full", _F), (452, "4.2.2 full", _L), (552, "5.3.4 big", _F), (452, "4.3.1 full", _L),
            (552, "5.5.30 odd", _F),
        ):  # fmt: skip
            self.assertEqual(self.judged(Reply(code, (words,)), one_accepted=True), (status, False))

    def test_other_codes_never_mean_too_many(self) -> None:
        for code, status in ((450, _L), (451, _L), (422, _L), (550, _F), (551, _F), (553, _F)):
            reply = Reply(code, (f"{code // 100}.5.3 many",))
            self.assertEqual(self.judged(reply, one_accepted=True), (status, False))

    def test_the_order_of_the_replies_makes_no_difference(self) -> None:
        verdicts = _verdicts(2)
        verdicts.rcpt(0, _MANY)
        verdicts.rcpt(1, _OK)
        verdicts.end(_OK)
        self.assertTrue(verdicts.transaction_over())
        self.assertEqual(verdicts.open, [0])

    def test_who_was_not_named_yet_gets_another_transaction_whatever_became_of_the_others(self) -> None:
        for reply, verdict in ((_OK, _D), (_NO, _F), (_MANY, _L)):
            verdicts = _verdicts(2)
            verdicts.rcpt(0, reply)
            verdicts.end(_OK)
            self.assertTrue(verdicts.transaction_over())
            self.assertEqual(verdicts.open, [1])
            verdicts.rcpt(1, _OK)
            verdicts.end(_OK)
            self.assertFalse(verdicts.transaction_over())
            self.assertEqual(_statuses(verdicts), [verdict, _D])

    def test_a_transaction_knows_nothing_of_the_one_before(self) -> None:
        verdicts = _verdicts(2)
        verdicts.rcpt(0, _OK)
        verdicts.rcpt(1, _MANY)
        verdicts.end(_OK)
        verdicts.transaction_over()
        verdicts.rcpt(1, _MANY)
        verdicts.end(_OK)
        self.assertFalse(verdicts.transaction_over())
        self.assertEqual(_statuses(verdicts), [_D, _L])


_ERRORS: tuple[tuple[SessionError, str, Status], ...] = (
    (SessionLost("gone"), "4.4.2 gone", _L),
    (ReplyTimeout("5 s passed"), "4.4.2 5 s passed", _L),
    (ProtocolViolation("what?"), "4.5.0 what?", _L),
    (NoConnection("refused"), "4.4.1 refused", _L),
    (TLSFailed("expired"), "4.7.5 expired", _L),
    (NotOffered("no AUTH"), "4.7.4 no AUTH", _L),
    (Refused("greeting", _NO), "4.1.1 greeting refused: 550 5.1.1 no", _L),
    (Refused("greeting", Reply(521, ("no mail",))), "5.3.2 greeting refused: 521 no mail", _F),
    (Refused("greeting", Reply(556, ("no mail",))), "5.1.10 greeting refused: 556 no mail", _F),
    (Refused("AUTH", Reply(535, ("5.7.8 no",))), "4.7.8 AUTH refused: 535 5.7.8 no", _L),
)


class Lost(SynchronousTestCase):
    def test_what_each_failure_means(self) -> None:
        for error, reason, status in _ERRORS:
            verdicts = _verdicts(1)
            verdicts.lost(error, uncertain=False)
            outcome = _only(verdicts)
            self.assertEqual((outcome.reason, outcome.status, outcome.uncertain), (reason, status, False))
            self.assertIs(outcome.reply, error.reply)

    def test_only_the_accepted_are_in_doubt(self) -> None:
        verdicts = _verdicts()
        for index, reply in enumerate((_OK, _MANY, _NO)):
            verdicts.rcpt(index, reply)
        verdicts.lost(SessionLost("gone"), uncertain=True)
        outcomes = verdicts.report().outcomes
        self.assertEqual([outcome.uncertain for outcome in outcomes], [True, False, False])
        self.assertEqual(_statuses(verdicts), [_L, _L, _F])
        self.assertTrue(outcomes[0].reason.endswith("; it may have been delivered"))

    def test_a_verdict_once_given_stands(self) -> None:
        verdicts = _verdicts()
        for index, reply in enumerate((_OK, _NO, _OK)):
            verdicts.rcpt(index, reply)
        verdicts.end(_OK)
        verdicts.lost(SessionLost("gone"), uncertain=True)
        verdicts.all(_NO)
        self.assertEqual(_statuses(verdicts), [_D, _F, _D])

    def test_control_characters_of_a_failure_reach_no_reason(self) -> None:
        verdicts = _verdicts(1)
        verdicts.lost(SessionLost("a\r\nb\x1b[2J"), uncertain=False)
        self.assertTrue(_only(verdicts).reason.isprintable())


class Everybody(SynchronousTestCase):
    @given(
        st.lists(st.sampled_from((_OK, _NO, _LATER, _MANY, None)), min_size=1, max_size=6),
        st.sampled_from((_OK, _NO, _LATER, None)),
    )
    def test_everybody_gets_exactly_one_outcome_and_nobody_unaccepted_is_delivered(
        self, replies: list[Reply | None], end: Reply | None
    ) -> None:
        verdicts = _verdicts(len(replies))
        for index, reply in enumerate(replies):
            if reply:
                verdicts.rcpt(index, reply)
        if end:
            verdicts.end(end)
        verdicts.lost(SessionLost("gone"), uncertain=end is None)
        outcomes = verdicts.report().outcomes
        self.assertEqual(len(outcomes), len(replies))
        for outcome, reply in zip(outcomes, replies, strict=True):
            self.assertEqual(outcome.status is _D, reply is _OK and end is _OK)
            self.assertEqual(outcome.uncertain, reply is _OK and end is None)
