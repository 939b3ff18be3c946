"""
Envelopes: made whole or refused.
"""

from __future__ import annotations

from attrs.exceptions import FrozenInstanceError
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.address import Mailbox
from pymail_tx.core.envelope import Envelope, Recipient, orcpt_value
from pymail_tx.core.errors import BadArgument, Misuse


class EnvelopeTests(SynchronousTestCase):
    def test_strings_become_recipients_in_their_order(self) -> None:
        bob = Recipient("bob@example.org")
        envelope = Envelope("alice@example.org", ["carol@example.org", bob, "carol@example.org"])
        self.assertEqual(envelope.recipients, (Recipient("carol@example.org"), bob, Recipient("carol@example.org")))

    def test_any_iterable_of_recipients_will_do(self) -> None:
        addresses = (f"{name}@example.org" for name in ("a", "b"))
        self.assertEqual(
            [one.address for one in Envelope("", addresses).recipients], ["a@example.org", "b@example.org"]
        )

    def test_the_mailboxes_are_there_parsed(self) -> None:
        envelope = Envelope("alice@bücher.example", ["postmaster"])
        self.assertEqual(envelope.reverse_path, Mailbox("alice", "xn--bcher-kva.example"))
        self.assertEqual(envelope.recipients[0].mailbox, Mailbox("postmaster", ""))

    def test_an_empty_sender_is_the_null_reverse_path(self) -> None:
        self.assertIsNone(Envelope("", ["bob@example.org"]).reverse_path)

    def test_one_string_is_no_list_of_recipients(self) -> None:
        with self.assertRaisesRegex(BadArgument, "^recipients: a list"):
            Envelope("alice@example.org", "bob@example.org")

    def test_no_recipient_at_all_is_refused(self) -> None:
        with self.assertRaisesRegex(BadArgument, "^recipients: at least one"):
            Envelope("alice@example.org", [])

    def test_an_address_that_cannot_go_out_is_refused_by_name(self) -> None:
        for bad in ("a\r\nb@example.org", "a@b> SIZE=1", "<a@example.org>", "<>", "nobody", " "):
            with self.assertRaisesRegex(BadArgument, "^sender: "):
                Envelope(bad, ["bob@example.org"])
            with self.assertRaisesRegex(BadArgument, "^recipient: "):
                Envelope("alice@example.org", ["bob@example.org", bad])
        with self.assertRaisesRegex(BadArgument, "^recipient: "):
            Envelope("alice@example.org", [""])

    def test_a_refusal_is_misuse_and_a_value_error(self) -> None:
        self.assertTrue(issubclass(BadArgument, Misuse) and issubclass(Misuse, ValueError))

    def test_it_needs_smtputf8_if_one_local_part_does(self) -> None:
        for sender, recipient, needs in (
            ("alice@bücher.example", "bob@bücher.example", False),
            ("", "bob@example.org", False),
            ("älice@example.org", "bob@example.org", True),
            ("alice@example.org", "böb@example.org", True),
            ("", "böb@example.org", True),
        ):
            self.assertEqual(Envelope(sender, ["carol@example.org", recipient]).needs_smtputf8, needs)

    def test_it_needs_smtputf8_if_its_header_is_said_to(self) -> None:
        self.assertTrue(Envelope("", ["bob@example.org"], smtputf8=True).needs_smtputf8)

    def test_envelopes_are_values(self) -> None:
        one, other = (Envelope("alice@example.org", ["bob@example.org"]) for _ in range(2))
        self.assertEqual(one, other)
        self.assertEqual(hash(one), hash(other))
        with self.assertRaises(FrozenInstanceError):
            one.sender = "mallory@example.org"  # type: ignore[misc]  # that it is refused is the point


