"""
EmailMessages: what goes out of them, and to whom.
"""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.message import message_octets


def _message(body: str = "How are you?\n", **fields: str) -> EmailMessage:
    message = EmailMessage()
    for name, text in ({"From": "ann@example.net", "To": "bob@example.org"} | fields).items():
        message[name] = text
    message.set_content(body)
    return message


def _read(octets: bytes) -> EmailMessage:
    read = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    return read


class Octets(SynchronousTestCase):
    def test_lines_end_in_crlf_and_the_header_is_ascii(self) -> None:
        octets = message_octets(_message(Subject="Grüße", Cc="Jürgen <j@bücher.example>"))
        self.assertEqual(octets.count(b"\n"), octets.count(b"\r\n"))
        self.assertTrue(octets.isascii())
        self.assertEqual(_read(octets)["Subject"], "Grüße")

    def test_bcc_is_left_out_and_the_message_keeps_it(self) -> None:
        message = _message(Bcc="cat@example.org")
        octets = message_octets(message)
        self.assertNotIn(b"cat@", octets)
        self.assertIn(b"To: bob@example.org\r\n", octets)
        self.assertEqual(message["Bcc"], "cat@example.org")

    def test_a_message_with_parts_stays_as_it_is_too(self) -> None:
        message = _message()
        message.add_attachment(b"\0\xff", maintype="application", subtype="octet-stream")
        before = message.keys()
        attachment = next(_read(message_octets(message)).iter_attachments())
        self.assertEqual(attachment.get_content(), b"\0\xff")
        self.assertEqual(message.keys(), before)

    def test_utf8_is_written_where_smtputf8_is_needed_and_only_there(self) -> None:
        message = _message(To="jürgen@example.org", Subject="Grüße")
        self.assertIn("To: jürgen@example.org\r\n".encode(), message_octets(message, smtputf8=True))
        with self.assertRaisesRegex(BadArgument, "^content: .* needs SMTPUTF8"):
            message_octets(message)

    def test_a_blind_recipient_who_needs_utf8_is_not_in_the_header(self) -> None:
        self.assertTrue(message_octets(_message(Bcc="jürgen@example.org")).isascii())

    def test_what_cannot_be_written_is_refused(self) -> None:
        message = EmailMessage()
        message["From"] = "ann@example.net"
        for payload in ("Grüße", 5, [1], ["text"]):
            message.set_payload(payload)  # type: ignore[arg-type]  # as an application may
            with self.assertRaisesRegex(BadArgument, "^content: a message that cannot be written"):
                message_octets(message)


class OfTheHeader(SynchronousTestCase):
    def found(self, message: EmailMessage) -> tuple[str, list[str]]:
        envelope = Envelope.of(message)
        return envelope.sender, [recipient.address for recipient in envelope.recipients]

    def test_it_goes_from_from_to_everybody_once(self) -> None:
        message = _message(
            From="Ann <ann@example.net>", To="bob@example.org, Cat <cat@example.org>",
            Cc="dan@example.org, bob@example.org", Bcc="eve@example.org",
        )  # fmt: skip
        self.assertEqual(
            self.found(message), ("ann@example.net", [f"{name}@example.org" for name in ("bob", "cat", "dan", "eve")])
        )

    def test_sender_comes_before_from(self) -> None:
        message = _message(From="ann@example.net, amy@example.net", Sender="office@example.net")
        self.assertEqual(self.found(message)[0], "office@example.net")

    def test_members_of_a_group_are_recipients(self) -> None:
        self.assertEqual(self.found(_message(To="Us: bob@example.org, cat@example.org;"))[1][1], "cat@example.org")

    def test_a_name_that_looks_like_addresses_is_a_name(self) -> None:
        for written in (
            '"eve@example.org, x" <bob@example.org>',
            "=?utf-8?q?eve=40example=2Eorg=2C?= <bob@example.org>",
            "bob@example.org (eve@example.org)",
        ):
            read = _read(f"From: ann@example.net\r\nTo: {written}\r\n\r\n".encode())
            self.assertEqual(self.found(read)[1], ["bob@example.org"], written)

    def test_without_one_sender_or_any_recipient_it_is_refused(self) -> None:
        for message in (
            _message(From="ann@example.net, amy@example.net"),
            _read(b"To: bob@example.org\r\n\r\n"),
            _read(b"From: ann@example.net\r\n\r\n"),
            _message(To="undisclosed-recipients:;"),
            _message(To="bob"),
        ):
            self.assertRaises(BadArgument, Envelope.of, message)

    def test_a_field_that_no_parser_can_read_is_refused(self) -> None:
        for field in ("From: a@\nTo: ann@example.com", "From: joe@example.org\nTo: b@"):
            message = email.message_from_string(f"{field}\n\n", policy=email.policy.default)
            self.assertEqual(self.assertRaises(BadArgument, Envelope.of, message).field, "message")

    def test_a_resent_message_is_refused(self) -> None:
        message = _message()
        message["Resent-To"] = "cat@example.org"
        with self.assertRaisesRegex(BadArgument, "resent"):
            Envelope.of(message)

    def test_an_address_shown_in_the_header_that_needs_utf8_makes_the_message_need_it(self) -> None:
        shown = Envelope.of(_message(Cc="jürgen@example.org"))
        self.assertTrue(shown.smtputf8)
        blind = Envelope.of(_message(Bcc="jürgen@example.org"))
        self.assertEqual((blind.smtputf8, blind.needs_smtputf8), (False, True))
        self.assertFalse(Envelope.of(_message(Cc="Jürgen <j@bücher.example>")).needs_smtputf8)
