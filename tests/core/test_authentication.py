"""
An authentication's lines, its end, and whom it believes.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.authentication import Authentication, Computation, Mechanism, Refusal, Response
from pymail_tx.core.errors import ProtocolViolation
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import MAX_INITIAL_LINE_OCTETS, MAX_ROUNDS
from pymail_tx.core.secret import Secret

YES = Reply(235, ("2.7.0 welcome",))
NO = Reply(535, ("5.7.8 no",))
ABORTED = Reply(501, ("5.7.0 aborted",))
COMPUTATION = Computation("sha256", Secret("pencil"), b"salt", 4_096)


def says(*steps: Response | Computation | None) -> Mechanism:
    """A mechanism that takes whatever it is sent."""
    for step in steps:
        _ = yield step


def base64(octets: bytes) -> str:
    return b64encode(octets).decode("ascii")


class CommandTests(SynchronousTestCase):
    def test_an_initial_response_stands_in_the_command(self) -> None:
        self.assertEqual(Authentication("X", says(Response(b"hello"))).command(), b"AUTH X aGVsbG8=")

    def test_an_empty_initial_response_is_an_equals_sign(self) -> None:
        self.assertEqual(Authentication("X", says(Response(b""))).command(), b"AUTH X =")

    def test_a_mechanism_that_lets_the_server_speak_first_has_none(self) -> None:
        authentication = Authentication("X", says(None, Response(b"hello")))
        self.assertEqual(authentication.command(), b"AUTH X")
        self.assertEqual(authentication.answer(""), b"aGVsbG8=")

    def test_a_line_of_512_octets_takes_it(self) -> None:
        room = MAX_INITIAL_LINE_OCTETS - len(b"AUTH XXX \r\n")
        command = Authentication("XXX", says(Response(b"x" * (room * 3 // 4)))).command()
        self.assertEqual(len(command) + 2, MAX_INITIAL_LINE_OCTETS - room % 4)

    def test_beyond_512_octets_it_waits_for_its_challenge(self) -> None:
        response = Response(b"x" * 400, complete=True)
        authentication = Authentication("X", says(response))
        self.assertEqual(authentication.command(), b"AUTH X")
        self.assertEqual(authentication.answer(""), b64encode(response.octets))
        self.assertEqual(authentication.verdict(YES), YES)

    def test_a_yes_before_the_response_that_waits_is_not_believed(self) -> None:
        authentication = Authentication("X", says(Response(b"x" * 400, complete=True)))
        authentication.command()
        with self.assertRaisesRegex(ProtocolViolation, "X: a yes before its time"):
            authentication.verdict(YES)


class AnswerTests(SynchronousTestCase):
    def test_an_empty_response_is_an_empty_line(self) -> None:
        authentication = Authentication("X", says(Response(b"1"), Response(b"")))
        authentication.command()
        self.assertEqual(authentication.answer("aGk="), b"")

    def test_a_computation_is_handed_out_and_its_result_handed_in(self) -> None:
        brought = []

        def mechanism() -> Mechanism:
            yield Response(b"1")
            brought.append((yield COMPUTATION))
            yield Response(b"2")

        authentication = Authentication("X", mechanism())
        authentication.command()
        self.assertEqual(authentication.answer(""), COMPUTATION)
        self.assertEqual(authentication.computed(b"result"), b"Mg==")
        authentication.answer("")
        self.assertEqual(brought, [b"result"])

    def test_a_challenge_that_is_no_base64_gets_a_star(self) -> None:
        authentication = Authentication("X", says(None, Response(b"hello")))
        authentication.command()
        self.assertEqual(authentication.answer("Username:"), b"*")

    def test_a_challenge_too_many_gets_a_star(self) -> None:
        authentication = Authentication("X", says(Response(b"1", complete=True)))
        authentication.command()
        self.assertEqual(authentication.answer(""), b"*")

    def test_eight_challenges_are_answered_and_the_ninth_gets_a_star(self) -> None:
        authentication = Authentication("X", says(*[Response(b"1")] * (MAX_ROUNDS + 2)))
        authentication.command()
        answers = [authentication.answer("") for _ in range(MAX_ROUNDS + 1)]
        self.assertEqual(answers, [b"MQ=="] * MAX_ROUNDS + [b"*"])

    def test_a_challenge_after_the_star_is_a_violation(self) -> None:
        authentication = Authentication("X", says(None))
        authentication.command()
        authentication.answer("?")
        with self.assertRaisesRegex(ProtocolViolation, "X: a challenge that is no base64"):
            authentication.answer("")

    @given(st.lists(st.text() | st.binary().map(base64)))
    def test_whatever_is_challenged_ends_in_a_line_or_a_violation(self, challenges: list[str]) -> None:
        authentication = Authentication("X", says(None, Response(b"1"), Response(b"2", complete=True)))
        authentication.command()
        try:
            answers = [authentication.answer(challenge) for challenge in challenges]
        except ProtocolViolation:
            return
        self.assertTrue(set(answers) <= {b"MQ==", b"Mg==", b"*"})


class VerdictTests(SynchronousTestCase):
    def test_a_yes_to_the_response_that_completes_is_believed(self) -> None:
        authentication = Authentication("X", says(Response(b"1", complete=True)))
        authentication.command()
        self.assertEqual(authentication.verdict(YES), YES)

    def test_a_yes_to_any_other_is_a_violation_with_the_reply(self) -> None:
        authentication = Authentication("X", says(Response(b"1", complete=True), Response(b"2")))
        authentication.command()
        authentication.answer("")
        with self.assertRaises(ProtocolViolation) as caught:
            authentication.verdict(YES)
        self.assertEqual(caught.exception.reply, YES)

    def test_a_no_is_taken_at_any_time(self) -> None:
        authentication = Authentication("X", says(Response(b"1")))
        authentication.command()
        self.assertEqual(authentication.verdict(NO), NO)

    def test_after_a_star_the_reason_is_ours(self) -> None:
        for reply in (ABORTED, YES):
            authentication = Authentication("X", says(Response(b"1", complete=True)))
            authentication.command()
            authentication.answer("")
            with self.assertRaisesRegex(ProtocolViolation, "X: a challenge too many") as caught:
                authentication.verdict(reply)
            self.assertEqual(caught.exception.reply, reply)

    def test_why_the_server_refuses_is_kept(self) -> None:
        refusal = Refusal("unknown user")
        authentication = Authentication("X", says(Response(b"1"), Response(b"", refusal=refusal)))
        authentication.command()
        authentication.answer("")
        self.assertEqual(authentication.refusal, refusal)


class ValueTests(SynchronousTestCase):
    def test_no_repr_shows_a_response_or_a_password(self) -> None:
        shown = repr(Response(b"hunter2")) + repr(COMPUTATION)
        self.assertNotIn("hunter2", shown)
        self.assertNotIn("pencil", shown)

    def test_a_computation_is_pbkdf2_and_equal_to_its_like(self) -> None:
        self.assertEqual(COMPUTATION.run(), hashlib.pbkdf2_hmac("sha256", b"pencil", b"salt", 4_096))
        self.assertEqual(len({COMPUTATION, Computation("sha256", Secret("pencil"), b"salt", 4_096)}), 1)
