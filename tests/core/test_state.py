"""
The table of a session: what may be sent when, and where a reply leads.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.command import COMMANDS, Answer, Verb
from pymail_tx.core.errors import ProtocolViolation
from pymail_tx.core.state import TRANSITIONS, State, after, hoped_after

_YES, _MORE, _NO = Answer.DONE, Answer.GO_ON, Answer.REFUSED


def _may_be_sent(state: State) -> set[Verb]:
    return {verb for verb in Verb if hoped_after(state, verb)}


class Table(SynchronousTestCase):
    def test_every_state_has_its_rows(self) -> None:
        self.assertEqual(set(TRANSITIONS), set(State))

    def test_every_state_can_be_reached(self) -> None:
        reached = {State.HANDSHAKE, State.GREETING}
        for _ in State:
            reached |= {following for state in reached for following in TRANSITIONS[state].values()}
        self.assertEqual(reached, set(State))

    def test_a_row_never_takes_an_answer_that_its_verb_does_not_hope_for(self) -> None:
        for row in TRANSITIONS.values():
            for verb, answer in row:
                self.assertTrue(answer is _NO or answer in COMMANDS[verb].hopes_for, (verb, answer))

    def test_a_command_that_may_be_sent_may_be_refused(self) -> None:
        steps = {Verb.HANDSHAKE}  # no command: it succeeds or the connection ends
        for state, row in TRANSITIONS.items():
            for verb in _may_be_sent(state) - steps:
                self.assertIn((verb, _NO), row, state)

    def test_a_refusal_never_opens_anything(self) -> None:
        """It leaves the session where it is, or with less."""
        less = {State.GREETING: State.TURNED_AWAY, State.SASL: State.READY}
        less |= dict.fromkeys((State.CONTENT, State.NOTHING_TO_SEND), State.READY)
        for state, row in TRANSITIONS.items():
            for (verb, answer), following in row.items():
                if answer is _NO and verb not in (Verb.QUIT, Verb.DELIVERY):
                    self.assertIs(following, less.get(state, state), (state, verb))

    def test_content_may_flow_behind_an_accepted_recipient_only(self) -> None:
        leading = {
            state for state, row in TRANSITIONS.items() if State.CONTENT in row.values() and state is not State.CONTENT
        }
        self.assertEqual(leading, {State.ADDRESSED})
        self.assertIs(after(State.TRANSACTION, Verb.DATA, _MORE), State.NOTHING_TO_SEND)

    def test_a_yes_to_rcpt_counts_behind_an_accepted_mail_only(self) -> None:
        taking = {state for state, row in TRANSITIONS.items() if (Verb.RCPT, _YES) in row}
        self.assertEqual(taking, {State.TRANSACTION, State.ADDRESSED})

    def test_starttls_and_auth_have_no_place_in_a_transaction(self) -> None:
        for state in set(State) - {State.READY}:
            self.assertIsNone(hoped_after(state, Verb.STARTTLS))
        for state in set(State) - {State.READY, State.SASL}:
            self.assertIsNone(hoped_after(state, Verb.AUTH))

    def test_after_tls_the_session_begins_anew(self) -> None:
        self.assertIs(after(State.SECURING, Verb.HANDSHAKE, _YES), State.CONNECTED)
        self.assertIsNone(hoped_after(State.CONNECTED, Verb.MAIL))


class Sending(SynchronousTestCase):
    def test_what_may_be_sent_in_states_that_wait_for_one_thing(self) -> None:
        for state, verbs in (
            (State.HANDSHAKE, {Verb.HANDSHAKE}),
            (State.GREETING, {Verb.GREETING}),
            (State.TURNED_AWAY, {Verb.QUIT}),
            (State.SECURING, {Verb.HANDSHAKE}),
            (State.SASL, {Verb.AUTH}),
            (State.CONTENT, {Verb.END_OF_DATA, Verb.DELIVERY}),
            (State.NOTHING_TO_SEND, {Verb.END_OF_DATA}),
            (State.CLOSED, set()),
        ):
            self.assertEqual(_may_be_sent(state), verbs, state)

    def test_rcpt_and_data_are_not_sent_in_hope_of_a_refusal(self) -> None:
        self.assertIsNone(hoped_after(State.READY, Verb.RCPT))
        self.assertIsNone(hoped_after(State.READY, Verb.DATA))

    def test_data_is_not_sent_when_all_recipients_were_refused(self) -> None:
        self.assertIsNone(hoped_after(State.TRANSACTION, Verb.DATA))


class Replies(SynchronousTestCase):
    def test_a_reply_without_a_row_is_a_violation_that_names_verb_and_state(self) -> None:
        for state in State:
            for verb in Verb:
                for answer in Answer:
                    if (verb, answer) in TRANSITIONS[state]:
                        self.assertIs(after(state, verb, answer), TRANSITIONS[state][verb, answer])
                    else:
                        error = self.assertRaises(ProtocolViolation, after, state, verb, answer)
                        self.assertIn(f"{verb.value} while {state.value}", str(error))