class WhatTheSenderWantsToHear(SynchronousTestCase):
    def test_notify_may_be_a_collection_or_a_string_in_any_case_and_order(self) -> None:
        for given_as in ("delay,success", " Success , DELAY ", ["DELAY", "SUCCESS"], {"success", "delay"}):
            self.assertEqual(Recipient("bob@example.org", notify=given_as).notify, ("SUCCESS", "DELAY"))
        self.assertEqual(Recipient("bob@example.org", notify="never").notify, ("NEVER",))
        self.assertIsNone(Recipient("bob@example.org").notify)

    def test_never_stands_alone_and_other_words_are_refused(self) -> None:
        for bad in ("NEVER,FAILURE", ["NEVER", "DELAY"], "", [], "ALWAYS", "SUCCESS,", "SUCCESS\r\n", "FAILURE X=1"):
            with self.assertRaisesRegex(BadArgument, "^notify: ", msg=repr(bad)):
                Recipient("bob@example.org", notify=bad)

    def test_an_original_recipient_gets_its_type(self) -> None:
        for given_as, typed in (
            ("rob@example.org", "rfc822;rob@example.org"),
            ("rfc822;rob@example.org", "rfc822;rob@example.org"),
            ("röb@example.org", "utf-8;röb@example.org"),
            ("UTF-8;rob@example.org", "UTF-8;rob@example.org"),
            ("x400;/C=DE/S=Rob", "x400;/C=DE/S=Rob"),
            ('"rob;x"@example.org', 'rfc822;"rob;x"@example.org'),
        ):
            self.assertEqual(Recipient("bob@example.org", orcpt=given_as).orcpt, typed)

    def test_an_original_recipient_that_cannot_go_out_is_refused(self) -> None:
        for bad in ("", "rfc822;", "utf-8; ", "rfc822;röb@example.org", "rob\r\n@example.org", "rob\0", "rob\x7f"):
            with self.assertRaisesRegex(BadArgument, "^orcpt: ", msg=repr(bad)):
                Recipient("bob@example.org", orcpt=bad)

    def test_an_original_recipient_of_500_octets_encoded_may_be_and_one_more_not(self) -> None:
        for one, limit in (("a", 493), ("+", 164), ("utf-8;ä", 82)):
            address = one.removeprefix("utf-8;") * limit
            prefix = one.removesuffix(one[-1])
            kept = Recipient("bob@example.org", orcpt=prefix + address)
            assert kept.orcpt
            self.assertLessEqual(len(orcpt_value(kept.orcpt)), 500)
            with self.assertRaisesRegex(BadArgument, "^orcpt: longer than 500 octets"):
                Recipient("bob@example.org", orcpt=prefix + address + one[-1])

    def test_an_envelope_identifier_is_printable_ascii_of_100_octets_encoded(self) -> None:
        for envid in ("a" * 100, "a b", "=" * 33, "x+1"):
            self.assertEqual(Envelope("", ["bob@example.org"], envid=envid).envid, envid)
        for bad in ("", "a" * 101, "=" * 34, "ä", "a\nb", "a\rb", "a\0", "\x1b", "\x7f", "a\tb"):
            with self.assertRaisesRegex(BadArgument, "^envid: ", msg=repr(bad)):
                Envelope("", ["bob@example.org"], envid=bad)

    def test_what_comes_back_is_the_whole_message_or_its_header(self) -> None:
        for ret in ("FULL", "HDRS", None):
            self.assertEqual(Envelope("", ["bob@example.org"], ret=ret).ret, ret)
        for bad in ("", "full", "BODY", "FULL ENVID=1", "HDRS\r\n"):
            with self.assertRaisesRegex(BadArgument, "^ret: ", msg=repr(bad)):
                Envelope("", ["bob@example.org"], ret=bad)

    def test_wishes_are_part_of_the_value_and_given_by_name(self) -> None:
        self.assertEqual(
            Recipient("bob@example.org", notify="SUCCESS", orcpt="b@example.org"),
            Recipient("bob@example.org", notify=["success"], orcpt="rfc822;b@example.org"),
        )
        self.assertNotEqual(Envelope("", ["a@b.example"]), Envelope("", ["a@b.example"], requiretls=True))
        with self.assertRaises(TypeError):
            Recipient("bob@example.org", "SUCCESS")  # type: ignore[call-arg]  # that it is refused is the point
