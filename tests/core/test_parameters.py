"""
The parameters of MAIL and RCPT: said where they are offered, and what becomes of the message where they are not.
"""

from __future__ import annotations

from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.command import Verb, path_command
from pymail_tx.core.content import Content
from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.parameters import (
    CONTENT_PARAMETERS,
    ENVELOPE_PARAMETERS,
    NOTHING,
    RCPT_PARAMETERS,
    Body,
    Outgoing,
    Parameter,
    Said,
    Unmet,
    said,
)

_NOTHING_OFFERED = Extensions()
_ROWS: tuple[Parameter[Outgoing] | Parameter[Envelope] | Parameter[Recipient], ...] = (
    *CONTENT_PARAMETERS, *ENVELOPE_PARAMETERS, *RCPT_PARAMETERS,
)  # fmt: skip
_EVERYTHING = Extensions({row.extension: () for row in _ROWS})
_BOB = Recipient("bob@example.org")


def _without(extension: str) -> Extensions:
    return Extensions({keyword: () for keyword in _EVERYTHING.keywords if keyword != extension})


class OfTheContent(SynchronousTestCase):
    def _said(self, body: Body, offers: Extensions) -> Said:
        return said(CONTENT_PARAMETERS, Outgoing(Content.of(b""), 5, body), offers)

    def test_the_size_is_said_where_it_is_offered_and_7bit_data_says_nothing_else(self) -> None:
        self.assertEqual(self._said(Body.SEVEN_BIT, _EVERYTHING), Said(parameters=("SIZE=5",)))
        self.assertEqual(self._said(Body.SEVEN_BIT, _NOTHING_OFFERED), NOTHING)

    def test_other_data_says_what_it_is_or_fails_with_5_6_3(self) -> None:
        for body, extension in ((Body.EIGHT_BIT, "8BITMIME"), (Body.BINARY, "BINARYMIME")):
            offered = self._said(body, _EVERYTHING)
            self.assertEqual(offered, Said(parameters=("SIZE=5", f"BODY={extension}")))
            self.assertTrue(self._said(body, _without(extension)).refused.startswith("5.6.3 "))


@frozen
class _Case:
    """
    What an envelope makes of one row.

    @ivar written: where everything is offered.
    @ivar unmet: where all but this extension is; the enhanced status code of a refusal.
    """

    envelope: Envelope
    extension: str
    written: str
    unmet: Said


_DROPPED = Said(dropped=frozenset({"DSN"}))

_CASES = (
    _Case(Envelope("änn@example.net", [_BOB]), "SMTPUTF8", "SMTPUTF8", Said(refused="5.6.7")),
    _Case(Envelope("", [_BOB], smtputf8=True), "SMTPUTF8", "SMTPUTF8", Said(refused="5.6.7")),
    _Case(Envelope("", [_BOB, "böb@example.org"]), "SMTPUTF8", "SMTPUTF8", NOTHING),
    _Case(Envelope("", [_BOB], ret="HDRS"), "DSN", "RET=HDRS", _DROPPED),
    _Case(Envelope("", [_BOB], ret="FULL"), "DSN", "RET=FULL", _DROPPED),
    _Case(Envelope("", [_BOB], envid="a b=1"), "DSN", "ENVID=a+20b+3D1", _DROPPED),
    _Case(Envelope("", [_BOB], requiretls=True), "REQUIRETLS", "REQUIRETLS", Said(refused="5.7.30", next_host=True)),
)


class OfTheEnvelope(SynchronousTestCase):
    def _said(self, envelope: Envelope, offers: Extensions, *, tls_verified: bool = True) -> Said:
        return said(ENVELOPE_PARAMETERS, envelope, offers, tls_verified=tls_verified)

    def test_a_plain_one_says_nothing_in_any_row_and_its_recipients_neither(self) -> None:
        for sender in ("", "ann@example.net", "ann@bücher.example"):
            envelope = Envelope(sender, [_BOB, "cat@bücher.example"])
            self.assertTrue(envelope.is_plain)
            for offers in (_EVERYTHING, _NOTHING_OFFERED):
                self.assertIs(self._said(envelope, offers), NOTHING)
                for recipient in envelope.recipients:
                    self.assertIs(said(RCPT_PARAMETERS, recipient, offers), NOTHING)

    def test_each_parameter_is_said_where_its_extension_is_offered(self) -> None:
        for case in _CASES:
            self.assertFalse(case.envelope.is_plain)
            self.assertEqual(self._said(case.envelope, _EVERYTHING), Said(parameters=(case.written,)))

    def test_each_does_as_its_row_says_where_its_extension_is_not_offered(self) -> None:
        for case in _CASES:
            made = self._said(case.envelope, _without(case.extension))
            self.assertEqual(evolve(made, refused=made.refused[:6].strip()), case.unmet)

    def test_requiretls_offered_without_a_verified_certificate_is_not_enough(self) -> None:
        made = self._said(Envelope("", [_BOB], requiretls=True), _EVERYTHING, tls_verified=False)
        self.assertTrue(made.refused.startswith("5.7.30 "))
        self.assertTrue(made.next_host)


class OfARecipient(SynchronousTestCase):
    def _said(self, recipient: Recipient, offers: Extensions = _EVERYTHING) -> Said:
        self.assertFalse(recipient.is_plain)
        return said(RCPT_PARAMETERS, recipient, offers)

    def test_notify_and_orcpt_are_said_where_dsn_is_offered(self) -> None:
        for recipient, written in (
            (Recipient("bob@example.org", notify="NEVER"), "NOTIFY=NEVER"),
            (Recipient("bob@example.org", notify={"DELAY", "SUCCESS"}), "NOTIFY=SUCCESS,DELAY"),
            (Recipient("bob@example.org", orcpt="rob+x@example.org"), "ORCPT=rfc822;rob+2Bx@example.org"),
            (Recipient("bob@example.org", orcpt="röb@example.org"), r"ORCPT=utf-8;r\x{F6}b@example.org"),
        ):
            self.assertEqual(self._said(recipient), Said(parameters=(written,)))

    def test_where_it_is_not_offered_they_are_left_out_and_that_is_said(self) -> None:
        recipient = Recipient("bob@example.org", notify="SUCCESS", orcpt="rob@example.org")
        self.assertEqual(self._said(recipient, _without("DSN")), Said(dropped=frozenset({"DSN"})))

    def test_an_address_that_needs_smtputf8_fails_without_it_and_puts_nothing_on_the_wire_with_it(self) -> None:
        recipient = Recipient("böb@example.org")
        self.assertTrue(self._said(recipient, _without("SMTPUTF8")).refused.startswith("5.6.7 "))
        self.assertEqual(self._said(recipient).parameters, ())


class TheTable(SynchronousTestCase):
    def test_a_row_has_a_reason_exactly_if_it_can_fail(self) -> None:
        for row in _ROWS:
            self.assertEqual(bool(row.reason), row.unmet in (Unmet.FAIL, Unmet.NEXT_HOST), row)

    @given(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30),
        st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=30),
    )
    def test_whatever_an_envelope_may_hold_is_one_parameter(self, envid: str, address: str) -> None:
        recipient = Recipient("bob@example.org", orcpt=f"utf-8;x{address}")
        mail = said(ENVELOPE_PARAMETERS, Envelope("", [recipient], envid=envid), _EVERYTHING)
        rcpt = said(RCPT_PARAMETERS, recipient, _EVERYTHING)
        self.assertEqual(path_command(Verb.MAIL, b"", mail.parameters).count(b" "), 2)
        self.assertEqual(path_command(Verb.RCPT, b"bob@example.org", rcpt.parameters).count(b" "), 2)
