"""
What is decided before MAIL.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.content import Content, survey
from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.outcome import TLSFacts
from pymail_tx.core.plan import Plan, plan

_HELLO = b"Subject: Hello\r\n\r\nHow are you?\r\n"
_GREETINGS = _HELLO + "Grüße\r\n".encode()
_SIGNED = 'Content-Type: multipart/signed; boundary="b"\r\n\r\n--b\r\n\r\nGrüße\r\n--b--\r\n'.encode()


def _plan(
    *keywords: str, content: bytes = _HELLO, sender: str = "joe@example.org", to: tuple[str, ...] = ("a@b.example",),
    chunking: bool = False,
) -> Plan:  # fmt: skip
    offers = Extensions({keyword.split()[0]: tuple(keyword.split()[1:]) for keyword in keywords})
    return plan(Envelope(sender, to), Content.of(content), offers, chunking=chunking)


class Size(SynchronousTestCase):
    def test_a_message_of_the_limit_goes_out_and_one_octet_more_fails_with_5_3_4(self) -> None:
        self.assertEqual(_plan(f"SIZE {len(_HELLO)}").refused, {})
        refused = _plan(f"SIZE {len(_HELLO) - 1}", to=("a@b.example", "c@d.example")).refused
        self.assertEqual([reason[:6] for reason in refused.values()], ["5.3.4 "] * 2)

    def test_the_size_is_that_on_the_wire_without_doubled_dots(self) -> None:
        content = b"Subject: x\n\n.\none\rtwo"
        self.assertEqual(_plan("SIZE 100", content=content).mail_parameters, ("SIZE=27",))

    def test_the_size_is_told_where_it_is_offered_with_or_without_a_limit(self) -> None:
        for keyword in ("SIZE", "SIZE 0", "SIZE garbage", "SIZE 1000"):
            self.assertEqual(_plan(keyword).mail_parameters, (f"SIZE={len(_HELLO)}",))
        self.assertEqual(_plan().mail_parameters, ())

    def test_the_size_is_that_of_the_content_made_7bit(self) -> None:
        made = _plan("SIZE 1000", content=_GREETINGS)
        self.assertEqual(made.mail_parameters, (f"SIZE={survey([made.content.read()]).size_bytes}",))
        self.assertGreater(len(made.content.read()), len(_GREETINGS))
        self.assertIn(0, _plan(f"SIZE {len(_GREETINGS)}", content=_GREETINGS).refused)


class EightBit(SynchronousTestCase):
    def test_with_8bitmime_it_goes_out_as_it_is_and_says_so(self) -> None:
        made = _plan("8BITMIME", content=_GREETINGS)
        self.assertEqual((made.content.read(), made.mail_parameters), (_GREETINGS, ("BODY=8BITMIME",)))

    def test_without_8bitmime_it_is_re_encoded(self) -> None:
        made = _plan(content=_GREETINGS)
        self.assertTrue(made.content.read().isascii())
        self.assertEqual((made.mail_parameters, made.refused), ((), {}))

    def test_without_8bitmime_what_may_not_be_re_encoded_fails_with_5_6_3_for_everybody(self) -> None:
        made = _plan(content=_SIGNED)
        self.assertTrue(made.refused[0].startswith("5.6.3 "))

    def test_7bit_content_says_nothing(self) -> None:
        self.assertEqual(_plan("8BITMIME").mail_parameters, ())

    def test_after_helo_nothing_is_offered(self) -> None:
        self.assertEqual(_plan().mail_parameters, ())


class LongLines(SynchronousTestCase):
    def test_a_line_of_998_octets_goes_out_as_it_is_and_one_of_999_is_re_encoded(self) -> None:
        content = _HELLO + b"x" * 998 + b"\r\n"
        self.assertIs(_plan(content=content).content.read(), content)
        longer = _plan("8BITMIME", content=_HELLO + b"x" * 999 + b"\r\n").content.read()
        self.assertFalse(survey([longer]).has_long_lines)

    def test_where_a_signature_does_not_allow_it_they_are_sent_as_they_are(self) -> None:
        content = b'Content-Type: multipart/signed; boundary="b"\r\n\r\n--b\r\n\r\n' + b"x" * 999 + b"\r\n--b--\r\n"
        self.assertEqual(_plan(content=content).content.read(), content)


class Binary(SynchronousTestCase):
    """NUL, or 8bit lines of any length (RFC 3030 §3)."""

    def test_where_it_is_offered_binary_content_goes_out_with_bdat_and_nothing_of_it_is_mended(self) -> None:
        for content in (b"Subject: x\r\n\r\n\0\r.\n", b"Subject: x\r\n\r\n" + b"\xff" * 1_000):
            made = _plan("BINARYMIME", "SIZE", content=content, chunking=True)
            self.assertEqual(made.mail_parameters, (f"SIZE={len(content)}", "BODY=BINARYMIME"))
            self.assertEqual(made.octets(double_dots=False), content)
            self.assertEqual(made.chunk_octets, len(content))

    def test_other_content_and_data_do_not_need_it(self) -> None:
        self.assertEqual(
            _plan("BINARYMIME", "8BITMIME", content=_GREETINGS, chunking=True).mail_parameters, ("BODY=8BITMIME",)
        )
        made = _plan("BINARYMIME", "8BITMIME", content=b"Subject: x\r\n\r\n" + b"\xff" * 1_000)
        self.assertFalse(made.is_binary)
        self.assertFalse(made.content.survey.is_8bit)

    def test_what_bdat_announces_is_what_goes_out(self) -> None:
        made = _plan(content=b"Subject: x\n\n.\none\rtwo", chunking=True)
        self.assertEqual(made.octets(double_dots=False), b"Subject: x\r\n\r\n.\r\none\r\ntwo\r\n")
        self.assertEqual(made.chunk_octets, len(made.octets(double_dots=False)))


class UTF8(SynchronousTestCase):
    def test_a_non_ascii_local_part_without_smtputf8_fails_with_5_6_7_and_the_others_go_on(self) -> None:
        made = _plan(to=("a@b.example", "ä@b.example", "c@d.example"))
        self.assertEqual({index: reason[:6] for index, reason in made.refused.items()}, {1: "5.6.7 "})
        self.assertEqual(made.content.read(), _HELLO)

    def test_a_sender_who_needs_it_fails_everybody(self) -> None:
        self.assertEqual(set(_plan(sender="jürgen@example.org", to=("a@b.example", "c@d.example")).refused), {0, 1})

    def test_it_is_asked_for_where_an_address_needs_it_and_only_there(self) -> None:
        for sender, to, parameters in (
            ("joe@example.org", "a@b.example", ()),
            ("joe@example.org", "ä@b.example", ("SMTPUTF8",)),
            ("jürgen@example.org", "a@b.example", ("SMTPUTF8",)),
            ("", "ä@b.example", ("SMTPUTF8",)),
            ("joe@bücher.example", "a@bücher.example", ()),
        ):
            self.assertEqual(_plan("SMTPUTF8", sender=sender, to=(to,)).mail_parameters, parameters)

    def test_a_non_ascii_domain_alone_needs_nothing(self) -> None:
        self.assertEqual(_plan(sender="joe@bücher.example", to=("a@bücher.example",)).refused, {})

    def test_all_parameters_stand_together(self) -> None:
        self.assertEqual(
            _plan("SIZE 1000", "8BITMIME", "SMTPUTF8", content=_GREETINGS, to=("ä@b.example",)).mail_parameters,
            (f"SIZE={len(_GREETINGS)}", "BODY=8BITMIME", "SMTPUTF8"),
        )


class Notifications(SynchronousTestCase):
    _ENVELOPE = Envelope(
        "joe@example.org",
        ["a@b.example", Recipient("c@d.example", notify="SUCCESS"), Recipient("e@f.example", orcpt="g@f.example")],
        ret="HDRS",
        envid="QQ314159",
    )

    def test_where_dsn_is_offered_each_recipient_has_its_own_parameters(self) -> None:
        made = plan(self._ENVELOPE, Content.of(_HELLO), Extensions({"DSN": ()}))
        self.assertEqual(made.mail_parameters, ("RET=HDRS", "ENVID=QQ314159"))
        self.assertEqual(made.rcpt_parameters, {1: ("NOTIFY=SUCCESS",), 2: ("ORCPT=rfc822;g@f.example",)})
        self.assertEqual(made.dropped, frozenset())

    def test_where_it_is_not_the_message_goes_without_and_the_plan_says_so(self) -> None:
        made = plan(self._ENVELOPE, Content.of(_HELLO), Extensions())
        self.assertEqual((made.mail_parameters, made.rcpt_parameters, made.refused), ((), {}, {}))
        self.assertEqual(made.dropped, {"DSN"})

    def test_one_recipients_wish_is_enough_for_the_plan_to_say_so(self) -> None:
        wishes = Envelope("", ["a@b.example", Recipient("c@d.example", notify="NEVER")])
        self.assertEqual(plan(wishes, Content.of(_HELLO), Extensions()).dropped, {"DSN"})
        self.assertEqual(_plan().dropped, frozenset())


class RequireTLS(SynchronousTestCase):
    _ENVELOPE = Envelope("joe@example.org", ["a@b.example", "ä@b.example"], requiretls=True)
    _VERIFIED = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", verified=True, problem="")
    _UNVERIFIED = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", verified=False, problem="self-signed certificate")
    _OFFERED = Extensions({"REQUIRETLS": (), "SMTPUTF8": ()})

    def test_it_is_asked_for_where_it_is_offered_over_tls_that_verified(self) -> None:
        made = plan(self._ENVELOPE, Content.of(_HELLO), self._OFFERED, tls=self._VERIFIED)
        self.assertEqual((made.mail_parameters, made.refused), (("SMTPUTF8", "REQUIRETLS"), {}))
        self.assertFalse(made.next_host)

    def test_everywhere_else_everybody_fails_with_5_7_30_unless_another_host_will_do(self) -> None:
        for offers, tls in (
            (self._OFFERED, None),
            (self._OFFERED, self._UNVERIFIED),
            (Extensions({"SMTPUTF8": ()}), self._VERIFIED),
        ):
            made = plan(self._ENVELOPE, Content.of(_HELLO), offers, tls=tls)
            self.assertEqual([reason[:7] for reason in made.refused.values()], ["5.7.30 "] * 2)
            self.assertEqual(made.next_host, True)

    def test_who_has_a_reason_of_their_own_keeps_it(self) -> None:
        made = plan(self._ENVELOPE, Content.of(_HELLO), Extensions())
        self.assertEqual({index: reason[:6] for index, reason in made.refused.items()}, {0: "5.7.30", 1: "5.6.7 "})
