"""
The bounce: a report that people, programs and servers can read, whatever went into it.
"""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage, Message
from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core import dsn
from pymail_tx.core.outcome import Outcome, Peer, Status, by_reason, by_reply
from pymail_tx.core.reply import Reply

ACCEPTED_AT = 1_700_000_000.0
NOW = ACCEPTED_AT + 3_600
ORIGINAL = b"From: alice@example.org\r\nSubject: Lunch?\r\n\r\nSecret words.\r\n"
HOST = Peer(host="mx.example.net", port=25)
REFUSED = by_reply("bob@example.net", Reply(550, ("5.1.1 no such user",)), HOST)


def bounced(*failed: Outcome, sender: str = "alice@example.org", content: bytes = ORIGINAL) -> bytes:
    undelivered = dsn.Undelivered(sender=sender, failed=failed, content=content, accepted_at=ACCEPTED_AT)
    return dsn.bounce(undelivered, hostname="relay.example.org", now=NOW, token="t0ken")


def refused(recipient: str, *lines: str) -> Outcome:
    return by_reply(recipient, Reply(550, lines), HOST)


def read(octets: bytes) -> EmailMessage:
    return email.message_from_bytes(octets, policy=email.policy.SMTP)


def parts_of(octets: bytes) -> list[EmailMessage]:
    return list(read(octets).iter_parts())  # type: ignore[arg-type]  # typeshed gives them as Message


def groups_of(octets: bytes) -> list[Message]:
    """The groups of fields in message/delivery-status, as the library reads them."""
    return cast(list[Message], parts_of(octets)[1].get_payload())


class HeaderTests(SynchronousTestCase):
    def test_the_head_names_sender_time_and_kind(self) -> None:
        message = read(bounced(REFUSED))
        self.assertEqual(message["From"], "Mail delivery <MAILER-DAEMON@relay.example.org>")
        self.assertEqual(message["To"], "alice@example.org")
        self.assertEqual(message["Date"], "Tue, 14 Nov 2023 23:13:20 +0000")
        self.assertEqual(message["Message-ID"], "<t0ken@relay.example.org>")
        self.assertEqual(message["Auto-Submitted"], "auto-replied")
        self.assertEqual(message["MIME-Version"], "1.0")
        self.assertEqual(message.get_content_type(), "multipart/report")
        self.assertEqual(message.get_param("report-type"), "delivery-status")

    def test_the_parts_are_text_status_and_header(self) -> None:
        kinds = [part.get_content_type() for part in parts_of(bounced(REFUSED))]
        self.assertEqual(kinds, ["text/plain", "message/delivery-status", "text/rfc822-headers"])

    def test_a_sender_beyond_ascii_stands_in_to_as_it_is(self) -> None:
        self.assertIn("\r\nTo: <jürgen@example.org>\r\n".encode(), bounced(REFUSED, sender="jürgen@example.org"))


class TextTests(SynchronousTestCase):
    def test_it_names_each_recipient_its_host_and_the_servers_words(self) -> None:
        text = parts_of(bounced(REFUSED, refused("carol@example.net", "5.2.2 full")))[0].get_payload()
        self.assertIn("  <bob@example.net>\r\n      mx.example.net: 5.1.1 no such user (reply 550)\r\n", text)
        self.assertIn("  <carol@example.net>\r\n      mx.example.net: 5.2.2 full (reply 550)\r\n", text)

    def test_words_beyond_ascii_are_told_in_utf8(self) -> None:
        part = parts_of(bounced(refused("bob@example.net", "5.1.1 unbekannter Empfänger")))[0]
        self.assertEqual(part["Content-Transfer-Encoding"], "quoted-printable")
        self.assertIn("unbekannter Empfänger", part.get_content())


