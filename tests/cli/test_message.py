"""
The message to send, read or written, and its envelope.
"""

from __future__ import annotations

import email
import re
from collections.abc import Sequence
from email import policy
from email.message import EmailMessage
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.cli.message import MAX_HEADER_OCTETS, Message, read, write
from pymail_tx.core.errors import BadArgument


def _recipients(message: Message) -> list[str]:
    return [recipient.address for recipient in message.envelope.recipients]


def _parsed(message: Message) -> EmailMessage:
    return email.message_from_bytes(message.content.read(), policy=policy.default)


class Reading(SynchronousTestCase):
    def read(self, octets: bytes, *, sender: str | None = None, recipients: Sequence[str] = ()) -> Message:
        return read(BytesIO(octets), sender=sender, recipients=recipients)

    def test_sender_and_recipients_are_those_of_the_header(self) -> None:
        message = self.read(
            b'From: Joe <joe@example.org>\r\nTo: "Ann, A." <ann@example.com>,\r\n\tbob@example.com\r\n'
            b"Cc: friends: carol@example.com, ann@example.com;\r\nBCC: dave@example.com\r\n\r\nTo: x@example.net\r\n"
        )
        self.assertEqual(message.envelope.sender, "joe@example.org")
        people = ["ann@example.com", "bob@example.com", "carol@example.com", "dave@example.com"]
        self.assertEqual(_recipients(message), people)

    def test_only_the_bcc_fields_are_left_out_of_what_is_sent(self) -> None:
        for end in (b"\n", b"\r\n"):
            lines = (
                b"From: joe@example.org", b"Bcc: a@example.com,", b" b@example.com", b"Subject: x",
                b"bcc : c@example.com", b"X-Bcc: stays", b"", b"Bcc: stays", b".", b"\xff\0",
            )  # fmt: skip
            message = self.read(end.join(lines))
            left = [lines[0], lines[3], *lines[5:]]
            self.assertEqual(message.content.read(), end.join(left))
            self.assertEqual(message.size_bytes, len(end.join(left)))
            self.assertEqual(_recipients(message), ["a@example.com", "b@example.com", "c@example.com"])

    def test_options_beat_the_header_and_a_bcc_is_left_out_all_the_same(self) -> None:
        text = b"From: joe@example.org\nTo: ann@example.com\nBcc: bob@example.com\n\n"
        message = self.read(text, sender="eve@example.org", recipients=["carol@example.com", "carol@example.com"])
        self.assertEqual((message.envelope.sender, _recipients(message)), ("eve@example.org", ["carol@example.com"]))
        self.assertEqual(message.content.read(), b"From: joe@example.org\nTo: ann@example.com\n\n")

    def test_a_sender_can_be_nobody(self) -> None:
        text = b"From: joe@example.org\nTo: ann@example.com\n\n"
        self.assertEqual(self.read(text, sender="<>").envelope.sender, "")

    def test_undisclosed_recipients_are_nobody(self) -> None:
        text = b"From: joe@example.org\nTo: undisclosed-recipients:;\nBcc: ann@example.com\n\n"
        self.assertEqual(_recipients(self.read(text)), ["ann@example.com"])

    def test_addresses_that_are_not_ascii_are_read(self) -> None:
        message = self.read("From: jör@example.org\nTo: Änn <änn@bücher.example>\n\n".encode())
        self.assertEqual((message.envelope.sender, _recipients(message)), ("jör@example.org", ["änn@bücher.example"]))

    def test_a_header_alone_is_a_message(self) -> None:
        text = b"From: joe@example.org\nTo: ann@example.com"
        self.assertEqual(self.read(text).content.read(), text)

    def test_what_cannot_be_sent_is_refused_with_the_fields_name(self) -> None:
        for text, field in {
            b"hello\nworld\n": "data",
            b"To: ann@example.com\n\n": "sender",
            b"From: joe@example.org\n\n": "recipients",
            b"From: joe@example.org\nTo: ann\n\n": "recipient",
            b"From: joe@example.org\nTo: \xff@example.com\n\n": "recipient",
            b"From: joe@example.org\nTo: @\n\n": "recipient",
            b"From: @\nTo: ann@example.com\n\n": "sender",
            b"": "sender",
        }.items():
            self.assertEqual(self.assertRaises(BadArgument, self.read, text).field, field, text)

    def test_a_field_that_no_parser_can_read_is_refused_whatever_the_options(self) -> None:
        text = b"From: a@\nTo: ann@example.com\n\n"
        self.assertEqual(self.assertRaises(BadArgument, self.read, text).field, "sender")
        problem = self.assertRaises(BadArgument, self.read, text, sender="<>", recipients=["ann@example.com"])
        self.assertEqual(problem.field, "message")

    def test_a_header_has_a_limit(self) -> None:
        rest = b"From: joe@example.org\nTo: ann@example.com\n\n"
        filling = b"X: " + b"x" * (MAX_HEADER_OCTETS - len(rest) - 4) + b"\n"
        self.assertEqual(self.read(filling + rest).size_bytes, MAX_HEADER_OCTETS)
        self.assertEqual(self.assertRaises(BadArgument, self.read, b"X: x\n" + filling + rest).field, "data")

    @given(st.binary(max_size=200))
    def test_whatever_is_read_is_a_message_or_refused(self, octets: bytes) -> None:
        try:
            message = self.read(octets, sender="joe@example.org", recipients=["ann@example.com"])
        except BadArgument as problem:
            self.assertEqual(problem.field, "data")
        else:
            self.assertTrue(octets.endswith(message.content.read()) or b"bcc" in octets.lower())

    @given(st.text('()<>[],:;@"\\.=?_ \t\n\r\x00aé'), st.text('()<>[],:;@"\\.=?_ aé'))
    def test_whatever_stands_in_the_fields_is_addresses_or_refused(self, sender: str, recipients: str) -> None:
        try:
            message = self.read(f"From: {sender}\nTo: {recipients}\nBcc: ann@example.com\n\n".encode())
        except BadArgument as problem:
            self.assertIn(problem.field, ("data", "sender", "recipient", "recipients"))
        else:
            self.assertIn(message.envelope.sender, sender)


