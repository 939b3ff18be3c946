"""
The row of each verb.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.command import COMMANDS, Answer, Verb, answer_to, path_command
from pymail_tx.core.errors import BadArgument, ProtocolViolation
from pymail_tx.core.reply import Reply

_MINUTE = 60
_DEADLINES_S = {
    Verb.HANDSHAKE: 30, Verb.GREETING: 5 * _MINUTE, Verb.EHLO: 5 * _MINUTE, Verb.HELO: 5 * _MINUTE,
    Verb.STARTTLS: 5 * _MINUTE, Verb.AUTH: 5 * _MINUTE, Verb.MAIL: 5 * _MINUTE, Verb.RCPT: 5 * _MINUTE,
    Verb.DATA: 2 * _MINUTE, Verb.CONTENT: 3 * _MINUTE, Verb.END_OF_DATA: 10 * _MINUTE, Verb.RSET: 5 * _MINUTE,
    Verb.NOOP: 5 * _MINUTE, Verb.QUIT: 5, Verb.OTHER: 5 * _MINUTE, Verb.LHLO: 5 * _MINUTE,
    Verb.DELIVERY: 10 * _MINUTE, Verb.CHUNK: 3 * _MINUTE, Verb.BDAT: 10 * _MINUTE,
}  # fmt: skip


class Rows(SynchronousTestCase):
    def test_every_verb_has_its_row(self) -> None:
        self.assertEqual(set(COMMANDS), set(Verb))

    def test_the_deadlines_are_those_of_the_rules(self) -> None:
        self.assertEqual({verb: command.timeout_s for verb, command in COMMANDS.items()}, _DEADLINES_S)

    def test_only_what_rfc_2920_and_3030_let_stand_inside_a_group_is_followed_by_another_command(self) -> None:
        followed = {verb for verb, command in COMMANDS.items() if command.pipelined}
        self.assertEqual(followed, {Verb.MAIL, Verb.RCPT, Verb.RSET, Verb.END_OF_DATA, Verb.CHUNK, Verb.BDAT})

    def test_words_for_errors_fit_a_sentence(self) -> None:
        for command in COMMANDS.values():
            self.assertRegex(command.doing, "^[a-z]+ing( |$)")


class Answers(SynchronousTestCase):
    def test_a_code_counts_by_its_first_digit(self) -> None:
        for code, answer in ((250, Answer.DONE), (299, Answer.DONE), (400, Answer.REFUSED), (599, Answer.REFUSED)):
            self.assertIs(answer_to(Verb.MAIL, Reply(code, ("",))), answer)

    def test_a_refusal_is_an_answer_to_everything(self) -> None:
        for verb in Verb:
            for code in (421, 450, 500, 554):
                self.assertIs(answer_to(verb, Reply(code, ("",))), Answer.REFUSED)

    def test_a_yes_that_the_verb_does_not_hope_for_is_a_violation(self) -> None:
        for verb in set(Verb) - {Verb.AUTH, Verb.OTHER}:
            code = 250 if verb is Verb.DATA else 354
            self.assertRaises(ProtocolViolation, answer_to, verb, Reply(code, ("",)))

    def test_auth_goes_on_with_334_and_ends_with_235(self) -> None:
        self.assertIs(answer_to(Verb.AUTH, Reply(334, ("",))), Answer.GO_ON)
        self.assertIs(answer_to(Verb.AUTH, Reply(235, ("",))), Answer.DONE)


class Paths(SynchronousTestCase):
    def test_mail_and_rcpt_are_written_as_rfc_5321_says(self) -> None:
        self.assertEqual(path_command(Verb.MAIL, b"", ()), b"MAIL FROM:<>")
        self.assertEqual(
            path_command(Verb.MAIL, b"a@b.example", ("SIZE=1000", "BODY=8BITMIME", "SMTPUTF8")),
            b"MAIL FROM:<a@b.example> SIZE=1000 BODY=8BITMIME SMTPUTF8",
        )
        self.assertEqual(path_command(Verb.RCPT, b"a@b.example", ()), b"RCPT TO:<a@b.example>")

    def test_what_could_smuggle_a_parameter_or_a_command_is_refused(self) -> None:
        for parameter in (
            "",
            " ",
            "A B",
            "A=",
            "A==",
            "A=1=2",
            "-A",
            "A=\t",
            "A\r\nRSET",
            "A=1\n",
            "A=é",
            "É",
            "A=\x7f",
        ):
            self.assertRaises(BadArgument, path_command, Verb.MAIL, b"", (parameter,))

    def test_every_octet_of_an_esmtp_value_is_taken(self) -> None:
        value = "".join(chr(octet) for octet in range(33, 127) if octet != ord("="))
        self.assertTrue(path_command(Verb.MAIL, b"", (f"X={value}",)).endswith(value.encode()))