class StatusTests(SynchronousTestCase):
    def test_the_first_group_tells_of_the_message(self) -> None:
        about = groups_of(bounced(REFUSED))[0]
        self.assertEqual(
            about.items(),
            [("Reporting-MTA", "dns; relay.example.org"), ("Arrival-Date", "Tue, 14 Nov 2023 22:13:20 +0000")],
        )

    def test_each_recipient_has_a_group(self) -> None:
        groups = groups_of(bounced(REFUSED, refused("carol@example.net", "5.2.2 full")))[1:]
        self.assertEqual(
            groups[0].items(),
            [
                ("Final-Recipient", "rfc822; bob@example.net"),
                ("Action", "failed"),
                ("Status", "5.1.1"),
                ("Remote-MTA", "dns; mx.example.net"),
                ("Diagnostic-Code", "smtp; 550 5.1.1 no such user"),
                ("Last-Attempt-Date", "Tue, 14 Nov 2023 23:13:20 +0000"),
            ],
        )
        self.assertEqual(groups[1]["Status"], "5.2.2")

    def test_words_of_our_own_do_not_pass_for_a_reply(self) -> None:
        ours = by_reason("bob@example.net", Status.FAILED, "5.6.7 needs SMTPUTF8", Peer())
        group = groups_of(bounced(ours))[1]
        self.assertEqual(group["Diagnostic-Code"], "x-pymail-tx; 5.6.7 needs SMTPUTF8")
        self.assertNotIn("Remote-MTA", group)

    def test_a_host_that_is_no_domain_is_not_named_to_programs(self) -> None:
        odd = by_reason("bob@example.net", Status.FAILED, "5.0.0 no", Peer(host="/run/lmtp socket"))
        self.assertNotIn("Remote-MTA", groups_of(bounced(odd))[1])

    def test_a_domain_beyond_ascii_is_given_in_a_labels(self) -> None:
        group = groups_of(bounced(refused("bob@bücher.example", "5.1.1 no")))[1]
        self.assertEqual(group["Final-Recipient"], "rfc822; bob@xn--bcher-kva.example")

    def test_a_local_part_beyond_ascii_is_given_as_rfc_6533_has_it(self) -> None:
        group = groups_of(bounced(refused("jürgen+a=b@example.net", "5.1.1 no")))[1]
        self.assertEqual(group["Final-Recipient"], r"utf-8; j\x{FC}rgen\x{2B}a\x{3D}b@example.net")

    def test_long_words_are_folded_and_bounded(self) -> None:
        octets = bounced(refused("bob@example.net", "5.1.1 " + "long " * 1_000, "x" * 2_000))
        self.assertLess(len(octets), 5_000)
        self.assertIn("[...]", groups_of(octets)[1]["Diagnostic-Code"])


class ReturnedHeaderTests(SynchronousTestCase):
    def test_the_header_comes_back_and_the_body_does_not(self) -> None:
        octets = bounced(REFUSED)
        self.assertEqual(parts_of(octets)[2].get_payload(), "From: alice@example.org\r\nSubject: Lunch?\r\n")
        self.assertNotIn(b"Secret words", octets)

    def test_a_message_without_body_or_header_is_returned_all_the_same(self) -> None:
        for content, header in ((b"Subject: x", "Subject: x\r\n"), (b"\r\nbody\r\n", "\r\n"), (b"", "\r\n")):
            self.assertEqual(parts_of(bounced(REFUSED, content=content))[2].get_payload(), header)

    def test_50000_octets_of_header_come_back_whole_and_more_is_cut_behind_a_line(self) -> None:
        line = b"X-Filler: 0123456789" * 2 + b"0123456\r\n"
        most = line * (dsn.MAX_HEADER_OCTETS // len(line))
        whole = most + b"X" * (dsn.MAX_HEADER_OCTETS - len(most))
        for content, returned in ((whole, whole + b"\r\n"), (whole + b"X", most)):
            part = parts_of(bounced(REFUSED, content=content + b"\r\n\r\n"))[2]
            self.assertEqual(part.get_payload(decode=True), returned)

    def test_a_header_line_without_end_is_cut(self) -> None:
        part = parts_of(bounced(REFUSED, content=b"X" * 60_000))[2]
        self.assertEqual(part.get_payload(decode=True), b"X" * dsn.MAX_HEADER_OCTETS + b"\r\n")

    def test_a_utf8_header_comes_back_as_global_headers(self) -> None:
        part = parts_of(bounced(REFUSED, content="Subject: Grüße\r\n\r\n".encode()))[2]
        self.assertEqual(part.get_content_type(), "message/global-headers")
        self.assertIn(b"Gr=C3=BC=C3=9Fe", part.as_bytes())

    def test_a_header_in_another_charset_comes_back_octet_for_octet(self) -> None:
        part = parts_of(bounced(REFUSED, content="Subject: Grüße\r\n\r\n".encode("latin-1")))[2]
        self.assertEqual(part.get_payload(decode=True), "Subject: Grüße\r\n".encode("latin-1"))


class HostileWordsTests(SynchronousTestCase):
    def test_words_that_look_like_a_header_or_a_boundary_stay_words(self) -> None:
        octets = bounced(refused("bob@example.net", "5.1.1 no\r\nBcc: eve@example.net\r\n\r\n--report-t0ken--", "x"))
        message = read(octets)
        self.assertEqual(len(parts_of(octets)), 3)
        self.assertNotIn("Bcc", message)
        self.assertNotIn("Bcc", groups_of(octets)[1])
        self.assertEqual(len(groups_of(octets)), 2)

    @given(st.lists(st.text(max_size=300), min_size=1, max_size=4), st.binary(max_size=2_000))
    def test_whatever_came_from_outside_leaves_a_report_of_7_bit_lines(self, words: list[str], content: bytes) -> None:
        octets = bounced(refused("bob@example.net", *words), content=content)
        self.assertTrue(octets.isascii())
        lines = octets.split(b"\r\n")
        self.assertFalse([line for line in lines if len(line) > 998 or b"\n" in line or b"\r" in line or b"\0" in line])
        kinds = [part.get_content_type() for part in parts_of(octets)]
        self.assertEqual(kinds[:2], ["text/plain", "message/delivery-status"])
        self.assertEqual([len(kinds), len(groups_of(octets))], [3, 2])
        self.assertEqual(len(groups_of(octets)[1].keys()), 6)