class Writing(SynchronousTestCase):
    def write(
        self, text: str = "hello\n", *fields: str, sender: str | None = "joe@example.org",
        recipients: Sequence[str] = ("ann@example.com",),
    ) -> Message:  # fmt: skip
        return write(text, fields, sender=sender, recipients=recipients, hostname="me.example")

    def test_it_has_what_a_message_needs(self) -> None:
        message = self.write("At eight?\n", "Subject: Dinner", recipients=["ann@example.com", "bob@example.com"])
        self.assertEqual(_recipients(message), ["ann@example.com", "bob@example.com"])
        parsed = _parsed(message)
        self.assertEqual(parsed["From"], "joe@example.org")
        self.assertEqual(parsed["To"], "ann@example.com, bob@example.com")
        self.assertEqual(parsed["Subject"], "Dinner")
        self.assertRegex(parsed["Message-ID"], r"\A<[^@>\s]+@me\.example>\Z")
        self.assertEqual(parsed["Date"].datetime.year, email.utils.localtime().year)
        self.assertEqual(parsed.get_content().strip(), "At eight?")

    def test_every_line_is_ascii_and_ends_in_crlf(self) -> None:
        content = self.write("Grüße,\n" + "lang " * 500 + "\n", "Subject: " + "Ä" * 200).content.read()
        self.assertTrue(content.isascii())
        self.assertEqual(re.findall(rb"[^\r]\n|\r[^\n]|[^\r\n]{999}", content), [])

    def test_what_the_fields_say_is_not_said_again(self) -> None:
        message = self.write(
            "x", "From: Joe <joe@example.net>", "To: Ann <ann@example.net>", "Message-ID: <1@x>", "Date: today",
            sender=None, recipients=(),
        )  # fmt: skip
        self.assertEqual((message.envelope.sender, _recipients(message)), ("joe@example.net", ["ann@example.net"]))
        parsed = _parsed(message)
        self.assertEqual([len(parsed.get_all(name, [])) for name in ("From", "To", "Date", "Message-ID")], [1, 1, 1, 1])

    def test_it_goes_to_whomever_the_options_and_the_fields_name_and_bcc_is_left_out(self) -> None:
        message = self.write("x", "Cc: bob@example.com", "Bcc: carol@example.com, ann@example.com")
        self.assertEqual(_recipients(message), ["ann@example.com", "bob@example.com", "carol@example.com"])
        self.assertNotIn("Bcc", _parsed(message))

    def test_addresses_that_are_not_ascii_stand_in_the_header_as_they_are(self) -> None:
        content = self.write("x", sender="jör@example.org").content.read()
        self.assertIn("From: jör@example.org\r\n".encode(), content)

    def test_what_cannot_be_written_is_refused_with_the_fields_name(self) -> None:
        for fields, field in {
            ("Subject",): "header",
            ("a b: c",): "header",
            ("Subject: a\nBcc: eve@example.org",): "header",
            ("Subject: a\r\n\r\nb",): "header",
            ("Subject: a", "Subject: b"): "header",
            ("Content-Type: text/html",): "header",
            ("Subject: \ud800",): "header",
            ("Cc: a@",): "header",
            ("From: a@example.org, b@example.org",): "header",
        }.items():
            self.assertEqual(self.assertRaises(BadArgument, self.write, "x", *fields).field, field, fields)
        self.assertEqual(self.assertRaises(BadArgument, self.write, recipients=["a@b@c"]).field, "recipient")
        self.assertEqual(self.assertRaises(BadArgument, self.write, recipients=["a\r\nb@c"]).field, "recipient")
        self.assertEqual(self.assertRaises(BadArgument, self.write, recipients=[]).field, "recipients")
        self.assertEqual(self.assertRaises(BadArgument, self.write, sender=None).field, "sender")
        self.assertEqual(self.assertRaises(BadArgument, self.write, sender="<>").field, "sender")
        self.assertEqual(self.assertRaises(BadArgument, self.write, sender="joe").field, "sender")

    @given(st.text(max_size=100), st.text(max_size=100))
    def test_whatever_is_written_is_one_message_or_refused(self, subject: str, text: str) -> None:
        try:
            content = self.write(text, f"Subject: {subject}").content.read()
        except BadArgument as problem:
            self.assertIn(problem.field, ("header", "body"))
        else:
            head = content.partition(b"\r\n\r\n")[0]
            names = [line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")]
            self.assertEqual(len(names), len(set(names)))
            self.assertEqual(len(names), 8, head)
