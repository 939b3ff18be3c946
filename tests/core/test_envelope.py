"""
Envelopes: made whole or refused.
"""

from __future__ import annotations

from attrs.exceptions import FrozenInstanceError
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.address import Mailbox
from pymail_tx.core.envelope import Envelope, Recipient
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

    def test_envelopes_are_values(self) -> None:
        one, other = (Envelope("alice@example.org", ["bob@example.org"]) for _ in range(2))
        self.assertEqual(one, other)
        self.assertEqual(hash(one), hash(other))
        with self.assertRaises(FrozenInstanceError):
            one.sender = "mallory@example.org"  # type: ignore[misc]  # that it is refused is the point
